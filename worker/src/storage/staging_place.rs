//! Where the staging area of a target is: beside the target, in the folder of `--staging`, or in
//! the target.
//!
//! torchvision's and timm's folder loaders take each folder in the target for a class, so the area
//! is in the target only where it can be nowhere else: a class is published by a rename, which
//! stays within one mounted file system.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Name of an area that is in its target; former versions had no other.
const IN_TARGET: &str = ".partial";
/// Longest name of a folder, in bytes, on the common file systems.
const NAME_MAX: usize = 255;

/// Why the area cannot be beside the target.
#[derive(Debug)]
pub(crate) enum NotBeside {
    /// The target is the root of a file system, or of a mount.
    MountRoot,
    /// The parent is in another part of the same mount, between which nothing can be renamed (a
    /// subvolume, a project quota).
    CannotRename,
    /// No folder can be made in the parent.
    ParentRefuses(io::Error),
}

impl fmt::Display for NotBeside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MountRoot => formatter.write_str("the target is the root of a mounted file system"),
            Self::CannotRename => {
                formatter.write_str("nothing can be renamed from the target's parent into the target")
            }
            Self::ParentRefuses(error) => write!(formatter, "the target's parent cannot be written ({error})"),
        }
    }
}

/// The area in the target itself.
pub(crate) fn in_target(root: &Path) -> PathBuf {
    root.join(IN_TARGET)
}

/// `.<name of the target>.partial` beside the target, whose path has no links in it.
pub(crate) fn beside(root: &Path) -> Result<PathBuf, NotBeside> {
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else { return Err(NotBeside::MountRoot) };
    if !are_on_one_mount(parent, root) {
        return Err(NotBeside::MountRoot);
    }
    let name = area_name([OsStr::new("."), name, OsStr::new(IN_TARGET)], name.as_bytes());
    Ok(parent.join(name))
}

/// The area in a folder that may serve several targets: the path of the target is part of its name.
pub(crate) fn in_folder(folder: &Path, root: &Path) -> PathBuf {
    let path = root.as_os_str().as_bytes();
    let name = root.file_name().unwrap_or_default();
    let digest = format!(".{:.16}", blake3::hash(path).to_hex());
    folder.join(area_name([OsStr::new("."), name, OsStr::new(&digest), OsStr::new(IN_TARGET)], path))
}

/// The folder for what is moved out of the way of a class: beside the area, named like it. `None`
/// where the area is in the target.
pub(crate) fn set_aside(area: &Path, root: &Path) -> Option<PathBuf> {
    (area.parent() != Some(root)).then(|| area.with_extension("set-aside"))
}

/// The parts as one name, or a digest in place of a name that is too long.
fn area_name<const PARTS: usize>(parts: [&OsStr; PARTS], identity: &[u8]) -> OsString {
    let name: OsString = parts.into_iter().collect();
    if name.len() <= NAME_MAX { name } else { format!(".{:.32}{IN_TARGET}", blake3::hash(identity).to_hex()).into() }
}

/// The folder that a path names, without links, whether or not it exists already.
pub(crate) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for existing in absolute.ancestors() {
        let Ok(found) = existing.canonicalize() else { continue };
        let missing = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
        // `missing/..` would have to be made before it leads anywhere.
        if missing.components().any(|part| part == Component::ParentDir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        return Ok(if missing.as_os_str().is_empty() { found } else { found.join(missing) });
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Whether two folders are reached through one mount. rename(2) compares the mounts before it looks
/// for the names, also where both show the same file system, whose device numbers are equal then.
pub(crate) fn are_on_one_mount(one: &Path, other: &Path) -> bool {
    let missing = format!(".{:016x}", rand::random::<u64>());
    let renamed = fs::rename(one.join(&missing), other.join(&missing));
    !renamed.is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_named_for_its_target_and_fits_into_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        assert_eq!(beside(&root.join("images")).unwrap(), root.join(".images.partial"));
        for length in [1, 245, 246, 247, 255] {
            let (one, other) = ("n".repeat(length), "n".repeat(length - 1) + "x");
            let areas = [one, other].map(|name| beside(&root.join(name)).unwrap());
            assert_ne!(areas[0], areas[1]);
            for area in areas {
                fs::create_dir(&area).unwrap();
            }
        }
        assert!(matches!(beside(Path::new("/")), Err(NotBeside::MountRoot)));
        let target = root.join("images");
        assert_eq!(set_aside(&beside(&target).unwrap(), &target), Some(root.join(".images.set-aside")));
        assert_eq!(set_aside(&in_target(&target), &target), None);
    }

    #[test]
    fn one_folder_serves_targets_of_one_name() {
        let (one, other) = (Path::new("/a/images"), Path::new("/b/images"));
        assert_ne!(in_folder(Path::new("/s"), one), in_folder(Path::new("/s"), other));
        assert_eq!(in_folder(Path::new("/s"), one), in_folder(Path::new("/s"), one));
        let long = PathBuf::from("/a").join("n".repeat(255));
        assert!(in_folder(Path::new("/s"), &long).file_name().unwrap().len() < NAME_MAX);
    }

    #[test]
    fn a_path_is_resolved_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("target")).unwrap();
        std::os::unix::fs::symlink(root.join("target"), root.join("link")).unwrap();
        assert_eq!(resolved(&root.join("link/new/deep")).unwrap(), root.join("target/new/deep"));
        assert_eq!(resolved(&root.join("link/../other")).unwrap(), root.join("other"));
        assert!(resolved(&root.join("new/../target/x")).is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }
}

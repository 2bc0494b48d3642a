//! The location of a target's staging area: beside the target, in the folder of `--staging`, or in
//! the target.
//!
//! The folder loaders of torchvision and timm treat each folder in the target as a class, so the
//! area is in the target only if no other location works: a class is published by a rename, which
//! must stay within one mounted file system.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use crate::storage::file_tree::nonce;

/// Name of an area in its target. Earlier versions had no other location.
const IN_TARGET: &str = ".partial";
/// Longest name of a folder in bytes on common file systems.
const NAME_MAX: usize = 255;

/// Why the area cannot be beside the target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotBeside {
    /// The target is the root of a file system, or of a mount.
    #[error("the target is the root of a mounted file system")]
    MountRoot,
    /// The parent is in another part of the same mount, and a rename between the two fails (a
    /// subvolume, a project quota).
    #[error("nothing can be renamed from the target's parent into the target")]
    CannotRename,
    /// No folder can be created in the parent.
    #[error("the target's parent cannot be written ({0})")]
    ParentRefuses(io::Error),
}

/// The path of an area in the target itself.
pub(crate) fn in_target(root: &Path) -> PathBuf {
    root.join(IN_TARGET)
}

/// The path of an area beside the target: `.<name of the target>.partial`. `root` must not contain
/// links.
pub(crate) fn beside(root: &Path) -> Result<PathBuf, NotBeside> {
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(NotBeside::MountRoot);
    };
    if !are_on_one_mount(parent, root) {
        return Err(NotBeside::MountRoot);
    }
    Ok(parent.join(area_name(name, "", name.as_bytes())))
}

/// The path of an area in a folder that may serve several targets. The name contains a digest of
/// the target's path.
pub(crate) fn in_folder(folder: &Path, root: &Path) -> PathBuf {
    let path = root.as_os_str().as_bytes();
    let name = root.file_name().unwrap_or_default();
    let digest = format!(".{:.16}", blake3::hash(path).to_hex());
    folder.join(area_name(name, &digest, path))
}

/// The folder for files that are set aside when a class is published: beside the area, with a
/// similar name. `None` if the area is in the target.
pub(crate) fn set_aside(area: &Path, root: &Path) -> Option<PathBuf> {
    (area.parent() != Some(root)).then(|| area.with_extension("set-aside"))
}

/// The name of the area of a target with this name; a digest of `identity` replaces a name that is
/// too long.
fn area_name(target: &OsStr, suffix: &str, identity: &[u8]) -> OsString {
    let mut name = OsString::from(".");
    name.push(target);
    name.push(suffix);
    name.push(IN_TARGET);
    if name.len() <= NAME_MAX {
        name
    } else {
        format!(".{:.32}{IN_TARGET}", blake3::hash(identity).to_hex()).into()
    }
}

/// The absolute path without links of a folder that may not exist yet.
pub(crate) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut ancestors = absolute.ancestors();
    let resolved = ancestors.find_map(|path| Some((path, path.canonicalize().ok()?)));
    let (existing, found) = resolved.ok_or(io::ErrorKind::NotFound)?;
    let missing = absolute
        .strip_prefix(existing)
        .expect("it is an ancestor of the path");
    // `missing/..` cannot be resolved before `missing` is created.
    if missing
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(found.components().chain(missing.components()).collect())
}

/// Whether two folders are in one mount. rename(2) compares the mounts before it looks up the
/// names. Device numbers do not suffice: two mounts of one file system have the same.
pub(crate) fn are_on_one_mount(one: &Path, other: &Path) -> bool {
    let missing = format!(".{}", nonce());
    let renamed = fs::rename(one.join(&missing), other.join(&missing));
    !renamed.is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_area_is_unique_for_its_target_and_not_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        assert_eq!(
            beside(&root.join("images")).unwrap(),
            root.join(".images.partial")
        );
        for length in [1, 245, 246, 247, 255] {
            let one = "n".repeat(length);
            let other = "n".repeat(length - 1) + "x";
            let areas = [one, other].map(|name| beside(&root.join(name)).unwrap());
            assert_ne!(areas[0], areas[1]);
            for area in areas {
                fs::create_dir(&area).unwrap();
            }
        }
        assert!(matches!(beside(Path::new("/")), Err(NotBeside::MountRoot)));
        let target = root.join("images");
        assert_eq!(
            set_aside(&beside(&target).unwrap(), &target),
            Some(root.join(".images.set-aside"))
        );
        assert_eq!(set_aside(&in_target(&target), &target), None);
    }

    #[test]
    fn one_folder_serves_several_targets_of_the_same_name() {
        let one = Path::new("/a/images");
        let other = Path::new("/b/images");
        assert_ne!(
            in_folder(Path::new("/s"), one),
            in_folder(Path::new("/s"), other)
        );
        assert_eq!(
            in_folder(Path::new("/s"), one),
            in_folder(Path::new("/s"), one)
        );
        let long = PathBuf::from("/a").join("n".repeat(255));
        assert!(in_folder(Path::new("/s"), &long).file_name().unwrap().len() < NAME_MAX);
    }

    #[test]
    fn a_path_is_resolved_before_any_folder_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("target")).unwrap();
        std::os::unix::fs::symlink(root.join("target"), root.join("link")).unwrap();
        assert_eq!(
            resolved(&root.join("link/new/deep")).unwrap(),
            root.join("target/new/deep")
        );
        assert_eq!(
            resolved(&root.join("link/../other")).unwrap(),
            root.join("other")
        );
        assert!(resolved(&root.join("new/../target/x")).is_err());
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }
}

//! Keeps a user's files that are in the place of a class or its tar: they are renamed before the
//! class is published, and never removed.

use std::{
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    iter,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use shared::{
    Wnid,
    own_file::{check_folder, open_folder},
};

use crate::storage::{
    comparison::{Comparison, is_content_file},
    file_tree::{move_entry, remove_if_there},
    manifest::{self, MANIFEST, MARKED},
    target::Target,
};

/// Mode of the folder for kept files and of the folders in it.
const MODE: u32 = 0o700;
/// Number of names that are tried before the attempt fails.
const NAMES: u32 = 10_000;

/// Moves the entries of a class folder that its manifest does not list to a folder of their own
/// beside the target. Without a valid manifest these are the entries whose names the new folder
/// does not have. Returns that folder and their number; `None` if there are none.
///
/// # Errors
/// [`NoPlace`] inside if no folder beside the target can be used; otherwise the error of the file
/// system.
pub(crate) fn unlisted(
    target: &Target,
    wnid: Wnid,
    old: &Path,
    new: &Path,
) -> io::Result<Option<(PathBuf, u64)>> {
    let [current, marked] = [MANIFEST, MARKED].map(|name| old.join(name));
    let is_current = manifest::open(&current, wnid)?.is_some();
    let is_valid = is_current || manifest::open(&marked, wnid)?.is_some();
    let comparison = Comparison {
        folder: old,
        manifest: if is_current { &current } else { &marked },
        wnid,
    };
    let fits = |name: &OsStr| {
        is_of_the_user(name) && (is_valid || new.join(name).symlink_metadata().is_err())
    };
    let mut moved = None;
    for name in comparison.not_listed(fits)? {
        let name = name?;
        let (folder, count) = match &mut moved {
            Some(place) => place,
            None => moved.insert((new_folder(target, wnid)?, 0)),
        };
        *count += 1;
        remove_if_there(move_entry(&old.join(&name), &folder.join(&name)))?;
    }
    if let Some((folder, _)) = &moved {
        // Moved before the folder that contained them is removed.
        for folder in folder.ancestors().take(2) {
            open_folder(folder)?.sync_all()?;
        }
    }
    Ok(moved)
}

/// Renames a tar that is under the class's final name to the first free name of `<wnid>.tar.1`,
/// `<wnid>.tar.2` and so on; `None` if there is no tar or it is empty.
pub(crate) fn tar(target: &Target, wnid: Wnid) -> io::Result<Option<PathBuf>> {
    let path = target.tar(wnid);
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(found) if found.len() > 0 => {}
        found => return found.map(|_| None),
    }
    for number in 1..NAMES {
        let free = target.root().join(format!("{wnid}.tar.{number}"));
        if free.symlink_metadata().is_err() {
            fs::rename(&path, &free)?;
            return Ok(Some(free));
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// There is no folder beside the target for entries that a manifest does not list.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoPlace(String);

/// Whether an entry may be a user's: it is neither one of our manifests nor a file that tools
/// create in each folder.
fn is_of_the_user(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    let is_hidden = bytes.starts_with(b".");
    let of_tools = [&b".DS_Store"[..], b".directory"].contains(&bytes)
        || [&b"._"[..], b".nfs", MANIFEST.as_bytes(), MARKED.as_bytes()]
            .iter()
            .any(|begin| bytes.starts_with(begin));
    if is_hidden {
        !of_tools
    } else {
        is_content_file(name)
    }
}

/// The folder beside the target for kept files. It may not exist yet.
pub(crate) fn place(target: &Target) -> Result<PathBuf, NoPlace> {
    let place = target.set_aside().ok_or_else(|| {
        NoPlace("staging is in the target, so there is no folder beside it for them".to_owned())
    })?;
    let is_writable = |parent| access(parent, Access::WRITE_OK).is_ok();
    match check_folder(&place) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(NoPlace(format!(
            "{} cannot be used ({error})",
            place.display()
        ))),
        Err(_) if !place.parent().is_none_or(is_writable) => Err(NoPlace(format!(
            "{} cannot be made, because its parent is not writable",
            place.display()
        ))),
        _ => Ok(place),
    }
}

/// Whether a class folder has entries of users that its valid manifest does not list.
pub(crate) fn has_unlisted(folder: &Path, wnid: Wnid) -> io::Result<bool> {
    let manifest = folder.join(MANIFEST);
    let comparison = Comparison {
        folder,
        manifest: &manifest,
        wnid,
    };
    Ok(manifest::open(&manifest, wnid)?.is_some()
        && comparison
            .not_listed(is_of_the_user)?
            .next()
            .transpose()?
            .is_some())
}

fn new_folder(target: &Target, wnid: Wnid) -> io::Result<PathBuf> {
    let make = |path: &Path| fs::DirBuilder::new().mode(MODE).create(path);
    let parent = place(target).map_err(io::Error::other)?;
    if let Err(error) = make(&parent)
        && error.kind() != ErrorKind::AlreadyExists
    {
        let why = format!("{} cannot be made ({error})", parent.display());
        return Err(io::Error::other(NoPlace(why)));
    }
    // Another user may have created it in the meantime.
    place(target).map_err(io::Error::other)?;
    let numbered = (1..NAMES).map(|number| format!("{wnid}.{number}"));
    for name in iter::once(wnid.to_string()).chain(numbered) {
        let folder = parent.join(name);
        match make(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return created.map(|()| folder),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_tools_create_in_each_folder_are_not_the_users() {
        for name in [
            ".DS_Store",
            "._a.JPEG",
            "Thumbs.db",
            ".manifest.json",
            ".manifest.json.new",
            ".nfs0001",
        ] {
            assert!(!is_of_the_user(name.as_ref()), "{name}");
        }
        for name in ["notes.txt", ".notes", "a.JPEG", "folder"] {
            assert!(is_of_the_user(name.as_ref()), "{name}");
        }
    }

    #[test]
    fn a_tar_gets_the_first_free_name_and_no_file_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let wnid = "n00000001".parse().unwrap();
        for content in ["one", "two", ""] {
            fs::write(target.tar(wnid), content).unwrap();
            tar(&target, wnid).unwrap();
        }
        let kept = [1, 2].map(|number| {
            fs::read_to_string(target.root().join(format!("n00000001.tar.{number}")))
        });
        assert_eq!(kept.map(Result::unwrap), ["one", "two"]);
        assert!(!target.root().join("n00000001.tar.3").exists());
    }
}

//! What a user has put where a class or its tar is published: it is moved to another name before
//! the class takes its place, and never removed.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    ops::ControlFlow,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use shared::{
    Wnid,
    own_file::{check_folder, open_folder},
};

use crate::storage::{
    comparison::{Comparison, counts},
    file_tree::{move_folder, remove_if_there},
    manifest::{self, MANIFEST, MARKED},
    target::Target,
};

/// Mode of the folder and of those in it.
const MODE: u32 = 0o700;
/// Names that are tried before the attempt fails.
const NAMES: u32 = 10_000;

/// Moves the entries of a class folder that its manifest does not list to a folder of their own
/// beside the target. Without a valid manifest these are the names that the new folder does not
/// have. Gives that folder and their number; `None` where there are no such entries.
///
/// # Errors
/// [`NoPlace`] inside, where no folder beside the target can be used; else as the file system says.
pub(crate) fn unlisted(target: &Target, wnid: Wnid, old: &Path, new: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    let [current, marked] = [MANIFEST, MARKED].map(|name| old.join(name));
    let manifest = if manifest::read(old, wnid)?.is_some() { current } else { marked };
    let is_valid = manifest::open(&manifest, wnid)?.is_some();
    let comparison = Comparison { folder: old.to_owned(), manifest, wnid };
    let fits = |name: &OsString| is_of_the_user(name) && (is_valid || new.join(name).symlink_metadata().is_err());
    let mut moved: Option<(PathBuf, u64)> = None;
    let ended = comparison.not_listed(fits, |name| {
        let place = match &mut moved {
            Some(place) => Ok(place),
            None => new_folder(target, wnid).map(|folder| moved.insert((folder, 0))),
        };
        let kept = place.and_then(|(folder, count)| {
            *count += 1;
            move_entry(&old.join(name), &folder.join(name))
        });
        kept.map_or_else(ControlFlow::Break, ControlFlow::Continue)
    })?;
    if let ControlFlow::Break(error) = ended {
        return Err(error);
    }
    if let Some((folder, _)) = &moved {
        // Before the folder that they were in is removed.
        open_folder(folder)?.sync_all()?;
        if let Some(parent) = folder.parent() {
            open_folder(parent)?.sync_all()?;
        }
    }
    Ok(moved)
}

/// Gives a tar that stands under the class's name the first free name `<wnid>.tar.1`,
/// `<wnid>.tar.2` and so on; `None` where there is none, or an empty one.
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

/// There is no folder beside the target for what is not in a manifest.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NoPlace {
    why: String,
}

/// Whether a user may miss an entry: anything but our manifests and what tools leave in each folder.
fn is_of_the_user(name: &OsString) -> bool {
    let bytes = name.as_encoded_bytes();
    let is_hidden = bytes.starts_with(b".");
    let of_tools = [&b".DS_Store"[..], b".directory"].contains(&bytes)
        || [&b"._"[..], b".nfs", MANIFEST.as_bytes(), MARKED.as_bytes()].iter().any(|begin| bytes.starts_with(begin));
    if is_hidden { !of_tools } else { counts(bytes) }
}

/// The folder beside the target in which they are kept. It need not be there yet.
pub(crate) fn place(target: &Target) -> Result<PathBuf, NoPlace> {
    let Some(place) = target.set_aside() else {
        return Err(NoPlace { why: "staging is in the target, so there is no folder beside it for them".to_owned() });
    };
    match check_folder(&place) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(NoPlace { why: format!("{} cannot be used ({error})", place.display()) })
        }
        Err(_) if place.parent().is_some_and(|parent| access(parent, Access::WRITE_OK).is_err()) => {
            Err(NoPlace { why: format!("{} cannot be made, because its parent is not writable", place.display()) })
        }
        _ => Ok(place),
    }
}

/// Whether a class folder has entries of users that its valid manifest does not list.
pub(crate) fn has_unlisted(folder: &Path, wnid: Wnid) -> io::Result<bool> {
    let manifest = folder.join(MANIFEST);
    if manifest::open(&manifest, wnid)?.is_none() {
        return Ok(false);
    }
    let comparison = Comparison { folder: folder.to_owned(), manifest, wnid };
    Ok(comparison.not_listed(is_of_the_user, |_| ControlFlow::Break(()))?.is_break())
}

fn new_folder(target: &Target, wnid: Wnid) -> io::Result<PathBuf> {
    let make = |path: &Path| fs::DirBuilder::new().mode(MODE).create(path);
    let parent = place(target).map_err(io::Error::other)?;
    match make(&parent) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            let why = format!("{} cannot be made ({error})", parent.display());
            return Err(io::Error::other(NoPlace { why }));
        }
        Ok(()) => {}
    }
    // Another user may have made it in between.
    place(target).map_err(io::Error::other)?;
    for number in 0..NAMES {
        let name = if number == 0 { wnid.to_string() } else { format!("{wnid}.{number}") };
        match make(&parent.join(&name)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return created.map(|()| parent.join(name)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn move_entry(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => remove_if_there(move_folder(from, to)),
        renamed => remove_if_there(renamed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_leave_in_each_folder_is_not_of_the_user() {
        for name in [".DS_Store", "._a.JPEG", "Thumbs.db", ".manifest.json", ".manifest.json.new", ".nfs0001"] {
            assert!(!is_of_the_user(&name.into()), "{name}");
        }
        for name in ["notes.txt", ".notes", "a.JPEG", "folder"] {
            assert!(is_of_the_user(&name.into()), "{name}");
        }
    }

    #[test]
    fn a_tar_gets_the_first_free_name_and_nothing_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let wnid = "n00000001".parse().unwrap();
        for content in ["one", "two", ""] {
            fs::write(target.tar(wnid), content).unwrap();
            tar(&target, wnid).unwrap();
        }
        let kept = [1, 2].map(|number| fs::read_to_string(target.root().join(format!("n00000001.tar.{number}"))));
        assert_eq!(kept.map(Result::unwrap), ["one", "two"]);
        assert!(!target.root().join("n00000001.tar.3").exists());
    }
}

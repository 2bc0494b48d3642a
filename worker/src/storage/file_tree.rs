//! Moves and removes whole folders on file systems where one call is not enough: an overlay cannot
//! rename a folder of its lower layer, and an NFS client renames removed files that are still open
//! to `.nfs…`.

use std::{
    ffi::CStr,
    fs,
    io::{self, ErrorKind},
    os::fd::AsFd,
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat},
    io::Errno,
    path::Arg,
};
use shared::listing::list;

/// Number of attempts to remove a folder before its remains are left to the next process.
pub(crate) const ATTEMPTS: u32 = 3;
/// Delay between two attempts. An NFS client removes an open file some time after it is closed.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Whether the name, or the folder that contained it, no longer exists. An NFS client reports
/// `ESTALE` for a folder that another client has removed.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
    )
}

/// Whether a folder could not be removed because it is not empty or, on NFS, contains an open file.
pub(crate) fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy
    )
}

/// `None` if the file or folder is gone.
pub(crate) fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_gone(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Turns the error of a removal into success if the file or folder is already gone.
pub(crate) fn remove_if_there(removed: io::Result<()>) -> io::Result<()> {
    if_there(removed).map(drop)
}

/// A random part of a name that no other process has given.
pub(crate) fn nonce() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Removes a folder with its content, even if another process removes it at the same time or adds a
/// file to it.
pub(crate) fn remove_tree(folder: &Path) -> io::Result<()> {
    let mut retries = 1..ATTEMPTS;
    loop {
        match remove_folder(CWD, folder) {
            Err(error) if is_busy(&error) && retries.next().is_some() => thread::sleep(RETRY_DELAY),
            removed => return removed,
        }
    }
}

/// Removes a folder recursively without following links. The standard library's function panics if
/// `closedir` fails.
fn remove_folder(parent: impl AsFd + Copy, name: impl Arg + Copy) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return remove_name(parent, name, AtFlags::empty()),
        Err(error) => return remove_if_there(Err(error.into())),
        Ok(opened) => opened,
    };
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        match entry.file_type() {
            _ if name == c"." || name == c".." => {}
            FileType::Directory | FileType::Unknown => remove_folder(opened.as_fd(), name)?,
            _ => remove_name(opened.as_fd(), name, AtFlags::empty())?,
        }
    }
    remove_name(parent, name, AtFlags::REMOVEDIR)
}

fn remove_name(parent: impl AsFd, name: impl Arg, flags: AtFlags) -> io::Result<()> {
    remove_if_there(unlinkat(parent, name, flags).map_err(io::Error::from))
}

/// Renames a file or a folder to a name that is not in use. If the file system cannot rename a
/// folder (`EXDEV`: the lower layer of an overlay), creates a new one and moves the content file by
/// file.
pub(crate) fn move_entry(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {}
        renamed => return renamed,
    }
    fs::create_dir(to)?;
    for entry in list(from)? {
        let entry = entry?;
        let to = to.join(entry.name());
        if entry.is_folder()? {
            move_entry(entry.path(), &to)?;
        } else {
            fs::rename(entry.path(), to)?;
        }
    }
    remove_if_there(fs::remove_dir(from))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn removing_a_folder_removes_its_content_and_no_link_target() {
        let folder = tempfile::tempdir().unwrap();
        let [tree, precious] = ["tree", "precious"].map(|name| folder.path().join(name));
        fs::create_dir_all(tree.join("one/two/three")).unwrap();
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "").unwrap();
        for number in 0..1000 {
            fs::write(tree.join("one").join(number.to_string()), "").unwrap();
        }
        symlink(&precious, tree.join("one/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && precious.join("file").exists());
        remove_tree(&tree).expect("a folder that is gone counts as removed");
        symlink(&precious, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(tree.symlink_metadata().is_err() && precious.join("file").exists());
    }
}

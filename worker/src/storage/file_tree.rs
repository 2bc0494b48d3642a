//! Moving and removing whole folders on the file systems where one call is not enough: an overlay
//! cannot rename a folder of its lower layer, and a network disk keeps removed files that are open
//! as `.nfs…` names.

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

/// Removals of one folder before its remains are left to the next process.
pub(crate) const ATTEMPTS: u32 = 3;
/// Between two removals. An NFS client removes a file that was open some time after it is closed.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Whether the name, or the folder that it was in, does not exist any more. `ESTALE` is how an NFS
/// client says it of a folder that another client has removed.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle)
}

/// Whether a folder could not be removed because something is in it, or is open on an NFS.
pub(crate) fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy)
}

/// A removal of what is gone already has succeeded.
pub(crate) fn remove_if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if is_gone(&error) => Ok(()),
        removed => removed,
    }
}

/// Removes a folder with all that is in it, also while another process removes it too or puts a
/// file into it.
pub(crate) fn remove_tree(folder: &Path) -> io::Result<()> {
    for _ in 1..ATTEMPTS {
        match remove_folder(CWD, folder) {
            Err(error) if is_busy(&error) => thread::sleep(RETRY_DELAY),
            removed => return removed,
        }
    }
    remove_folder(CWD, folder)
}

/// The standard library's panics when `closedir` fails. No link is followed.
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

/// Renames a folder to a name that is free. Where the file system refuses to rename this folder
/// (`EXDEV`: the lower layer of an overlay), a new folder gets the name and then the contents, file
/// by file.
pub(crate) fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {}
        renamed => return renamed,
    }
    fs::create_dir(to)?;
    for entry in list(from)? {
        let entry = entry?;
        let to = to.join(entry.name());
        if entry.is_folder()? { move_folder(entry.path(), &to)? } else { fs::rename(entry.path(), to)? }
    }
    remove_if_there(fs::remove_dir(from))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_goes_with_all_that_is_in_it_and_nothing_to_which_a_link_leads() {
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
        remove_tree(&tree).expect("what is gone is removed");
        symlink(&precious, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(tree.symlink_metadata().is_err() && precious.join("file").exists());
    }
}

//! Moving and removing whole folders on the file systems where one call is not enough: an overlay
//! cannot rename a folder of its lower layer, and a network disk keeps removed files that are open
//! as `.nfs…` names.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
    thread,
    time::Duration,
};

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
        match remove_if_there(fs::remove_dir_all(folder)) {
            Err(error) if is_busy(&error) => thread::sleep(RETRY_DELAY),
            removed => return removed,
        }
    }
    remove_if_there(fs::remove_dir_all(folder))
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
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { move_folder(&entry.path(), &to)? } else { fs::rename(entry.path(), to)? }
    }
    remove_if_there(fs::remove_dir(from))
}

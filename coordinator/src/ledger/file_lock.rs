//! The lock that keeps a second coordinator out, and what else the file system can do for `SQLite`.
//!
//! Invariant: while a [`FileLock`] lives, no other coordinator opens the same ledger, neither on this host nor on another
//! one that mounts the same file system, as far as the file system has locks.
//!
//! The lock is on one byte of the page that the format of `SQLite` keeps free for locks, after the bytes that `SQLite` locks
//! itself. A lock on the whole file (`flock`) does not work on NFS: the client sends it to the server as a lock of all
//! bytes, and the server then refuses the locks of `SQLite` in the same process. The lock belongs to the open file and not
//! to the process, so it does not end when `SQLite` closes another descriptor of the file. The kernel releases it when the
//! process ends, also by SIGKILL.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

use shared::own_file::{self, Access};

/// Mode of a new ledger, of which the umask takes away. `SQLite` gives its other files the same.
pub(super) const MODE: u32 = 0o640;

/// How `SQLite` can use the file, which depends on its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The file system is local: other programs can read while the coordinator writes. The index of the write-ahead log is
    /// in a file that all of them map into memory.
    Readers,
    /// The file system may be a network's, where processes on two hosts share no memory. The index is in the memory of this
    /// process, and `SQLite` holds its exclusive lock as long as the ledger is open.
    Alone,
    /// The file system has no locks; `SQLite` must not ask for any.
    Unlocked,
}

/// A lock on the ledger's file.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    pub(super) sharing: Sharing,
}

/// The lock was not taken.
#[derive(Debug)]
pub(super) enum NotLocked {
    /// Another process has it.
    Busy,
    /// The file cannot be opened, made or locked, although its file system has locks.
    File(io::Error),
}

impl FileLock {
    /// Makes the file if it is missing, and locks it. Where the file system has no locks it says so in the log.
    pub(super) fn take(path: &Path) -> Result<Self, NotLocked> {
        let mode = own_file::mode_in_folder_of(path, MODE).map_err(NotLocked::File)?;
        let file = own_file::open_or_create(path, Access::Append, mode).map_err(NotLocked::File)?;
        let sharing = match lock(&file) {
            Ok(()) if has_local_file_system(&file) => Sharing::Readers,
            Ok(()) => {
                tracing::info!(
                    "the ledger is on a network file system, or on one that this program does not know: no other \
                     program can read it before this one ends"
                );
                Sharing::Alone
            }
            Err(TryLockError::WouldBlock) => return Err(NotLocked::Busy),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                tracing::warn!(
                    "the ledger cannot be locked ({error}): make sure that no other program uses {}",
                    path.display()
                );
                Sharing::Unlocked
            }
            Err(TryLockError::Error(error)) => return Err(NotLocked::File(error)),
        };
        Ok(Self { file, sharing })
    }

    /// Takes rights from other users that a ledger of a former version may give them.
    pub(super) fn restrict(&self, path: &Path) -> io::Result<()> {
        own_file::restrict(&self.file, own_file::mode_in_folder_of(path, MODE)?)
    }
}

/// What a file system without locks answers: Lustre says that there is no such call, NFS 3 without its lock service that it
/// has no locks left.
fn has_no_locks(error: &io::Error) -> bool {
    let no_locks_left = error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error());
    no_locks_left || error.kind() == io::ErrorKind::Unsupported
}

#[cfg(target_os = "linux")]
fn lock(file: &File) -> Result<(), TryLockError> {
    use nix::{
        errno::Errno,
        fcntl::{FcntlArg, fcntl},
        libc,
    };

    /// `SQLite` locks up to 512 bytes from 1 GiB on, and has no data in the page that begins there.
    const BYTE: libc::off_t = (1 << 30) + 512;

    #[expect(clippy::cast_possible_truncation, reason = "the fields are shorter than the constants' type")]
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: BYTE,
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte)) {
        Ok(_) => Ok(()),
        // A signal while an NFS client waited for its server.
        Err(Errno::EINTR) => lock(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(TryLockError::WouldBlock),
        Err(errno) => Err(TryLockError::Error(errno.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// Whether the file is on a file system of this host alone. One that is not in the list counts as a network's, with which
/// everything works but readers.
#[cfg(target_os = "linux")]
fn has_local_file_system(file: &File) -> bool {
    /// `statfs` calls them so: ext2 to ext4, XFS, Btrfs, ZFS, F2FS, bcachefs, tmpfs, overlay.
    const LOCAL: [u32; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e, 0x0102_1994, 0x794c_7630];
    let kind = rustix::fs::fstatfs(file).ok().and_then(|found| u32::try_from(found.f_type).ok());
    kind.is_some_and(|kind| LOCAL.contains(&kind))
}

#[cfg(not(target_os = "linux"))]
fn has_local_file_system(_: &File) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_the_lock_until_it_closes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let first = FileLock::take(&path).unwrap();
        assert_eq!(first.sharing, Sharing::Readers, "temporary files are local");
        assert!(matches!(FileLock::take(&path), Err(NotLocked::Busy)));
        drop(File::open(&path).unwrap());
        assert!(matches!(FileLock::take(&path), Err(NotLocked::Busy)), "another descriptor was closed");
        drop(first);
        assert!(FileLock::take(&path).is_ok());
    }

    /// An NFS client sends `flock` to the server as a lock of all bytes: the two must not overlap.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_lock_leaves_all_bytes_to_sqlite_that_it_locks_itself() {
        use nix::{
            fcntl::{FcntlArg, fcntl},
            libc,
        };

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let _first = FileLock::take(&path).unwrap();
        let other = File::options().write(true).open(&path).unwrap();
        let locked = |first_byte, bytes| {
            #[expect(clippy::cast_possible_truncation, reason = "the fields are shorter than the constants' type")]
            let (l_type, l_whence) = (libc::F_WRLCK as libc::c_short, libc::SEEK_SET as libc::c_short);
            let range = libc::flock { l_type, l_whence, l_start: first_byte, l_len: bytes, l_pid: 0 };
            fcntl(&other, FcntlArg::F_OFD_SETLK(&range)).is_ok()
        };
        assert!(locked(0, 0x4000_0000 + 2 + 510), "data, and the bytes of SQLite's locks");
        assert!(!locked(0, 0), "all bytes, as flock on NFS");
    }

    #[test]
    fn a_file_system_without_locks_is_told_from_one_that_fails() {
        use rustix::io::Errno;

        for (errno, expected) in [
            (Errno::NOLCK, true),
            (Errno::NOSYS, true),
            (Errno::OPNOTSUPP, true),
            (Errno::IO, false),
            (Errno::STALE, false),
        ] {
            assert_eq!(has_no_locks(&errno.into()), expected, "{errno}");
        }
    }
}

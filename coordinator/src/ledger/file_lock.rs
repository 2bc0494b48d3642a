//! The lock that excludes a second coordinator, and the features of the file system that `SQLite`
//! can use.
//!
//! Invariant: while a [`FileLock`] exists, no other coordinator opens the same ledger, neither on
//! this host nor on another one that mounts the same file system, as far as the file system
//! supports locks.
//!
//! The lock covers one byte of the page that `SQLite`'s file format reserves for locks, after the
//! bytes that `SQLite` locks itself. A lock on the whole file (`flock`) does not work on NFS: the
//! client sends it to the server as a lock of all bytes, and the server then rejects `SQLite`'s
//! locks in the same process. The lock belongs to the open file and not to the process, so it does
//! not end when `SQLite` closes another descriptor of the file. The kernel releases it when the
//! process ends, also after SIGKILL.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
};

use shared::own_file::{self, Access};

/// Mode of a new ledger, before the umask. `SQLite` creates its other files with the same mode.
pub(super) const MODE: u32 = 0o640;

/// How `SQLite` can use the file; it depends on the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The file system is local: other programs can read while the coordinator writes. The index of
    /// the write-ahead log is in a file that all processes map into memory.
    Readers,
    /// The file system may be a network file system, where processes on two hosts share no memory.
    /// The index is in this process's memory, and `SQLite` holds its exclusive lock as long as the
    /// ledger is open.
    Alone,
    /// The file system has no locks; `SQLite` must not request any.
    Unlocked,
}

/// A lock on the ledger's file.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    pub(super) sharing: Sharing,
}

impl FileLock {
    /// Creates the file if it is missing, and locks it. Logs a warning if the file system has no
    /// locks.
    pub(super) fn take(path: &Path) -> Result<Self, TryLockError> {
        let file = own_file::mode_in_folder_of(path, MODE)
            .and_then(|mode| own_file::open_or_create(path, Access::Append, mode))
            .map_err(TryLockError::Error)?;
        let sharing = match lock(&file) {
            Ok(()) if has_local_file_system(&file) => Sharing::Readers,
            Ok(()) => {
                tracing::info!(
                    "the ledger is on a network file system, or on one that this program does not know: no other \
                     program can read it before this one ends"
                );
                Sharing::Alone
            }
            Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                tracing::warn!(
                    "the ledger cannot be locked ({error}): make sure that no other program uses {}",
                    path.display()
                );
                Sharing::Unlocked
            }
            Err(error) => return Err(error),
        };
        Ok(Self { file, sharing })
    }

    /// Removes permissions of other users that a ledger of an earlier version may have.
    pub(super) fn restrict(&self, path: &Path) -> io::Result<()> {
        own_file::restrict(&self.file, own_file::mode_in_folder_of(path, MODE)?)
    }
}

/// The errors of a file system without locks: Lustre returns `ENOSYS`, NFS 3 without its lock
/// service returns `ENOLCK`.
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

    /// `SQLite` locks up to 512 bytes from 1 GiB on, and stores no data in the page that begins
    /// there.
    const BYTE: libc::off_t = (1 << 30) + 512;

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fields are shorter than the constants' type"
    )]
    let byte = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: BYTE,
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte)) {
        Ok(_) => Ok(()),
        // A signal arrived while an NFS client waited for its server.
        Err(Errno::EINTR) => lock(file),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(TryLockError::WouldBlock),
        Err(errno) => Err(TryLockError::Error(errno.into())),
    }
}

#[cfg(not(target_os = "linux"))]
fn lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// Whether the file is on a file system of this host only. A file system that is not in the list
/// counts as a network file system, which only excludes readers.
#[cfg(target_os = "linux")]
fn has_local_file_system(file: &File) -> bool {
    /// `statfs` types of ext2 to ext4, XFS, Btrfs, ZFS, F2FS, bcachefs, tmpfs and overlay.
    const LOCAL: [u32; 8] = [
        0xef53,
        0x5846_5342,
        0x9123_683e,
        0x2fc1_2fc1,
        0xf2f5_2010,
        0xca45_1a4e,
        0x0102_1994,
        0x794c_7630,
    ];
    let kind = rustix::fs::fstatfs(file)
        .ok()
        .and_then(|found| u32::try_from(found.f_type).ok());
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
    fn the_lock_is_held_until_the_file_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let first = FileLock::take(&path).unwrap();
        assert_eq!(
            first.sharing,
            Sharing::Readers,
            "temporary folders are on a local file system"
        );
        assert!(matches!(
            FileLock::take(&path),
            Err(TryLockError::WouldBlock)
        ));
        drop(File::open(&path).unwrap());
        assert!(
            matches!(FileLock::take(&path), Err(TryLockError::WouldBlock)),
            "closing another descriptor does not release the lock"
        );
        drop(first);
        assert!(FileLock::take(&path).is_ok());
    }

    /// An NFS client sends `flock` to the server as a lock of all bytes, so the two locks must not
    /// overlap.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_lock_does_not_overlap_the_bytes_that_sqlite_locks() {
        use nix::{
            fcntl::{FcntlArg, fcntl},
            libc,
        };

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let _first = FileLock::take(&path).unwrap();
        let other = File::options().write(true).open(&path).unwrap();
        let locked = |first_byte, bytes| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the fields are shorter than the constants' type"
            )]
            let l_type = libc::F_WRLCK as libc::c_short;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the fields are shorter than the constants' type"
            )]
            let l_whence = libc::SEEK_SET as libc::c_short;
            let range = libc::flock {
                l_type,
                l_whence,
                l_start: first_byte,
                l_len: bytes,
                l_pid: 0,
            };
            fcntl(&other, FcntlArg::F_OFD_SETLK(&range)).is_ok()
        };
        assert!(
            locked(0, 0x4000_0000 + 2 + 510),
            "the bytes of data and of SQLite's locks are free"
        );
        assert!(
            !locked(0, 0),
            "a lock of all bytes, as flock on NFS takes it, conflicts"
        );
    }

    #[test]
    fn a_file_system_without_locks_is_distinguished_from_a_failing_one() {
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

//! A name in an open folder, so that all checks of a file refer to the same folder.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStringExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RawMode, fcntl_getfl, fcntl_setfl, openat,
        readlinkat, renameat, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::{Access, PROBE, check_alone};
use crate::ownership::{NotOurs, Ownership, is_shared};

/// Permissions of the group to read and write.
const GROUP: u32 = 0o060;
/// Number of attempts to open or create a file that other processes create and remove at the same
/// time.
const ATTEMPTS: u32 = 5;

/// Flags to open a folder whose entries are opened by name; it need not be readable.
#[cfg(target_os = "linux")]
const HOLDS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const HOLDS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A name in an open folder.
pub(super) struct FolderEntry<'path> {
    folder: File,
    name: &'path OsStr,
}

impl<'path> FolderEntry<'path> {
    pub(super) fn of(path: &'path Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = openat(CWD, parent.unwrap_or(Path::new(".")), HOLDS, Mode::empty())?;
        Ok(Self {
            folder: folder.into(),
            name,
        })
    }

    /// Opens a regular file.
    pub(super) fn open(&self, access: Access) -> io::Result<File> {
        let flags = flags(access) | OFlags::NOFOLLOW;
        let file = match openat(&self.folder, self.name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => {
                let owner = self.link()?.ok_or(Errno::LOOP)?;
                return Err(NotOurs::Link { owner }.into());
            }
            // The file is a pipe without a reader, or a socket.
            Err(Errno::NXIO) => return Err(NotOurs::NotAFile.into()),
            Err(error) => return Err(error.into()),
        };
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        if !kind.is_file() {
            return Err(NotOurs::NotAFile.into());
        }
        Ok(file)
    }

    /// Opens a regular file that this program has made.
    pub(super) fn open_ours(&self, access: Access) -> io::Result<File> {
        let file = self.open(access)?;
        self.check_owner(&file.metadata()?)?;
        Ok(file)
    }

    pub(super) fn open_or_create(&self, access: Access, mode: RawMode) -> io::Result<File> {
        for _ in 0..ATTEMPTS {
            match self.open_ours(access) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => {
                    let file = opened?;
                    check_alone(&file)?;
                    return Ok(file);
                }
            }
            match self.create(self.name, access, mode) {
                Err(Errno::EXIST) => {}
                created => return Ok(created?),
            }
        }
        Err(ErrorKind::ResourceBusy.into())
    }

    /// Opens a log, and creates it for writing if it is missing. A link is followed if it is ours.
    pub(super) fn open_log(&self, access: Access, mode: RawMode) -> io::Result<File> {
        let is_read = access == Access::Read;
        let link = match self.link() {
            Err(error) if error.kind() == ErrorKind::NotFound && !is_read => None,
            found => found?,
        };
        if link.is_none() {
            return if is_read {
                self.open(access)
            } else {
                self.open_or_create(access, mode)
            };
        }
        let mut flags = flags(access);
        flags.set(OFlags::CREATE, !is_read);
        let mode = Mode::from_raw_mode(mode);
        let file = File::from(openat(&self.folder, self.followed()?, flags, mode)?);
        let kind = file.metadata()?.file_type();
        if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        }
        Ok(file)
    }

    /// A mode, with the permissions of the group if the group shares the folder.
    pub(super) fn mode(&self, mode: RawMode) -> io::Result<RawMode> {
        let is_shared = is_shared(&self.folder.metadata()?);
        Ok(if is_shared { mode | GROUP } else { mode })
    }

    pub(super) fn check_owner(&self, found: &Metadata) -> io::Result<()> {
        let ownership = Ownership::within(&self.folder.metadata()?);
        ownership
            .check(found)
            .or_else(|refused| match self.user_here() {
                Ok(user) if ownership.shown_as(user).accepts(found) => Ok(()),
                _ => Err(refused.into()),
            })
    }

    /// The owner that the folder's file system shows for files of this process.
    pub(super) fn user_here(&self) -> io::Result<u32> {
        let (name, probe) = self.create_temporary(0o600)?;
        let found = probe.metadata();
        match self.remove_temporary(&name) {
            // Another process has removed it because it took it for a file of a killed process.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(found?.uid()),
        }
    }

    fn create(&self, name: &OsStr, access: Access, mode: RawMode) -> rustix::io::Result<File> {
        let create = flags(access) | OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL;
        openat(&self.folder, name, create, Mode::from_raw_mode(mode)).map(File::from)
    }

    /// Creates a file in the folder under a new unique name.
    pub(super) fn create_temporary(&self, mode: RawMode) -> io::Result<(String, File)> {
        let name = format!("{PROBE}{:016x}", RandomState::new().build_hasher().finish());
        let file = self.create(name.as_ref(), Access::Write, mode)?;
        Ok((name, file))
    }

    /// Gives a temporary file the name of this entry, in the place of what has it.
    pub(super) fn take_over(&self, temporary: &str) -> io::Result<()> {
        Ok(renameat(&self.folder, temporary, &self.folder, self.name)?)
    }

    pub(super) fn remove_temporary(&self, temporary: &str) -> io::Result<()> {
        Ok(unlinkat(&self.folder, temporary, AtFlags::empty())?)
    }

    /// The owner of the link under the name, if there is one.
    fn link(&self) -> io::Result<Option<u32>> {
        let found = statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_link = FileType::from_raw_mode(found.st_mode).is_symlink();
        Ok(is_link.then_some(found.st_uid))
    }

    /// The destination of the link under the name, if the link is ours.
    fn followed(&self) -> io::Result<PathBuf> {
        // The owner, and what changes if another link takes the name meanwhile.
        let look = || {
            let found = statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW)?;
            let inode = (found.st_dev, found.st_ino);
            io::Result::Ok((found.st_uid, inode, (found.st_ctime, found.st_ctime_nsec)))
        };
        let before = look()?;
        let leads = readlinkat(&self.folder, self.name, Vec::new())?;
        let (owner, ..) = before;
        let is_ours = [geteuid().as_raw(), self.folder.metadata()?.uid()].contains(&owner);
        if !is_ours || look()? != before {
            return Err(NotOurs::Link { owner }.into());
        }
        Ok(OsString::from_vec(leads.into_bytes()).into())
    }
}

/// Non-blocking, because opening a pipe can wait forever. It has no effect on a regular file.
fn flags(access: Access) -> OFlags {
    let how = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::ReadWrite => OFlags::RDWR,
        Access::Append => OFlags::WRONLY | OFlags::APPEND,
    };
    how | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

//! The staging area: the folder in which the classes of one target are assembled before they are
//! published.
//!
//! Each process that uses the area holds a lock on its own lock file in it. The last process to
//! finish removes the folder. A process that finds the folder gone recreates it with its lock file.
//!
//! Invariant: only this process's user, or the group with which that user shares the target
//! (`area_access`), can write to an area that is used. So its content was written by this program.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use shared::{
    Wnid,
    listing::{Entry, list},
    lock::lock,
    own_file::{self, Access, open_folder},
};

use crate::storage::{
    area_access::{self, AreaAccess},
    file_tree::{
        ATTEMPTS, RETRY_DELAY, if_there, is_busy, is_gone, move_entry, nonce, remove_if_there,
        remove_tree,
    },
};

/// Name of the journal in the staging folder of a class.
pub(crate) const JOURNAL: &str = "journal";
/// Prefix of the names of the lock files.
const LOCK: &str = "in-use.";

/// Names, up to the first dot, of temporary files and folders of a process, and of folders of
/// former versions.
const TRIALS: [&str; 3] = ["probe", "renamed", "storage"];

/// An area that this process uses.
#[derive(Debug)]
pub(crate) struct StagingArea {
    path: PathBuf,
    /// The group that shares the target, if there is one.
    group: Option<u32>,
    lock: Mutex<Option<LockFile>>,
}

impl Drop for StagingArea {
    /// Applies if the target could not be opened or the program failed: removes all traces, except
    /// files from which another process could continue.
    fn drop(&mut self) {
        if !self.is_left()
            && let Err(cause) = self.withdraw()
        {
            tracing::info!(folder = %self.path.display(), %cause, "a folder that is of no use stays");
        }
    }
}

/// A lock file: its lock shows other processes that this one is running.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    file: File,
    access: AreaAccess,
}

impl StagingArea {
    /// Enters an area. Its folder is created if it is missing; its parent must exist. `group`: the
    /// group that shares the target.
    pub(crate) fn enter(path: PathBuf, group: Option<u32>) -> io::Result<Self> {
        let area = Self {
            path,
            group,
            lock: Mutex::new(None),
        };
        area.restore()?;
        Ok(area)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder and this process's lock file if they are missing.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let mut own = lock(&self.lock);
        if own.as_ref().is_some_and(|own| own.path.exists()) {
            return Ok(());
        }
        // A process that finishes may remove the folder between any two of these steps.
        let mut retries = 1..ATTEMPTS;
        loop {
            match self.make_and_lock() {
                Err(error) if is_gone(&error) && retries.next().is_some() => {}
                created => {
                    *own = Some(created?);
                    return Ok(());
                }
            }
        }
    }

    fn make_and_lock(&self) -> io::Result<LockFile> {
        area_access::make(&self.path, self.group)?;
        LockFile::create(&self.path, self.group)
    }

    /// Returns an error unless this program made another area, for the same users. An entry of
    /// other users with the area's name is neither used nor removed.
    pub(crate) fn check(&self, other: &Path) -> io::Result<()> {
        let folder = open_folder(other)?.metadata()?;
        self.access().check(&folder, self.group)
    }

    /// This process's user, as the file system shows it.
    pub(crate) fn user(&self) -> u32 {
        self.access().user
    }

    fn access(&self) -> AreaAccess {
        lock(&self.lock)
            .as_ref()
            .map_or_else(AreaAccess::default, |lock| lock.access)
    }

    /// Whether all users can rename the area, by the mode of the folder that holds it.
    pub(crate) fn can_be_replaced(&self) -> bool {
        let holder = self.path.parent();
        self.access().keeps_modes && holder.is_some_and(area_access::is_open_to_all)
    }

    /// Whether other processes seem to use the area. A killed process counts too, because not every
    /// file system supports locks.
    pub(crate) fn has_neighbours(&self) -> bool {
        lock_files(&self.path, lock(&self.lock).as_ref()).is_ok_and(|found| !found.is_empty())
    }

    /// Whether another running process uses the area.
    pub(crate) fn is_shared(&self) -> io::Result<bool> {
        is_used(&self.path, lock(&self.lock).as_ref())
    }

    /// Ends this process's use. Its lock file is closed before it is removed: NFS keeps an open
    /// file under another name.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let Some(own) = lock(&self.lock).take() else {
            return Ok(());
        };
        drop(own.file);
        remove_if_there(fs::remove_file(own.path))
    }

    /// Whether this process has left the area.
    pub(crate) fn is_left(&self) -> bool {
        lock(&self.lock).is_none()
    }

    /// Ends this process's use, and removes the area unless a running process uses it, or it
    /// contains something from which another process could continue; returns whether it is gone.
    pub(crate) fn withdraw(&self) -> io::Result<bool> {
        self.leave()?;
        let found = entries(&self.path)?;
        // After the listing: a process takes its lock before it makes anything else, so nothing of
        // a running one is in the list if no lock is held now.
        if self.is_shared()? {
            return Ok(false);
        }
        // Empty staging folders are removed; removing the others fails.
        let is_empty = |entry: &Entry| match purpose_of(entry) {
            Some(Purpose::Lock) => true,
            Some(Purpose::Trial) => remove_entry(entry).is_ok(),
            Some(Purpose::Class) => fs::remove_dir(entry.path()).is_ok(),
            None => false,
        };
        Ok(found.iter().all(is_empty) && remove(&self.path)?)
    }

    /// Moves what former processes have left in another area of the same target to this area, and
    /// removes the other one. An area that a running process uses stays as it is.
    pub(crate) fn take_over(&self, former: &Path) -> io::Result<()> {
        match self.check(former) {
            Err(error) if is_gone(&error) => return Ok(()),
            checked => checked?,
        }
        if is_used(former, None)? {
            return Ok(());
        }
        for entry in entries(former)? {
            if wnid_of(&entry).is_some() {
                remove_if_there(move_entry(entry.path(), &self.path.join(entry.name())))?;
            }
        }
        remove(former).map(drop)
    }
}

/// Removes what the area has of classes that are done or have no checkpoint, unless it has nothing
/// else. Returns the number of the other classes.
pub(crate) fn remove_classes(area: &Path, is_done: impl Fn(Wnid) -> bool) -> io::Result<usize> {
    let has_checkpoint = |entry: &Entry| {
        let journal = entry.path().join(JOURNAL).symlink_metadata();
        journal.is_ok_and(|journal| journal.len() > 0)
    };
    let (left, removed): (Vec<_>, Vec<_>) = entries(area)?
        .into_iter()
        .filter_map(|entry| Some((wnid_of(&entry)?, entry)))
        .partition(|(wnid, entry)| !is_done(*wnid) && has_checkpoint(entry));
    let left: HashSet<Wnid> = left.into_iter().map(|(wnid, _)| wnid).collect();
    if !left.is_empty() {
        for (_, entry) in removed {
            remove_if_there(remove_entry(&entry)).or_else(ignore_busy)?;
        }
    }
    Ok(left.len())
}

/// Removes an area unless a running process uses it; returns whether it is gone.
///
/// The entries to remove are listed before the locks are requested. So nothing that a process adds
/// later is removed, and its lock file keeps the folder.
pub(crate) fn remove(area: &Path) -> io::Result<bool> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(RETRY_DELAY);
        }
        let mut others = entries(area)?;
        others.retain(|entry| matches!(purpose_of(entry), Some(Purpose::Class | Purpose::Trial)));
        // Listed again: a listing is not atomic, so the first one can have an entry of a process
        // and not the lock file that the process created before.
        for path in lock_files(area, None)? {
            if !remove_if_dead(&path)? {
                return Ok(false);
            }
        }
        for entry in others {
            remove_if_there(remove_entry(&entry)).or_else(ignore_busy)?;
        }
        match remove_if_there(fs::remove_dir(area)) {
            Ok(()) => return Ok(true),
            Err(error) => ignore_busy(error)?,
        }
    }
    Ok(false)
}

/// On a network file system an open file prevents the removal of its folder until it is closed.
fn ignore_busy(error: io::Error) -> io::Result<()> {
    if is_busy(&error) { Ok(()) } else { Err(error) }
}

/// Removes the lock file of a process that has ended, never that of a running process. Returns
/// whether the file is gone.
fn remove_if_dead(path: &Path) -> io::Result<bool> {
    let held = match lock_of(path) {
        Ok(Some(held)) => held,
        Ok(None) => return Ok(true),
        Err(_) => return Ok(false),
    };
    // Held until the file is removed: a process that has just created the file detects that, and
    // creates another one.
    remove_if_there(fs::remove_file(path))?;
    drop(held);
    Ok(true)
}

/// Takes the lock of a lock file; `None` if the file is gone. NFS takes a lock only through a
/// descriptor that is open for writing.
///
/// # Errors
/// The lock is held; a file that cannot be opened or locked counts as held too.
fn lock_of(path: &Path) -> io::Result<Option<File>> {
    let file = if_there(own_file::open(path, Access::ReadWrite))?;
    if let Some(file) = &file {
        file.try_lock()?;
    }
    Ok(file)
}

impl LockFile {
    /// Creates the file open for reading and writing, which NFS requires for a lock.
    ///
    /// Until the file shows that the folder is ours, nothing else is done in the area.
    fn create(area: &Path, group: Option<u32>) -> io::Result<Self> {
        let folder = open_folder(area)?;
        let name = format!("{LOCK}{}", nonce());
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&folder, &*name, flags, Mode::RUSR | Mode::WUSR)?);
        let access = AreaAccess::of(&file.metadata()?);
        if let Err(error) = access.check(&folder.metadata()?, group) {
            unlinkat(&folder, &*name, AtFlags::empty())?;
            return Err(error);
        }
        area_access::share(&file, &folder)?;
        let path = area.join(name);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::NotFound.into()),
            Err(TryLockError::Error(cause)) => {
                tracing::debug!(%cause, "this file system has no locks");
            }
        }
        // Another process may have checked before the lock was taken, and removed the file as that
        // of an ended process.
        fs::metadata(&path)?;
        Ok(Self { path, file, access })
    }
}

/// Whether a running process uses an area, as far as its locks show. `own`: the lock file of this
/// process, which does not count. An area that does not exist is not used.
pub(crate) fn is_used(area: &Path, own: Option<&LockFile>) -> io::Result<bool> {
    let others = lock_files(area, own)?;
    Ok(others.iter().any(|path| lock_of(path).is_err()))
}

/// The lock files in an area, without this process's own.
fn lock_files(area: &Path, own: Option<&LockFile>) -> io::Result<Vec<PathBuf>> {
    let locks = entries(area)?
        .into_iter()
        .filter(|entry| purpose_of(entry) == Some(Purpose::Lock))
        .map(|entry| entry.path().to_owned());
    Ok(locks
        .filter(|path| own.is_none_or(|own| own.path != *path))
        .collect())
}

/// The class to which a staging folder belongs; `None` for everything else.
pub(crate) fn wnid_of(entry: &Entry) -> Option<Wnid> {
    entry.text()?.split_once('.')?.0.parse().ok()
}

/// What an entry of an area is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A lock file: it shows that a process is running.
    Lock,
    /// A staging folder: a class is assembled in it.
    Class,
    /// A temporary file or folder, or one of a former version.
    Trial,
}

/// `None` for an entry that this program has not made; such an entry stays.
fn purpose_of(entry: &Entry) -> Option<Purpose> {
    let name = entry.text()?;
    if name.starts_with(LOCK) {
        return Some(Purpose::Lock);
    }
    if wnid_of(entry).is_some() {
        return Some(Purpose::Class);
    }
    let first = name.split('.').next()?;
    TRIALS.contains(&first).then_some(Purpose::Trial)
}

fn remove_entry(entry: &Entry) -> io::Result<()> {
    if entry.is_folder()? {
        remove_tree(entry.path())
    } else {
        fs::remove_file(entry.path())
    }
}

/// The entries of an area; empty if the area does not exist.
pub(crate) fn entries(area: &Path) -> io::Result<Vec<Entry>> {
    let entries = if_there(list(area))?;
    entries.into_iter().flatten().collect()
}

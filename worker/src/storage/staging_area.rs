//! The staging area: the folder in which the classes of one target are put together before they are
//! published.
//!
//! Each process that uses the area holds a lock on a file of its own in it. The last process to
//! finish removes the folder. A process that finds the folder gone makes it again, lock file and
//! all.
//!
//! Invariant: only this process's user can write to an area that is used, or the group with which
//! that user shares the target (`area_access`). So what is in it was put there by this program.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use shared::{
    Wnid,
    listing::{Entry, list},
    own_file::{self, Access, open_folder},
};

use crate::storage::{
    area_access::{self, AreaAccess, Group},
    file_tree::{ATTEMPTS, RETRY_DELAY, is_busy, is_gone, move_folder, remove_if_there, remove_tree},
};

/// Beginning of the names of the lock files.
const LOCK: &str = "in-use.";

/// Names, up to the first dot, of what a process makes for a moment, and of the folders of former versions.
const TRIALS: [&str; 3] = ["probe", "renamed", "storage"];

/// An area that this process uses.
#[derive(Debug)]
pub(crate) struct StagingArea {
    path: PathBuf,
    /// The group that shares the target.
    group: Option<Group>,
    lock: Mutex<Option<LockFile>>,
}

impl Drop for StagingArea {
    /// Where the target could not be opened after all, or the program failed: without a trace, unless another process could
    /// go on with something.
    fn drop(&mut self) {
        if self.is_left() {
            return;
        }
        if let Err(cause) = self.leave().and_then(|()| self.remove_if_empty()) {
            tracing::info!(folder = %self.path.display(), %cause, "a folder that is of no use stays");
        }
    }
}

/// Tells other processes, by the lock on it, that this one lives.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    file: File,
    access: AreaAccess,
}

impl StagingArea {
    /// Enters an area, whose folder is made if it is missing; its parent must be there. `group`:
    /// the one that shares the target.
    pub(crate) fn enter(path: PathBuf, group: Option<Group>) -> io::Result<Self> {
        let area = Self { path, group, lock: Mutex::new(None) };
        area.restore()?;
        Ok(area)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder and this process's lock file if they are missing.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let mut lock = self.lock();
        if lock.as_ref().is_some_and(|lock| lock.path.exists()) {
            return Ok(());
        }
        // A process that finishes may remove the folder at any of these steps.
        for _ in 1..ATTEMPTS {
            match self.make_and_lock() {
                Err(error) if is_gone(&error) => {}
                created => {
                    *lock = Some(created?);
                    return Ok(());
                }
            }
        }
        *lock = Some(self.make_and_lock()?);
        Ok(())
    }

    fn make_and_lock(&self) -> io::Result<LockFile> {
        area_access::make(&self.path, self.group)?;
        LockFile::create(&self.path, self.group)
    }

    /// An error unless another area was made by this program, for the same users. What other users
    /// have put under its name is neither used nor removed.
    pub(crate) fn check(&self, other: &Path) -> io::Result<()> {
        let folder = open_folder(other)?.metadata()?;
        self.access().check(&folder, self.group)
    }

    /// This process's user, as the file system shows it.
    pub(crate) fn user(&self) -> u32 {
        self.access().user()
    }

    fn access(&self) -> AreaAccess {
        self.lock().as_ref().map_or_else(AreaAccess::default, |lock| lock.access)
    }

    /// Whether all users can rename the area, by the mode of the folder that holds it.
    pub(crate) fn can_be_replaced(&self) -> bool {
        let keeps_modes = self.lock().as_ref().is_some_and(|lock| lock.access.keeps_modes());
        keeps_modes && self.path.parent().is_some_and(area_access::is_open_to_all)
    }

    fn lock(&self) -> MutexGuard<'_, Option<LockFile>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether other processes seem to use the area. A killed process counts too: not every file
    /// system has locks.
    pub(crate) fn has_neighbours(&self) -> bool {
        let lock = self.lock();
        let own = lock.as_ref().map(|lock| lock.path.as_path());
        let found = entries(&self.path).unwrap_or_default();
        found.iter().filter(|entry| is_lock_file(entry)).any(|entry| Some(entry.path()) != own)
    }

    /// Whether a living process other than this one uses the area.
    pub(crate) fn is_shared(&self) -> io::Result<bool> {
        let lock = self.lock();
        is_used_by_others(&self.path, lock.as_ref().map(|lock| lock.path.as_path()))
    }

    /// Ends this process's use. Its lock file is closed before it is removed: NFS keeps an open one
    /// under another name.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let Some(lock) = self.lock().take() else { return Ok(()) };
        drop(lock.file);
        remove_if_there(fs::remove_file(lock.path))
    }

    /// Whether this process has left it.
    pub(crate) fn is_left(&self) -> bool {
        self.lock().is_none()
    }

    /// Removes the area unless a living process uses it; says whether it is gone. For a process
    /// that has left.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        remove(&self.path)
    }

    /// As [`Self::remove`], unless something is in it with which another process could go on.
    pub(crate) fn remove_if_empty(&self) -> io::Result<bool> {
        let found = entries(&self.path)?;
        // Folders in which nothing was begun are removed, the others refuse.
        let is_empty = |entry: &Entry| match purpose_of(entry) {
            Some(Purpose::Lock) => true,
            Some(Purpose::Trial) => remove_entry(entry).is_ok(),
            Some(Purpose::Class) => fs::remove_dir(entry.path()).is_ok(),
            None => false,
        };
        if found.iter().all(is_empty) { self.remove() } else { Ok(false) }
    }

    /// Moves what former processes have left in another area of the same target here, and removes
    /// that area. An area that a living process uses stays as it is.
    pub(crate) fn take_over(&self, former: &Path) -> io::Result<()> {
        match self.check(former) {
            Err(error) if is_gone(&error) => return Ok(()),
            checked => checked?,
        }
        if is_used(former)? {
            return Ok(());
        }
        for entry in entries(former)? {
            if wnid_of(&entry).is_some() {
                remove_if_there(move_folder(entry.path(), &self.path.join(entry.name())))?;
            }
        }
        remove(former).map(drop)
    }
}

/// Removes an area unless a living process uses it; says whether it is gone.
///
/// What is removed was listed before the locks were asked for, so nothing that a process puts into
/// the area later is touched, and its lock file keeps the folder.
pub(crate) fn remove(area: &Path) -> io::Result<bool> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(RETRY_DELAY);
        }
        let found = entries(area)?;
        let found = found.into_iter().filter(|entry| purpose_of(entry).is_some());
        let (locks, others): (Vec<Entry>, Vec<Entry>) = found.partition(is_lock_file);
        for lock in locks {
            if !remove_if_dead(lock.path())? {
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

/// A file that is open on a network disk keeps its folder from being removed until it is closed.
fn ignore_busy(error: io::Error) -> io::Result<()> {
    if is_busy(&error) { Ok(()) } else { Err(error) }
}

/// Removes the lock file of a process that has ended, and says so; not one that a living process
/// holds.
fn remove_if_dead(path: &Path) -> io::Result<bool> {
    match lock_of(path) {
        // Held until it is removed: a process that has just created it sees that, and creates
        // another.
        Some(Ok(held)) => {
            remove_if_there(fs::remove_file(path))?;
            drop(held);
            Ok(true)
        }
        Some(Err(_)) => Ok(false),
        None => Ok(true),
    }
}

/// Takes the lock of a lock file; `None` if the file is gone. NFS takes a lock only through a
/// descriptor that is open for writing. A file that cannot be opened or locked counts as held.
fn lock_of(path: &Path) -> Option<Result<File, TryLockError>> {
    match own_file::open(path, Access::ReadWrite) {
        Ok(file) => Some(file.try_lock().map(|()| file)),
        Err(error) if is_gone(&error) => None,
        Err(error) => Some(Err(TryLockError::Error(error))),
    }
}

impl LockFile {
    /// Creates it open for reading and writing, which NFS asks of a file that is to be locked.
    ///
    /// Nothing else is done in the area before the file shows that the folder is ours.
    fn create(area: &Path, group: Option<Group>) -> io::Result<Self> {
        let folder = open_folder(area)?;
        let name = format!("{LOCK}{:016x}", rand::random::<u64>());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
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
            Err(TryLockError::Error(cause)) => tracing::debug!(%cause, "this file system has no locks"),
        }
        // A process that looked before the lock was there may have removed the file as that of a
        // process that has ended.
        fs::metadata(&path)?;
        Ok(Self { path, file, access })
    }
}

/// Whether a living process uses an area, as far as its locks can tell; an area that does not exist
/// is not used.
pub(crate) fn is_used(area: &Path) -> io::Result<bool> {
    is_used_by_others(area, None)
}

fn is_used_by_others(area: &Path, own: Option<&Path>) -> io::Result<bool> {
    let entries = entries(area)?;
    let mut locks = entries.iter().filter(|entry| is_lock_file(entry)).map(Entry::path);
    Ok(locks.any(|path| Some(path) != own && matches!(lock_of(path), Some(Err(_)))))
}

/// The class to which a staging folder belongs; `None` for everything else.
pub(crate) fn wnid_of(entry: &Entry) -> Option<Wnid> {
    entry.text()?.split_once('.')?.0.parse().ok()
}

fn is_lock_file(entry: &Entry) -> bool {
    purpose_of(entry) == Some(Purpose::Lock)
}

/// What an entry of an area is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// It shows that a process lives.
    Lock,
    /// A class is put together in it.
    Class,
    /// It is of use for a moment, or was to a former version.
    Trial,
}

/// `None` for an entry that this program has not made, which stays.
fn purpose_of(entry: &Entry) -> Option<Purpose> {
    let name = entry.text()?;
    if name.starts_with(LOCK) {
        return Some(Purpose::Lock);
    }
    if wnid_of(entry).is_some() {
        return Some(Purpose::Class);
    }
    let first = name.split_once('.').map_or(name, |(first, _)| first);
    TRIALS.contains(&first).then_some(Purpose::Trial)
}

fn remove_entry(entry: &Entry) -> io::Result<()> {
    if entry.is_folder()? { remove_tree(entry.path()) } else { fs::remove_file(entry.path()) }
}

/// What is in an area; nothing if there is none.
pub(crate) fn entries(area: &Path) -> io::Result<Vec<Entry>> {
    match list(area) {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        entries => entries?.collect(),
    }
}

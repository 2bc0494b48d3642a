//! The target folder and where things are in it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::Access;

use shared::Wnid;

use crate::storage_id;

/// Folder of staging and checkpoints, gone when the job is done (loaders take every folder for a class).
const PARTIAL: &str = ".partial";
/// In it, the beginning of the names of the files that living processes hold locked.
const PRESENCE: &str = "in-use.";

/// So often a process settles in `.partial` while its neighbours leave.
const TRIES: u32 = 3;

/// An open target folder.
#[derive(Debug)]
pub(crate) struct Target {
    root: PathBuf,
    folder: File,
    /// Says to others, by its lock, that this process lives and that what lies in `.partial` may be in use.
    presence: PathBuf,
    _present: File,
    /// As it was found last.
    storage_id: Mutex<String>,
}

/// The target cannot be used: not this class's fault, so the process stops and nobody's attempts are burnt.
#[derive(Debug, thiserror::Error)]
#[error("{action} in the target folder {}: {cause}{}", target.display(), advice(cause))]
pub struct TargetError {
    target: PathBuf,
    action: String,
    cause: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space and run the same command again: it goes on where it stopped)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => " (give a folder with --target)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (give a writable folder with --target)"
        }
        io::ErrorKind::NotFound => " (is it still mounted?)",
        _ => "",
    }
}

impl Target {
    /// Opens the target, makes it if it is missing, and proves that folders can be made, filled and renamed in it.
    pub(crate) fn open(path: &Path) -> Result<Self, TargetError> {
        let error = |action: &'static str| {
            move |cause| TargetError { target: path.to_owned(), action: action.to_owned(), cause }
        };
        fs::create_dir_all(path).map_err(error("make a folder"))?;
        // A link at the root is followed once, here.
        let root = path.canonicalize().map_err(error("find the way"))?;
        let folder = File::open(&root).map_err(error("look"))?;
        make_partial(&root).map_err(error("make a folder"))?;
        let Marks { presence, present, storage_id } =
            in_partial(&root, || leave_marks(&root)).map_err(error("write"))?;
        let target = Self { root, folder, presence, _present: present, storage_id: Mutex::new(storage_id) };
        target.try_out().map_err(error("write"))?;
        Ok(target)
    }

    /// What staging and publishing do, on something small; leaves nothing in the target itself, whenever it is cut off.
    fn try_out(&self) -> io::Result<()> {
        // Names of its own: what a process that was killed has left of a probe must not be in the way.
        let nonce = rand::random::<u64>();
        let [probe, renamed] = ["probe", "renamed"].map(|name| self.partial().join(format!("{name}.{nonce:016x}")));
        fs::create_dir(&probe)?;
        fs::write(probe.join("file"), b"probe")?;
        fs::rename(&probe, &renamed)?;
        fs::remove_dir_all(&renamed)?;
        rustix::fs::access(&self.root, Access::WRITE_OK)?;
        if fs::metadata(self.partial())?.dev() == fs::metadata(&self.root)?.dev() {
            Ok(())
        } else {
            Err(io::ErrorKind::CrossesDevices.into())
        }
    }

    /// The folder itself, open.
    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    /// Its path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join(PARTIAL)
    }

    /// Final name of a class.
    pub(crate) fn class_folder(&self, wnid: Wnid) -> PathBuf {
        self.root.join(wnid.to_string())
    }

    /// Final name of its tar.
    pub(crate) fn tar(&self, wnid: Wnid) -> PathBuf {
        self.root.join(format!("{wnid}.tar"))
    }

    /// Says that the target, and not a class, is at fault.
    pub(crate) fn error(&self, action: impl Into<String>, cause: io::Error) -> TargetError {
        // Where the whole target is gone, that is what to say, and not what it led to.
        let gone = fs::metadata(&self.root).err().filter(|error| error.kind() == io::ErrorKind::NotFound);
        let cause = gone.unwrap_or(cause);
        TargetError { target: self.root.clone(), action: action.into(), cause }
    }

    /// Whether an error that met one class would meet every other as well.
    pub(crate) fn is_at_fault(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            || self.try_out().is_err()
    }

    /// Makes the folder of stagings again, if whoever finished first took it away; never the target itself, which could be
    /// an unmounted disk.
    pub(crate) fn restore_partial(&self) -> io::Result<()> {
        make_partial(&self.root)?;
        let found = storage_id::settle(&self.partial(), &self.storage_id())?;
        *self.known_storage() = found;
        Ok(())
    }

    /// What the storage is called; another name if somebody else was the first to give it one anew.
    pub(crate) fn storage_id(&self) -> String {
        self.known_storage().clone()
    }

    fn known_storage(&self) -> MutexGuard<'_, String> {
        self.storage_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether other processes seem to work here. One that was killed counts too: not every file system knows locks.
    pub(crate) fn has_neighbours(&self) -> bool {
        let entries = fs::read_dir(self.partial()).into_iter().flatten().flatten();
        let presences = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PRESENCE));
        presences.map(|entry| entry.path()).any(|path| path != self.presence)
    }

    /// Takes staging and checkpoints away when the job is done, unless another process still works here.
    pub(crate) fn remove_partial(&self) -> io::Result<()> {
        remove_if_there(fs::remove_file(&self.presence))?;
        let entries = match fs::read_dir(self.partial()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let is_presence = entry.file_name().to_string_lossy().starts_with(PRESENCE);
            if is_presence && File::open(entry.path()).is_ok_and(|other| other.try_lock().is_err()) {
                return Ok(());
            }
        }
        remove_if_there(fs::remove_dir_all(self.partial()))
    }

    /// Takes away what opening has made, for a process that has no work here; whatever else is in `.partial` stays.
    pub(crate) fn withdraw(&self) -> io::Result<()> {
        remove_if_there(fs::remove_file(&self.presence))?;
        let mut others = fs::read_dir(self.partial())?
            .filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_name() == storage_id::STORAGE));
        if others.next().is_none() {
            fs::remove_dir_all(self.partial().join(storage_id::STORAGE))?;
            fs::remove_dir(self.partial())?;
        }
        Ok(())
    }
}

/// What a process leaves in `.partial` for as long as it is there.
struct Marks {
    presence: PathBuf,
    present: File,
    storage_id: String,
}

fn leave_marks(root: &Path) -> io::Result<Marks> {
    let presence = root.join(PARTIAL).join(format!("{PRESENCE}{:016x}", rand::random::<u64>()));
    let present = File::create_new(&presence)?;
    if let Err(cause) = present.try_lock() {
        tracing::debug!(%cause, "this file system knows no locks");
    }
    let storage_id = storage_id::settle(&root.join(PARTIAL), &storage_id::new())?;
    // Whoever looked before the lock was there may have taken it for that of a dead process.
    fs::metadata(&presence)?;
    Ok(Marks { presence, present, storage_id })
}

/// Works in `.partial`, which a neighbour that has just finished may take away meanwhile: then once more, in a new one.
fn in_partial<T>(root: &Path, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_partial(root)?,
            done => return done,
        }
    }
    work()
}

fn make_partial(root: &Path) -> io::Result<()> {
    match fs::create_dir(root.join(PARTIAL)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// What is gone already is fine.
pub(crate) fn remove_if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_by_another_process_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Target::open(folder.path()).unwrap(), Target::open(folder.path()).unwrap());
        fs::create_dir(one.partial().join("n00000001.1")).unwrap();
        assert!(one.has_neighbours() && other.has_neighbours());
        one.remove_partial().unwrap();
        assert!(!other.has_neighbours());
        assert!(other.partial().join("n00000001.1").exists());
        other.remove_partial().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn whoever_comes_while_a_neighbour_takes_the_staging_away_tries_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        make_partial(root).unwrap();
        let mut vanishes = 2;
        let marks = in_partial(root, || {
            if vanishes > 0 {
                vanishes -= 1;
                fs::remove_dir_all(root.join(PARTIAL)).unwrap();
            }
            leave_marks(root)
        });
        assert!(marks.unwrap().presence.exists());

        fs::remove_dir_all(root).unwrap();
        let gone = in_partial(root, || leave_marks(root));
        assert_eq!(gone.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound), "a disk that is gone is said");
    }

    #[test]
    fn a_process_that_was_killed_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(folder.path()).unwrap();
        fs::write(target.partial().join("in-use.of-a-dead-process"), "").unwrap();
        for left in ["probe", "probe.renamed", "renamed"] {
            fs::create_dir(target.partial().join(left)).unwrap();
            fs::write(target.partial().join(left).join("file"), "probe").unwrap();
        }
        target.try_out().unwrap();
        target.remove_partial().unwrap();
        assert!(!target.partial().exists());
    }

    #[test]
    fn a_storage_that_was_cleared_gets_its_name_back_and_one_that_was_named_anew_keeps_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Target::open(folder.path()).unwrap(), Target::open(folder.path()).unwrap());
        let id = one.storage_id();
        assert_eq!(other.storage_id(), id);
        fs::remove_dir_all(one.partial()).unwrap();
        one.restore_partial().unwrap();
        assert_eq!(Target::open(folder.path()).unwrap().storage_id(), id);

        fs::remove_dir_all(one.partial()).unwrap();
        let newcomer = Target::open(folder.path()).unwrap();
        other.restore_partial().unwrap();
        assert_ne!(newcomer.storage_id(), id);
        assert_eq!(other.storage_id(), newcomer.storage_id());
    }

    #[test]
    fn a_storage_is_the_same_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("target"), folder.path().join("link")).unwrap();
        assert_eq!(Target::open(&folder.path().join("link")).unwrap().storage_id(), target.storage_id());
    }

    #[test]
    fn who_has_no_work_here_leaves_only_what_others_need() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Target::open(folder.path()).unwrap(), Target::open(folder.path()).unwrap());
        fs::create_dir(one.partial().join("n00000001.1")).unwrap();
        one.withdraw().unwrap();
        assert!(one.partial().join("n00000001.1").exists());
        fs::remove_dir(one.partial().join("n00000001.1")).unwrap();
        other.withdraw().unwrap();
        assert!(!other.partial().exists());
    }

    #[test]
    fn one_class_is_not_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(folder.path()).unwrap();
        assert!(!target.is_at_fault(&io::ErrorKind::PermissionDenied.into()));
        assert!(target.is_at_fault(&io::ErrorKind::StorageFull.into()));
        fs::remove_dir_all(folder.path()).unwrap();
        assert!(target.is_at_fault(&io::ErrorKind::NotFound.into()));
        assert!(target.restore_partial().is_err(), "a target that is gone is not made again");
    }
}

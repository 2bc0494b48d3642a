//! The target folder, and the staging area that belongs to it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::Access;

use shared::{
    Wnid, limits,
    own_file::{PROBE, is_refused},
    owner::explained,
    probe_files,
};

use crate::storage::{
    area_access::Group,
    file_tree::{is_gone, remove_if_there, remove_tree},
    staging,
    staging_area::{self, StagingArea},
    staging_place::{self, NotBeside},
    storage_id,
    target_users::TargetUsers,
};

/// An open target folder.
#[derive(Debug)]
pub(crate) struct Target {
    root: PathBuf,
    folder: File,
    area: StagingArea,
    /// Areas that other processes may use or have left: in the target, or beside it.
    other_areas: Vec<PathBuf>,
    /// As it was found last.
    storage_id: Mutex<String>,
}

/// The target cannot be used: not this class's fault, so the process stops and nobody's attempts are burnt.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The file system refuses something.
    #[error("{action} in the target folder {}: {cause}{}", target.display(), advice(cause))]
    Refused {
        /// The target.
        target: PathBuf,
        /// What was to be done, fit to follow "failed to".
        action: String,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The staging folder cannot be made or used.
    #[error("use the staging folder {}: {cause} (name another one with --staging)", area.display())]
    Staging {
        /// The folder.
        area: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The folder of `--staging` would be a class to a loader.
    #[error(
        "use the folder {} for staging: it is in the target {}, where a loader would take it for a class; name a folder \
         outside of the target with --staging, on the same file system",
        folder.display(), target.display()
    )]
    StagingInTarget {
        /// The folder as it was resolved.
        folder: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// Nothing can be renamed from there into the target.
    #[error(
        "use the folder {} for staging: it is on another file system than the target {}, and a class is published by a \
         rename; name a folder on the same one with --staging",
        folder.display(), target.display()
    )]
    StagingElsewhere {
        /// The folder as it was resolved.
        folder: PathBuf,
        /// The target.
        target: PathBuf,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space and run the same command again to resume)"
        }
        io::ErrorKind::FileTooLarge => {
            " (raise the limit on file sizes, ulimit -f, and run the same command again to resume)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => " (give a folder with --target)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (give a writable folder with --target)"
        }
        io::ErrorKind::NotFound => " (is it still mounted?)",
        _ => "",
    }
}

/// Final name of a class below a target.
pub(crate) fn class_folder(root: &Path, wnid: Wnid) -> PathBuf {
    root.join(wnid.to_string())
}

/// Final name of its tar.
pub(crate) fn tar(root: &Path, wnid: Wnid) -> PathBuf {
    root.join(format!("{wnid}.tar"))
}

impl Target {
    /// Opens the target, makes it if it is missing, and proves that folders can be made, filled and
    /// renamed in it. `staging`: the folder in which classes are to be put together, if it was
    /// named.
    pub(crate) fn open(path: &Path, staging: Option<&Path>) -> Result<Self, TargetError> {
        let refused = |action: &'static str| {
            move |cause| TargetError::Refused {
                target: path.to_owned(),
                action: action.to_owned(),
                cause: explained(cause, [path]),
            }
        };
        fs::create_dir_all(path).map_err(refused("make a folder"))?;
        // A link at the root is followed once, here.
        let root = path.canonicalize().map_err(refused("find the way"))?;
        let folder = File::open(&root).map_err(refused("look"))?;
        let group = Group::of(&folder.metadata().map_err(refused("look"))?);
        let area = match staging {
            Some(folder) => open_in(folder, &root, group)?,
            None => open_beside(&root, group)?,
        };
        if area.can_be_replaced() {
            tracing::warn!(
                "every user of this host can replace {}: set the sticky bit of the folder that holds it (chmod +t)",
                area.path().display()
            );
        }
        let others = [Some(staging_place::in_target(&root)), staging_place::beside(&root).ok()];
        let other_areas = others.into_iter().flatten().filter(|other| other != area.path()).collect();
        let storage_id = storage_id::settle(&root, area.path(), &storage_id::new())
            .map_err(|error| refused("write")(explained(error, [root.join(storage_id::FILE)])))?;
        // A folder that cannot be listed keeps them: nothing depends on it.
        probe_files::remove_left(&root).unwrap_or_default();
        let target = Self { root, folder, area, other_areas, storage_id: Mutex::new(storage_id) };
        target.take_over_what_is_left().map_err(|cause| in_area(target.staging(), cause))?;
        Ok(target)
    }

    /// What former processes have left: checkpoints in other areas, and folders that were to be
    /// replaced.
    fn take_over_what_is_left(&self) -> io::Result<()> {
        for other in &self.other_areas {
            if let Err(cause) = self.area.take_over(other) {
                tracing::info!(folder = %other.display(), %cause, "what a former process has left there stays");
            }
        }
        if !self.area.is_shared()? {
            staging::put_back_replaced(self.staging(), &self.root)?;
        }
        Ok(())
    }

    /// The folder itself, open.
    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    /// Its path.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The staging area.
    pub(crate) fn staging(&self) -> &Path {
        self.area.path()
    }

    /// Whose entries in the target are believed, and whose can be replaced.
    pub(crate) fn users(&self) -> io::Result<TargetUsers> {
        Ok(TargetUsers::new(self.folder.metadata()?, self.area.user()))
    }

    /// Where what is in the way of a class and not of this program is moved to.
    pub(crate) fn set_aside(&self) -> Option<PathBuf> {
        staging_place::set_aside(self.area.path(), &self.root)
    }

    /// Final name of a class.
    pub(crate) fn class_folder(&self, wnid: Wnid) -> PathBuf {
        class_folder(&self.root, wnid)
    }

    /// Final name of its tar.
    pub(crate) fn tar(&self, wnid: Wnid) -> PathBuf {
        tar(&self.root, wnid)
    }

    /// Says that the target, and not a class, is at fault.
    pub(crate) fn error(&self, action: impl Into<String>, cause: io::Error) -> TargetError {
        // Where the whole target is gone, that is what to say, and not what it led to.
        let gone = self.is_there().err().filter(is_gone);
        let cause = gone.unwrap_or(cause);
        TargetError::Refused { target: self.root.clone(), action: action.into(), cause }
    }

    /// Whether an error that met one class would meet every other as well.
    pub(crate) fn is_at_fault(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            // The file system's own limit is met by one class, this process's limit by many.
            || (error.kind() == io::ErrorKind::FileTooLarge && limits::file_size().is_some())
            || self.restore_staging().is_err()
            || try_out(self.staging(), &self.root).is_err()
    }

    /// Whether the target is still the one that was opened, and not the folder below a disk that
    /// was unmounted.
    fn is_there(&self) -> io::Result<()> {
        let same = fs::metadata(&self.root)?.dev() == self.folder.metadata()?.dev();
        if same { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Makes the staging area again, if a process that finished has removed it; never where the
    /// target itself is gone.
    pub(crate) fn restore_staging(&self) -> io::Result<()> {
        self.is_there()?;
        self.area.restore()?;
        let found = storage_id::settle(&self.root, self.staging(), &self.storage_id())?;
        *self.known_storage() = found;
        Ok(())
    }

    /// Id of the storage; another one if a process that came later was the first to make a new one.
    pub(crate) fn storage_id(&self) -> String {
        self.known_storage().clone()
    }

    fn known_storage(&self) -> MutexGuard<'_, String> {
        self.storage_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether other processes seem to use the staging area.
    pub(crate) fn has_neighbours(&self) -> bool {
        self.area.has_neighbours()
    }

    /// Removes staging and checkpoints when the job is done, unless another process still works
    /// here. For a process that has closed its files there.
    pub(crate) fn remove_staging(&self) {
        if let Err(cause) = self.try_to_remove_staging() {
            tracing::info!(folder = %self.staging().display(), %cause, "the staging folder stays until the next run");
        }
    }

    fn try_to_remove_staging(&self) -> io::Result<()> {
        self.area.leave()?;
        let mut is_used = false;
        for area in [self.staging()].into_iter().chain(self.other_areas.iter().map(PathBuf::as_path)) {
            match self.area.check(area) {
                Err(error) if is_gone(&error) => continue,
                // What other users have put under the name is not of this program.
                Err(error) if is_refused(&error) => continue,
                checked => checked?,
            }
            if staging_area::is_used(area)? {
                is_used = true;
                continue;
            }
            staging::put_back_replaced(area, &self.root)?;
            is_used |= !staging_area::remove(area)?;
        }
        if is_used { Ok(()) } else { storage_id::remove(&self.root) }
    }

    /// Removes what opening has made, but nothing with which another process could go on.
    fn withdraw(&self) -> io::Result<()> {
        self.area.leave()?;
        let others_are_used = self.other_areas.iter().any(|area| area.exists());
        if self.area.remove_if_empty()? && !others_are_used { storage_id::remove(&self.root) } else { Ok(()) }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.area.is_left()
            && let Err(cause) = self.withdraw()
        {
            tracing::info!(%cause, "could not leave the target as it was");
        }
    }
}

fn in_area(area: &Path, cause: io::Error) -> TargetError {
    TargetError::Staging { area: area.to_owned(), cause: explained(cause, [area]) }
}

/// Opens an area in a folder that was named, which must be on the target's file system and not in
/// the target.
fn open_in(folder: &Path, root: &Path, group: Option<Group>) -> Result<StagingArea, TargetError> {
    let unusable = |cause| in_area(folder, cause);
    let resolved = staging_place::resolved(folder).map_err(unusable)?;
    if resolved.starts_with(root) {
        return Err(TargetError::StagingInTarget { folder: resolved, target: root.to_owned() });
    }
    fs::create_dir_all(&resolved).map_err(unusable)?;
    let area = StagingArea::enter(staging_place::in_folder(&resolved, root), group).map_err(unusable)?;
    match try_out(area.path(), root) {
        Ok(()) => return Ok(area),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        Err(error) => return Err(in_area(area.path(), error)),
    }
    drop(area);
    Err(TargetError::StagingElsewhere { folder: resolved, target: root.to_owned() })
}

/// Opens the area beside the target; where that cannot be, the one in the target, and warns of it.
fn open_beside(root: &Path, group: Option<Group>) -> Result<StagingArea, TargetError> {
    let why = match staging_place::beside(root) {
        Err(why) => why,
        Ok(path) => match StagingArea::enter(path.clone(), group) {
            Err(cause) if parent_refuses(&path, &cause) => NotBeside::ParentRefuses(cause),
            Err(cause) => return Err(in_area(&path, cause)),
            Ok(area) => match try_out(&path, root) {
                Ok(()) => return Ok(area),
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    drop(area);
                    NotBeside::CannotRename
                }
                Err(error) => return Err(in_area(&path, error)),
            },
        },
    };
    let path = staging_place::in_target(root);
    let area = StagingArea::enter(path.clone(), group).and_then(|area| try_out(&path, root).map(|()| area));
    let area = area.map_err(|cause| TargetError::Refused {
        target: root.to_owned(),
        action: "write".to_owned(),
        cause: explained(cause, [&path]),
    })?;
    tracing::warn!(
        "classes are put together in {}, which a folder loader would take for a class until the job is done: {why}; give a \
         folder below it as --target, e.g. {}, or --staging DIR on the same file system",
        path.display(),
        root.join("images").display()
    );
    Ok(area)
}

/// Whether no folder can be made beside the target, and there is none.
fn parent_refuses(area: &Path, error: &io::Error) -> bool {
    let refused = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    refused && area.symlink_metadata().is_err()
}

/// What staging and publishing do, on something small. It makes no folder in the target, not even
/// for an instant.
fn try_out(area: &Path, root: &Path) -> io::Result<()> {
    // Names of its own: what a process that was killed has left of a probe, or another user has
    // made, must not be in the way.
    let nonce = rand::random::<u64>();
    let [probe, renamed] = ["probe", "renamed"].map(|name| area.join(format!("{name}.{nonce:016x}")));
    fs::create_dir(&probe)?;
    let tried = (|| {
        File::create_new(probe.join("file"))?.write_all(b"probe")?;
        fs::rename(&probe, &renamed)?;
        rustix::fs::access(root, Access::WRITE_OK)?;
        let published = root.join(format!("{PROBE}{nonce:016x}"));
        fs::rename(renamed.join("file"), &published).map_err(|error| explained(error, [&published]))?;
        remove_if_there(fs::remove_file(&published))
    })();
    let removed = [&probe, &renamed].map(|folder| remove_tree(folder));
    removed.into_iter().fold(tried, io::Result::and)
}

#[cfg(test)]
mod tests;

//! The target folder, and the staging area that belongs to it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    iter,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use rustix::fs::Access;

use shared::{
    Wnid, limits,
    lock::lock,
    own_file::{PROBE, is_refused},
    owner::explained,
    probe_files,
};

use crate::storage::{
    area_access::group_of,
    file_tree::{is_gone, nonce, remove_if_there, remove_tree},
    staging,
    staging_area::{self, StagingArea},
    staging_place::{self, NotBeside},
    storage_id,
    target_users::TargetUsers,
};

mod target_error;

pub use target_error::TargetError;

/// An open target folder.
#[derive(Debug)]
pub(crate) struct Target {
    root: PathBuf,
    folder: File,
    area: StagingArea,
    /// Areas that other processes may use or have left: in the target, or beside it.
    other_areas: Vec<PathBuf>,
    /// The storage id when it was last read.
    storage_id: Mutex<String>,
}

/// The final name of a class in a target.
pub(crate) fn class_folder(root: &Path, wnid: Wnid) -> PathBuf {
    root.join(wnid.to_string())
}

/// The final name of the tar of a class.
pub(crate) fn tar(root: &Path, wnid: Wnid) -> PathBuf {
    root.join(format!("{wnid}.tar"))
}

impl Target {
    /// Opens the target, creates it if it is missing, and verifies that folders can be created,
    /// filled and renamed in it. `staging`: the folder of `--staging`, in which classes are
    /// assembled.
    pub(crate) fn open(path: &Path, staging: Option<&Path>) -> Result<Self, TargetError> {
        let refused =
            |action| move |cause| TargetError::refused(path, action, explained(cause, [path]));
        fs::create_dir_all(path).map_err(refused("make a folder"))?;
        // A link at the root is followed once, here.
        let root = path.canonicalize().map_err(refused("find the way"))?;
        let folder = File::open(&root).map_err(refused("look"))?;
        let group = group_of(&folder.metadata().map_err(refused("look"))?);
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
        let others = [
            Some(staging_place::in_target(&root)),
            staging_place::beside(&root).ok(),
        ];
        let other_areas = others
            .into_iter()
            .flatten()
            .filter(|other| other != area.path())
            .collect();
        let storage_id = storage_id::settle(&root, area.path(), &storage_id::new())
            .map_err(|error| refused("write")(explained(error, [root.join(storage_id::FILE)])))?;
        // Not required: if the folder cannot be listed, the probe files stay.
        probe_files::remove_left(&root).unwrap_or_default();
        let target = Self {
            root,
            folder,
            area,
            other_areas,
            storage_id: Mutex::new(storage_id),
        };
        target
            .take_over_leftovers()
            .map_err(|cause| TargetError::staging(target.staging(), cause))?;
        Ok(target)
    }

    /// Takes over what former processes have left: checkpoints in other areas, and folders that
    /// were to be replaced.
    fn take_over_leftovers(&self) -> io::Result<()> {
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

    /// The open target folder.
    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    /// The path of the target folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The staging area.
    pub(crate) fn staging(&self) -> &Path {
        self.area.path()
    }

    /// Whose entries in the target are trusted, and whose entries can be replaced.
    pub(crate) fn users(&self) -> io::Result<TargetUsers> {
        Ok(TargetUsers::new(self.folder.metadata()?, self.area.user()))
    }

    /// The folder for files that are in the way of a class and were not written by this program.
    pub(crate) fn set_aside(&self) -> Option<PathBuf> {
        staging_place::set_aside(self.area.path(), &self.root)
    }

    /// The final name of a class.
    pub(crate) fn class_folder(&self, wnid: Wnid) -> PathBuf {
        class_folder(&self.root, wnid)
    }

    /// The final name of the tar of a class.
    pub(crate) fn tar(&self, wnid: Wnid) -> PathBuf {
        tar(&self.root, wnid)
    }

    /// An error that blames the target instead of a class.
    pub(crate) fn error(&self, action: impl Into<String>, cause: io::Error) -> TargetError {
        // If the whole target is gone, report that and not its consequence.
        let gone = self.is_there().err().filter(is_gone);
        let cause = gone.unwrap_or(cause);
        TargetError::refused(&self.root, action, cause)
    }

    /// Whether an error of one class would affect every other class as well.
    pub(crate) fn is_at_fault(&self, error: &io::Error) -> bool {
        use ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            // The limit of the file system concerns one class; the limit of this process concerns
            // many.
            || (error.kind() == FileTooLarge && limits::file_size().is_some())
            || self.restore_staging().is_err()
            || verify_usable(self.staging(), &self.root).is_err()
    }

    /// Whether the target is still the one that was opened, and not the mount point of a disk that
    /// was unmounted.
    fn is_there(&self) -> io::Result<()> {
        if fs::metadata(&self.root)?.dev() != self.folder.metadata()?.dev() {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(())
    }

    /// Recreates the staging area if a process that finished has removed it; never if the target
    /// itself is gone.
    pub(crate) fn restore_staging(&self) -> io::Result<()> {
        self.is_there()?;
        self.area.restore()?;
        let found = storage_id::settle(&self.root, self.staging(), &self.storage_id())?;
        *lock(&self.storage_id) = found;
        Ok(())
    }

    /// The id of the storage. It changes if a process that started later was the first to make a
    /// new one.
    pub(crate) fn storage_id(&self) -> String {
        lock(&self.storage_id).clone()
    }

    /// Whether other processes seem to use the staging area.
    pub(crate) fn has_neighbours(&self) -> bool {
        self.area.has_neighbours()
    }

    /// Removes the staging area and its checkpoints after the job, unless another process still
    /// uses it. The process must have closed its files there.
    pub(crate) fn remove_staging(&self) {
        self.remove_staging_if(|_| true);
    }

    /// As [`Self::remove_staging`], but if there are checkpoints of other classes than these, they
    /// stay with the area: the call that began them continues there.
    pub(crate) fn remove_staging_of(&self, classes: &HashSet<Wnid>) {
        self.remove_staging_if(|wnid| classes.contains(&wnid) || self.class_folder(wnid).exists());
    }

    fn remove_staging_if(&self, is_done: impl Fn(Wnid) -> bool) {
        if let Err(cause) = self.try_to_remove_staging(is_done) {
            tracing::info!(folder = %self.staging().display(), %cause, "the staging folder stays until the next run");
        }
    }

    fn try_to_remove_staging(&self, is_done: impl Fn(Wnid) -> bool) -> io::Result<()> {
        self.area.leave()?;
        let mut is_used = false;
        for area in iter::once(self.staging()).chain(self.other_areas.iter().map(PathBuf::as_path))
        {
            match self.area.check(area) {
                // What other users have put under the name does not belong to this program.
                Err(error) if is_gone(&error) || is_refused(&error) => continue,
                checked => checked?,
            }
            if staging_area::is_used(area, None)? {
                is_used = true;
            } else {
                staging::put_back_replaced(area, &self.root)?;
                let others = staging_area::remove_classes(area, &is_done)?;
                if others > 0 {
                    tracing::info!(
                        folder = %area.display(),
                        "the checkpoints of {others} other classes stay"
                    );
                }
                is_used |= others > 0 || !staging_area::remove(area)?;
            }
        }
        if !is_used {
            storage_id::remove(&self.root)?;
        }
        Ok(())
    }

    /// Removes what opening has created, but no file from which another process could continue.
    fn withdraw(&self) -> io::Result<()> {
        let others_are_used = self.other_areas.iter().any(|area| area.exists());
        if self.area.withdraw()? && !others_are_used {
            storage_id::remove(&self.root)?;
        }
        Ok(())
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

/// Opens an area in the folder of `--staging`, which must be on the target's file system and
/// outside of the target.
fn open_in(folder: &Path, root: &Path, group: Option<u32>) -> Result<StagingArea, TargetError> {
    let unusable = |cause| TargetError::staging(folder, cause);
    let resolved = staging_place::resolved(folder).map_err(unusable)?;
    if resolved.starts_with(root) {
        return Err(TargetError::StagingInTarget {
            folder: resolved,
            target: root.to_owned(),
        });
    }
    fs::create_dir_all(&resolved).map_err(unusable)?;
    let area =
        StagingArea::enter(staging_place::in_folder(&resolved, root), group).map_err(unusable)?;
    usable(area, root)?.ok_or_else(|| TargetError::StagingElsewhere {
        folder: resolved,
        target: root.to_owned(),
    })
}

/// The area if it can be used; `None` if nothing can be renamed from it into the target.
fn usable(area: StagingArea, root: &Path) -> Result<Option<StagingArea>, TargetError> {
    match verify_usable(area.path(), root) {
        Ok(()) => Ok(Some(area)),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => Ok(None),
        Err(error) => Err(TargetError::staging(area.path(), error)),
    }
}

/// Opens the area beside the target. If that is not possible, opens the area in the target and logs
/// a warning.
fn open_beside(root: &Path, group: Option<u32>) -> Result<StagingArea, TargetError> {
    let why = match staging_place::beside(root) {
        Err(why) => why,
        Ok(path) => match StagingArea::enter(path.clone(), group) {
            Err(cause) if parent_refuses(&path, &cause) => NotBeside::ParentRefuses(cause),
            Err(cause) => return Err(TargetError::staging(&path, cause)),
            Ok(area) => match usable(area, root)? {
                Some(area) => return Ok(area),
                None => NotBeside::CannotRename,
            },
        },
    };
    let path = staging_place::in_target(root);
    let area = StagingArea::enter(path.clone(), group)
        .and_then(|area| verify_usable(&path, root).map(|()| area))
        .map_err(|cause| TargetError::refused(root, "write", explained(cause, [&path])))?;
    tracing::warn!(
        "classes are put together in {}, which a folder loader would take for a class until the job is done: {why}; give a \
         folder below it as --target, e.g. {}, or --staging DIR on the same file system",
        path.display(),
        root.join("images").display()
    );
    Ok(area)
}

/// Whether the area does not exist beside the target and cannot be created there.
fn parent_refuses(area: &Path, error: &io::Error) -> bool {
    let refused = matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    );
    refused && area.symlink_metadata().is_err()
}

/// Performs the steps of staging and publishing on a small file. It never makes a folder in the
/// target, because a loader could see it.
fn verify_usable(area: &Path, root: &Path) -> io::Result<()> {
    // Unique names, so that entries of a killed process or of another user cause no conflict.
    let nonce = nonce();
    let [probe, renamed] = ["probe", "renamed"].map(|name| area.join(format!("{name}.{nonce}")));
    fs::create_dir(&probe)?;
    let tried = (|| {
        File::create_new(probe.join("file"))?.write_all(b"probe")?;
        fs::rename(&probe, &renamed)?;
        rustix::fs::access(root, Access::WRITE_OK)?;
        let published = root.join(format!("{PROBE}{nonce}"));
        fs::rename(renamed.join("file"), &published)
            .map_err(|error| explained(error, [&published]))?;
        remove_if_there(fs::remove_file(&published))
    })();
    let removed = [&probe, &renamed].map(|folder| remove_tree(folder));
    removed.into_iter().fold(tried, io::Result::and)
}

#[cfg(test)]
mod tests;

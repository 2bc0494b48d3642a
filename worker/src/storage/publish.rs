//! Publishing by group commit: one sync for all classes that are ready, then one rename for each
//! class, then one sync of the target.
//!
//! Invariant: a class folder under its final name is complete at every instant, and with
//! `--durability power` also after a power cut, because no folder is renamed before all its bytes
//! are on the disk. The rename is the fence: it fails if the destination is a folder that is not
//! empty, so the first publisher wins without a lock.

use std::{
    error::Error,
    fs,
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

#[cfg(target_os = "linux")]
use rustix::fs::{CWD, RenameFlags};
use shared::{
    Wnid,
    job::{Durability, Existing},
    own_file::open_folder,
    threads::{self, NoThread},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    lease_clock::LeaseClock,
    storage::{
        comparison::{Compared, compare},
        file_tree::{remove_if_there, remove_tree},
        manifest::Manifest,
        set_aside::{self, NoPlace},
        staging::Staging,
        target::Target,
    },
};

/// Maximum number of classes in one commit.
const LARGEST_BATCH: usize = 64;

/// A class that is complete in its staging folder, its manifest included.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) wnid: Wnid,
    pub(crate) staging: Staging,
    pub(crate) tar: TarFate,
    /// What may be replaced under the final name.
    pub(crate) replace: Replace,
}

/// What a publication may replace under a class's final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    /// An empty folder only.
    Nothing,
    /// A folder that differs from its manifest. Files that the manifest does not list are kept
    /// elsewhere.
    Differing,
    /// Any folder (`--existing replace`). Files that a valid manifest does not list are kept
    /// elsewhere.
    Any,
}

impl Replace {
    /// What `--existing` permits a class to replace. `differs`: a folder is there that differs from
    /// its manifest.
    pub(crate) fn of(existing: Existing, differs: bool) -> Self {
        match existing {
            Existing::Replace => Self::Any,
            Existing::Adopt | Existing::Trust if differs => Self::Differing,
            Existing::Adopt | Existing::Trust => Self::Nothing,
        }
    }
}

/// What happens to the tar of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TarFate {
    /// The tar is in the staging folder and moves to its final name. A tar that already has that
    /// name gets another one.
    Move,
    /// As `Move`, but the tar under the final name is a prefix of this one, or was written by this
    /// program, and is replaced.
    MoveOver,
    /// What is under the tar's final name stays there.
    Stay,
    /// The tar under the final name is removed: this program wrote it.
    Remove,
}

/// How a publication ended.
#[derive(Debug)]
pub(crate) enum Publication {
    /// This call published the class folder.
    Done,
    /// Another publisher was first, and its folder has a valid manifest.
    AlreadyThere(Manifest),
    /// Something else has the name.
    Occupied,
    /// There are files that the manifest does not list, and they cannot be kept elsewhere; the
    /// reason.
    CannotKeep(String),
    /// The publication would replace something, but another worker may hold the lease by now. The
    /// staging folder stays as a checkpoint.
    Fenced,
}

/// Receives the result of one publication.
type Reply = oneshot::Sender<io::Result<Publication>>;

/// Sends classes to the committer; clones use the same one.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<(Staged, Reply)>,
}

impl Publisher {
    /// Publishes a class; returns when the publication has the durability that `--durability`
    /// requires.
    pub(crate) async fn publish(&self, staged: Staged) -> io::Result<Publication> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the committer has ended");
        self.queue.send((staged, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Starts the committer on a thread of the given set. It ends when the last [`Publisher`] is
/// dropped.
///
/// # Errors
/// [`NoThread`].
pub(crate) fn start(
    target: Arc<Target>,
    durability: Durability,
    clock: Arc<LeaseClock>,
    set: &mut JoinSet<()>,
) -> Result<Publisher, NoThread> {
    let (queue, mut ready) = mpsc::channel::<(Staged, Reply)>(LARGEST_BATCH);
    threads::start(set, "publish", move || {
        // While one commit runs, the next classes queue up. Batches grow with the load, and no
        // class waits for others to fill a batch.
        let mut batch = Vec::new();
        while ready.blocking_recv_many(&mut batch, LARGEST_BATCH) > 0 {
            commit(&target, durability, &clock, batch.drain(..));
        }
    })?;
    Ok(Publisher { queue })
}

fn commit(
    target: &Target,
    durability: Durability,
    clock: &LeaseClock,
    batch: impl Iterator<Item = (Staged, Reply)>,
) {
    let durable = durability == Durability::Power;
    // After a failed sync no file of the batch can be trusted: the kernel may have dropped pages
    // that it could not write.
    let synced = if durable {
        sync_file_system(target)
    } else {
        Ok(())
    };
    let published: Vec<_> = batch
        .map(|(staged, reply)| {
            let synced = synced.as_ref().map_err(same);
            let result = synced.and_then(|()| publish_one(target, &staged, durable, clock));
            (staged, reply, result)
        })
        .collect();
    let recorded = if durable {
        target.folder().sync_all()
    } else {
        Ok(())
    };
    for (staged, reply, result) in published {
        let result = result.and_then(|publication| {
            recorded.as_ref().map_err(same)?;
            Ok(publication)
        });
        let is_over = !matches!(result, Err(_) | Ok(Publication::Fenced));
        if is_over && let Err(error) = staged.staging.remove() {
            tracing::info!(wnid = %staged.wnid, %error, "a staging folder stays until the end of the job");
        }
        // A receiver that is gone was stopped. The class is published, and the next run finds it.
        reply.send(result).ok();
    }
}

/// The same error for each class of the batch.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::new(error.kind(), error.to_string()),
        io::Error::from_raw_os_error,
    )
}

#[cfg(target_os = "linux")]
fn sync_file_system(target: &Target) -> io::Result<()> {
    Ok(rustix::fs::syncfs(target.folder())?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_: &Target) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Publishes the tar first: a class folder under its final name implies that its tar is there.
/// Nothing is replaced under a lease that may have expired.
fn publish_one(
    target: &Target,
    staged: &Staged,
    durable: bool,
    clock: &LeaseClock,
) -> io::Result<Publication> {
    let replace = if clock.has_run_out() {
        Replace::Nothing
    } else {
        staged.replace
    };
    if staged.replace != replace && target.class_folder(staged.wnid).symlink_metadata().is_ok() {
        return Ok(Publication::Fenced);
    }
    if durable {
        open_folder(&staged.staging.class_folder())?.sync_all()?;
    }
    if staged.tar == TarFate::Move
        && let Some(kept) = set_aside::tar(target, staged.wnid)?
    {
        tracing::warn!(
            "{}.tar was not written by this program and is kept as {}",
            staged.wnid,
            kept.display()
        );
    }
    if matches!(staged.tar, TarFate::Move | TarFate::MoveOver) {
        fs::rename(staged.staging.tar(), target.tar(staged.wnid))?;
    }
    let publication = rename_folder(target, staged, replace)?;
    if staged.tar == TarFate::Remove {
        remove_tar(target, staged.wnid)?;
    }
    Ok(publication)
}

/// A plain rename replaces an empty folder, as intended, and fails on a folder that is not empty.
/// It fails on a file or a link under the name as well, and never follows a link.
fn rename_folder(target: &Target, staged: &Staged, replace: Replace) -> io::Result<Publication> {
    let from = staged.staging.class_folder();
    let to = target.class_folder(staged.wnid);
    let Err(error) = fs::rename(&from, &to) else {
        return Ok(Publication::Done);
    };
    // The rename may have succeeded despite an error, for example if a network file system lost the
    // answer. What is under the name decides.
    let is_of_another = to
        .symlink_metadata()
        .and_then(|found| Ok(target.users()?.is_of_another(&found)));
    let compared = match is_of_another {
        Ok(false) => compare(&to, staged.wnid).unwrap_or_default(),
        _ => None,
    };
    if let Some(Compared::Agrees(manifest)) = compared {
        return Ok(Publication::AlreadyThere(manifest));
    }
    if !matches!(
        error.kind(),
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory
    ) {
        return Err(error);
    }
    let has_manifest = compared.is_some();
    if replace == Replace::Nothing || (replace == Replace::Differing && !has_manifest) {
        return Ok(Publication::Occupied);
    }
    if has_manifest && let Err(error) = keep_unlisted(target, staged.wnid, &to, &from) {
        let is_no_place = <dyn Error + Send + Sync>::is::<NoPlace>;
        return if error.get_ref().is_some_and(is_no_place) {
            Ok(Publication::CannotKeep(error.to_string()))
        } else {
            Err(error)
        };
    }
    replace_folder(&from, &to, &staged.staging.replaced())?;
    Ok(Publication::Done)
}

fn keep_unlisted(target: &Target, wnid: Wnid, old: &Path, new: &Path) -> io::Result<()> {
    if let Some((folder, count)) = set_aside::unlisted(target, wnid, old, new)? {
        let entries = if count == 1 {
            "1 entry is"
        } else {
            &format!("{count} entries are")
        };
        tracing::warn!(
            "{wnid}: {entries} not in its manifest and kept in {}",
            folder.display()
        );
    }
    Ok(())
}

/// Replaces a folder by a complete one: in one step if the file system can exchange two names,
/// otherwise with a short time in between without a folder under the name. A process that is killed
/// in that time leaves the old folder in `aside`. The old folder later gets its name back, unless a
/// new folder has taken it.
fn replace_folder(from: &Path, to: &Path, aside: &Path) -> io::Result<()> {
    exchange(from, to).or_else(|_| replace_in_two_steps(from, to, aside))
}

fn replace_in_two_steps(from: &Path, to: &Path, aside: &Path) -> io::Result<()> {
    match fs::rename(to, aside) {
        // A folder in the lower layer of an overlay can be removed but not renamed. The new folder
        // is complete already.
        Err(error) if error.kind() == ErrorKind::CrossesDevices => remove_tree(to)?,
        renamed => remove_if_there(renamed)?,
    }
    fs::rename(from, to).inspect_err(|_| drop(fs::rename(aside, to)))
}

#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        CWD,
        one,
        CWD,
        other,
        RenameFlags::EXCHANGE,
    )?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Removes a class's tar, if there is one.
pub(crate) fn remove_tar(target: &Target, wnid: Wnid) -> io::Result<()> {
    match fs::remove_file(target.tar(wnid)) {
        // A folder with that name is not a tar.
        Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(()),
        removed => remove_if_there(removed),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;

    fn staged(target: &Target) -> Staged {
        let wnid = "n00000001".parse().unwrap();
        let staging = Staging::create(target, wnid).unwrap();
        fs::write(staging.class_folder().join("new.JPEG"), "new").unwrap();
        Staged {
            wnid,
            staging,
            tar: TarFate::Stay,
            replace: Replace::Any,
        }
    }

    #[test]
    fn a_folder_is_not_replaced_after_a_suspension_beyond_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let time = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&time);
        let clock = LeaseClock::new(move || Duration::from_secs(read.load(Ordering::Relaxed)));
        assert!(clock.answered(1, clock.now(), Duration::from_secs(30)));
        let first = staged(&target);
        let class = target.class_folder(first.wnid);
        fs::create_dir(&class).unwrap();
        fs::write(class.join("old.JPEG"), "old").unwrap();

        time.store(600, Ordering::Relaxed);
        let publication = publish_one(&target, &first, false, &clock).unwrap();
        assert!(
            matches!(publication, Publication::Fenced),
            "{publication:?}"
        );
        assert!(
            class.join("old.JPEG").exists()
                && first.staging.class_folder().join("new.JPEG").exists()
        );

        assert!(clock.answered(1, clock.now(), Duration::from_secs(30)));
        let publication = publish_one(&target, &first, false, &clock).unwrap();
        assert!(matches!(publication, Publication::Done), "{publication:?}");
        assert!(class.join("new.JPEG").exists() && !class.join("old.JPEG").exists());
    }

    /// The state that a kill between the two steps leaves, on a file system that cannot exchange
    /// names.
    fn killed_between_the_steps(target: &Target) -> Staged {
        let staged = staged(target);
        let old = staged.staging.replaced();
        fs::create_dir(&old).unwrap();
        fs::write(old.join("old.JPEG"), "old").unwrap();
        staged
    }

    #[test]
    fn a_kill_between_the_two_steps_of_a_replacement_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        let target = Target::open(&path, None).unwrap();
        let wnid = killed_between_the_steps(&target).wnid;
        let class = target.class_folder(wnid);
        drop(target);
        // The next process gives the old folder its name back.
        let target = Target::open(&path, None).unwrap();
        assert!(class.join("old.JPEG").exists());
        fs::remove_dir_all(&class).unwrap();

        // A class that fails does the same, and so does the end of a job that could not download
        // the class.
        killed_between_the_steps(&target).staging.remove().unwrap();
        assert!(class.join("old.JPEG").exists());
        fs::remove_dir_all(&class).unwrap();
        killed_between_the_steps(&target);
        target.remove_staging();
        assert!(class.join("old.JPEG").exists());
        fs::remove_dir_all(&class).unwrap();

        // Once another folder has the name, the old one is removed.
        let staged = killed_between_the_steps(&target);
        fs::create_dir(&class).unwrap();
        fs::write(class.join("other.JPEG"), "").unwrap();
        staged.staging.remove().unwrap();
        assert!(class.join("other.JPEG").exists() && !class.join("old.JPEG").exists());
    }

    #[test]
    fn a_folder_is_replaced_in_one_step_or_in_two() {
        for replace in [replace_folder, replace_in_two_steps] {
            let folder = tempfile::tempdir().unwrap();
            let [from, to, aside, other] =
                ["from", "to", "aside", "other"].map(|name| folder.path().join(name));
            for (path, file) in [(&from, "new.JPEG"), (&to, "old.JPEG")] {
                fs::create_dir(path).unwrap();
                fs::write(path.join(file), "").unwrap();
            }
            replace(&from, &to, &aside).unwrap();
            assert!(to.join("new.JPEG").exists() && !to.join("old.JPEG").exists());
            replace(&folder.path().join("missing"), &to, &other).unwrap_err();
            assert!(
                to.join("new.JPEG").exists(),
                "the folder keeps its name if there is no replacement"
            );
        }
    }

    #[test]
    fn without_an_existing_folder_the_rename_is_the_only_fence() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let clock = LeaseClock::new(|| Duration::from_mins(10));
        assert!(clock.answered(1, Duration::ZERO, Duration::from_secs(30)));
        let publication = publish_one(&target, &staged(&target), false, &clock).unwrap();
        assert!(matches!(publication, Publication::Done), "{publication:?}");
    }
}

//! Publishing by group commit: one sync for all classes that are ready, then one rename each, then one sync of the target.
//!
//! Invariant: a class folder under its final name is complete at every instant, and under `--durability power` also after a
//! power cut, because no folder is renamed before all its bytes are on the disk. The rename is the fence: it fails on a
//! folder with something in it, so the first publisher wins without any lock.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    sync::Arc,
};

use shared::{Wnid, job::Durability};
use tokio::sync::{mpsc, oneshot};

use crate::{
    file_tree::remove_if_there,
    lease_clock::LeaseClock,
    manifest::{self, Manifest},
    staging::Staging,
    target::Target,
};

/// At most so many classes share a commit.
const LARGEST_BATCH: usize = 64;

/// A class that is complete in its staging folder, manifest and all.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) wnid: Wnid,
    pub(crate) staging: Staging,
    pub(crate) tar: TarFate,
    /// Whether what stands under the final name may be put aside.
    pub(crate) replace: bool,
}

/// What becomes of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TarFate {
    /// It was written to the staging folder and moves to its final name.
    Move,
    /// It is under its final name and stays there.
    Stay,
    /// One that is under the final name goes.
    Remove,
}

/// How a publication ended.
#[derive(Debug)]
pub(crate) enum Publication {
    /// The class folder is there, by this call.
    Done,
    /// Somebody else was first, and the folder has a valid manifest.
    AlreadyThere(Manifest),
    /// Something else stands under the name.
    Occupied,
    /// Something stands there that would have been replaced, but the lease may be another worker's by now. The staging folder
    /// stays as a checkpoint.
    Fenced,
}

type Reply = oneshot::Sender<io::Result<Publication>>;

/// The way to the committer; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<(Staged, Reply)>,
}

impl Publisher {
    /// Publishes a class; comes back when it would survive what `--durability` says.
    pub(crate) async fn publish(&self, staged: Staged) -> io::Result<Publication> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the committer has ended");
        self.queue.send((staged, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Starts the committer on a thread of the given set; it ends when the last [`Publisher`] is dropped.
pub(crate) fn start(
    target: Arc<Target>,
    durability: Durability,
    clock: Arc<LeaseClock>,
    threads: &mut tokio::task::JoinSet<()>,
) -> Publisher {
    let (queue, mut ready) = mpsc::channel::<(Staged, Reply)>(LARGEST_BATCH);
    threads.spawn_blocking(move || {
        // While one commit runs the next ones queue up: batches grow with the load, and nobody waits for company.
        while let Some(first) = ready.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < LARGEST_BATCH
                && let Ok(more) = ready.try_recv()
            {
                batch.push(more);
            }
            commit(&target, durability, &clock, batch);
        }
    });
    Publisher { queue }
}

fn commit(target: &Target, durability: Durability, clock: &LeaseClock, batch: Vec<(Staged, Reply)>) {
    let durable = durability == Durability::Power;
    // After a failed sync nothing can be trusted: the kernel may have dropped what it could not write.
    let synced = if durable { sync_file_system(target) } else { Ok(()) };
    let published: Vec<_> = batch
        .into_iter()
        .map(|(staged, reply)| {
            let result = match &synced {
                Ok(()) => publish_one(target, &staged, durable, clock),
                Err(error) => Err(same(error)),
            };
            (staged, reply, result)
        })
        .collect();
    let recorded = if durable { target.folder().sync_all() } else { Ok(()) };
    for (staged, reply, result) in published {
        let result = result.and_then(|publication| match &recorded {
            Ok(()) => Ok(publication),
            Err(error) => Err(same(error)),
        });
        if result.as_ref().is_ok_and(|publication| !matches!(publication, Publication::Fenced))
            && let Err(error) = staged.staging.remove()
        {
            tracing::warn!(wnid = %staged.wnid, %error, "could not remove the staging folder");
        }
        // A receiver that is gone was stopped; the class is there and the next run finds it.
        reply.send(result).ok();
    }
}

/// The same error for each class of the batch.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
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

/// The tar first: where the folder is, everything is. Nothing that stands there is touched under a lease that may be gone.
fn publish_one(target: &Target, staged: &Staged, durable: bool, clock: &LeaseClock) -> io::Result<Publication> {
    let replace = staged.replace && !clock.has_run_out();
    if staged.replace && !replace && target.class_folder(staged.wnid).symlink_metadata().is_ok() {
        return Ok(Publication::Fenced);
    }
    if durable {
        File::open(staged.staging.class_folder())?.sync_all()?;
    }
    if staged.tar == TarFate::Move {
        fs::rename(staged.staging.tar(), target.tar(staged.wnid))?;
    }
    let publication = rename_folder(target, staged, replace)?;
    if staged.tar == TarFate::Remove {
        remove_tar(target, staged.wnid)?;
    }
    Ok(publication)
}

/// A plain rename replaces an empty folder, which is wanted, and refuses one with something in it. It refuses a file or a
/// link under the name as well, and never follows a link.
fn rename_folder(target: &Target, staged: &Staged, replace: bool) -> io::Result<Publication> {
    let (from, to) = (staged.staging.class_folder(), target.class_folder(staged.wnid));
    let error = match fs::rename(&from, &to) {
        Ok(()) => return Ok(Publication::Done),
        Err(error) => error,
    };
    // Whatever went wrong, on a network disk also an answer that was lost: what stands there decides.
    if let Ok(Some(manifest)) = manifest::read(&to, staged.wnid) {
        return Ok(Publication::AlreadyThere(manifest));
    }
    if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory) {
        return Err(error);
    }
    if !replace {
        return Ok(Publication::Occupied);
    }
    fs::rename(&to, staged.staging.replaced())?;
    fs::rename(&from, &to)?;
    Ok(Publication::Done)
}

/// Removes a class's tar, if there is one.
pub(crate) fn remove_tar(target: &Target, wnid: Wnid) -> io::Result<()> {
    match fs::remove_file(target.tar(wnid)) {
        // A folder of that name is no tar.
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
        Staged { wnid, staging, tar: TarFate::Stay, replace: true }
    }

    #[test]
    fn what_stands_there_is_not_replaced_after_a_suspension() {
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
        assert!(matches!(publication, Publication::Fenced), "{publication:?}");
        assert!(class.join("old.JPEG").exists() && first.staging.class_folder().join("new.JPEG").exists());

        assert!(clock.answered(1, clock.now(), Duration::from_secs(30)));
        let publication = publish_one(&target, &first, false, &clock).unwrap();
        assert!(matches!(publication, Publication::Done), "{publication:?}");
        assert!(class.join("new.JPEG").exists() && !class.join("old.JPEG").exists());
    }

    #[test]
    fn where_nothing_stands_the_rename_is_the_only_fence() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let clock = LeaseClock::new(|| Duration::from_mins(10));
        assert!(clock.answered(1, Duration::ZERO, Duration::from_secs(30)));
        let publication = publish_one(&target, &staged(&target), false, &clock).unwrap();
        assert!(matches!(publication, Publication::Done), "{publication:?}");
    }
}

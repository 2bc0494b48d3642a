//! What all classes of a job share in one process, and the file work that their story needs, off the network's threads.

use std::{io, sync::Arc};

use shared::{
    Wnid,
    job::JobOptions,
    outcome::{Failure, Outcome},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    descriptors::{TooFewDescriptors, make_room},
    download::head,
    existing::{self, Found},
    extract::UnpackError,
    lease_clock::LeaseClock,
    manifest::{self, Manifest, Provenance},
    off_thread::off_thread,
    origin::{Origin, OriginError},
    publish::{self, Publication, Publisher, Staged, TarFate, remove_tar},
    retry::{Verdict, verdict},
    staging::{Checkpoint, Staging, Unpacked},
    tally::Tally,
    target::{Target, TargetError},
    unfinished::{self, Unfinished, conflict, storage},
};

/// A job at a target.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) job: JobOptions,
    pub(crate) origin: Origin,
    target: Arc<Target>,
    clock: Arc<LeaseClock>,
    publisher: Publisher,
    tally: Arc<Tally>,
}

/// Why work cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The target folder.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The HTTP client.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The limit on open files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
}

impl Site {
    /// Makes the HTTP client and starts the committer, which ends some time after the site is dropped.
    pub(crate) fn open(
        job: JobOptions,
        target: Arc<Target>,
        clock: Arc<LeaseClock>,
        slots: usize,
        tally: Arc<Tally>,
        threads: &mut JoinSet<()>,
    ) -> Result<Self, SiteError> {
        make_room(slots)?;
        let origin = Origin::new(&job, slots, tally.retries.clone())?;
        let publisher = publish::start(Arc::clone(&target), job.durability, Arc::clone(&clock), threads);
        Ok(Self { job, origin, target, clock, publisher, tally })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Until when the leases are this worker's.
    pub(crate) fn clock(&self) -> &Arc<LeaseClock> {
        &self.clock
    }

    /// What stands under the class's name.
    pub(crate) async fn look(&self, wnid: Wnid) -> Result<Found, Unfinished> {
        let keep_tar = !self.job.delete_tar;
        self.off_thread(move |target| {
            existing::look(target, wnid, keep_tar).map_err(|error| storage(target, "look at what is there", error))
        })
        .await
    }

    /// With `--delete-tar` no tar is left behind, also not by an earlier run.
    pub(crate) async fn drop_tar(&self, wnid: Wnid) -> Result<(), Unfinished> {
        if !self.job.delete_tar {
            return Ok(());
        }
        self.off_thread(move |target| {
            remove_tar(target, wnid).map_err(|error| storage(target, "remove the tar", error))
        })
        .await
    }

    /// A staging folder, with what an earlier attempt has left in it.
    pub(crate) async fn take_over(&self, wnid: Wnid) -> Result<(Staging, Option<Checkpoint>), Unfinished> {
        let url = crate::download_error::shown(&self.job.url.for_class(wnid));
        let with_tar = !self.job.delete_tar;
        self.off_thread(move |target| {
            Staging::take_over(target, wnid, &url, with_tar)
                .map_err(|error| unfinished::staging(target, "make a staging folder", error))
        })
        .await
    }

    /// Proves a folder that has no manifest by one question to the origin, and gives it one; or says why not.
    pub(crate) async fn prove(&self, wnid: Wnid, retries: u32) -> Result<Outcome, Unfinished> {
        let asked = head(&self.origin, &self.job.url.for_class(wnid), retries).await;
        let source = asked.map_err(|error| match verdict(&error) {
            // Tried to the end: the origin's fault, and no word about the folder.
            Verdict::Retry { .. } => Unfinished::Failed(error.into()),
            Verdict::GiveUp => conflict(&format!("the folder has no manifest, and cannot be proved: {error}")),
        })?;
        let Some(length) = source.length else {
            return Err(conflict("the folder has no manifest, and the origin does not say how long the tar is"));
        };
        let run = self.job.run_id.clone();
        self.off_thread(move |target| {
            let folder = target.class_folder(wnid);
            let proved = existing::matches(&folder, length);
            if let Err(why) = proved.map_err(|error| storage(target, "read the folder", error))? {
                return Err(conflict(&format!(
                    "the folder has no manifest, and is not the origin's tar: {why} \
                     (--existing replace downloads it anew, --existing trust takes it as it is)"
                )));
            }
            let manifest = existing::adopt(&folder, wnid, &run, &source)
                .map_err(|error| storage(target, "adopt the folder", error))?;
            tracing::info!(%wnid, "adopted: the folder is the whole tar");
            Ok(Outcome::Skipped(manifest.published()))
        })
        .await
    }

    /// Publishes what is complete in a staging folder.
    pub(crate) async fn publish(
        &self,
        wnid: Wnid,
        unpacked: Unpacked,
        tar: TarFate,
        replace: bool,
    ) -> Result<Outcome, Unfinished> {
        let began = Instant::now();
        let run = self.job.run_id.clone();
        let (staging, manifest) = self
            .off_thread(move |target| {
                let manifest = write_manifest(&unpacked, wnid, &run)
                    .map_err(|error| unfinished::staging(target, "write the manifest", error))?;
                Ok((unpacked.staging, manifest))
            })
            .await?;
        let staged = Staged { wnid, staging, tar, replace };
        let published = self.publisher.publish(staged).await;
        self.tally.publishes.record(began.elapsed());
        match published {
            Ok(Publication::Done) => Ok(Outcome::Success(manifest.published())),
            Ok(Publication::AlreadyThere(manifest)) => Ok(self.found(&manifest)),
            Ok(Publication::Fenced) => {
                tracing::info!(%wnid, "complete, but what is there is not replaced under a lease that may be gone");
                Err(Unfinished::Stopped)
            }
            Ok(Publication::Occupied) => Err(conflict("something was put under the class's name in the meantime")),
            Err(error) => Err(unfinished::staging(&self.target, "publish the class", error)),
        }
    }

    /// Sorts what broke an unpacking; a bad archive leaves nothing behind.
    pub(crate) async fn broken(&self, staging: Staging, error: UnpackError) -> Unfinished {
        match error.into_failure() {
            Err((action, error)) => unfinished::staging(&self.target, &action, error),
            Ok(failure) => self.failed(staging, failure).await,
        }
    }

    /// Ends a class as failed; what was staged of it is of no use to anybody.
    pub(crate) async fn failed(&self, staging: Staging, failure: Failure) -> Unfinished {
        let removed = self.off_thread(move |target| {
            staging.remove().map_err(|error| storage(target, "remove a staging folder", error))
        });
        removed.await.err().unwrap_or(Unfinished::Failed(failure))
    }

    /// The outcome of a class whose folder is complete. A manifest of this very run: an earlier process published the class
    /// and had no time to say so.
    pub(crate) fn found(&self, manifest: &Manifest) -> Outcome {
        let published = manifest.published();
        if manifest.run == self.job.run_id { Outcome::Success(published) } else { Outcome::Skipped(published) }
    }

    /// Runs file work where it may block.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Target) -> Result<T, Unfinished> + Send + 'static,
    ) -> Result<T, Unfinished> {
        let target = Arc::clone(&self.target);
        off_thread(move || work(&target)).await
    }
}

/// Writes the manifest from the journal, which must have every file that the tar had.
fn write_manifest(unpacked: &Unpacked, wnid: Wnid, run: &str) -> io::Result<Manifest> {
    let Unpacked { staging, source, files } = unpacked;
    let entries = staging.entries()?.map(Ok);
    let provenance = Provenance { wnid, run, source, adopted: false };
    let manifest = manifest::write(&staging.class_folder(), provenance, entries)?;
    if manifest.published().files != *files {
        return Err(io::Error::other("the journal does not have every file of the tar"));
    }
    Ok(manifest)
}

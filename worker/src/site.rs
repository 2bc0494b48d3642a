//! What all classes of a job share in one process, and the file work that their story needs, off the network's threads.

use std::{io, path::Path, sync::Arc};

use shared::{
    Wnid,
    job::JobOptions,
    outcome::{Failure, FailureKind, Outcome},
};
use tokio::task::JoinSet;

use crate::{
    download::head,
    existing::{self, Found},
    extract::UnpackError,
    manifest::{self, Manifest, Provenance},
    origin::{Origin, OriginError},
    publish::{self, Publication, Publisher, Staged, TarFate, remove_tar},
    source::Source,
    staging::{Checkpoint, Staging},
    target::{Target, TargetError},
    unfinished::{Unfinished, conflict},
};

/// A job at a target.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) job: JobOptions,
    pub(crate) origin: Origin,
    target: Arc<Target>,
    publisher: Publisher,
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
}

impl Site {
    /// Opens the target and starts the committer, which ends some time after the site is dropped.
    pub(crate) fn open(
        job: JobOptions,
        target: &Path,
        slots: usize,
        threads: &mut JoinSet<()>,
    ) -> Result<Self, SiteError> {
        let target = Arc::new(Target::open(target)?);
        let origin = Origin::new(&job, slots)?;
        let publisher = publish::start(Arc::clone(&target), job.durability, threads);
        Ok(Self { job, origin, target, publisher })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What stands under the class's name.
    pub(crate) async fn look(&self, wnid: Wnid) -> Result<Found, Unfinished> {
        self.off_thread(move |target| existing::look(target, wnid).map_err(|source| unreadable(target, wnid, &source)))
            .await
    }

    /// With `--delete-tar` no tar is left behind, also not by an earlier run.
    pub(crate) async fn drop_tar(&self, wnid: Wnid) -> Result<(), Unfinished> {
        if !self.job.delete_tar {
            return Ok(());
        }
        self.off_thread(move |target| {
            remove_tar(target, wnid).map_err(|source| Unfinished::Target(target.error("remove a tar", source)))
        })
        .await
    }

    /// A staging folder, with what an earlier attempt has left in it.
    pub(crate) async fn take_over(&self, wnid: Wnid) -> Result<(Staging, Option<Checkpoint>), Unfinished> {
        let url = crate::download_error::shown(&self.job.url.for_class(wnid));
        let with_tar = !self.job.delete_tar;
        self.off_thread(move |target| {
            Staging::take_over(target, wnid, &url, with_tar)
                .map_err(|source| Unfinished::Target(target.error("make a staging folder", source)))
        })
        .await
    }

    /// Proves a folder that has no manifest by one question to the origin, and gives it one; or says why not.
    pub(crate) async fn prove(&self, wnid: Wnid) -> Result<Outcome, Unfinished> {
        let asked = head(&self.origin, &self.job.url.for_class(wnid), self.job.retries).await;
        let source = asked.map_err(|error| match Failure::from(error) {
            failure if failure.kind.is_transient() => Unfinished::Failed(failure),
            failure => conflict(&format!("the folder has no manifest, and cannot be proved: {}", failure.message)),
        })?;
        let Some(length) = source.length else {
            return Err(conflict("the folder has no manifest, and the origin does not say how long the tar is"));
        };
        let run = self.job.run_id.clone();
        self.off_thread(move |target| {
            let folder = target.class_folder(wnid);
            let unreadable = |source: io::Error| unreadable(target, wnid, &source);
            if let Err(why) = existing::matches(&folder, length).map_err(unreadable)? {
                return Err(conflict(&format!(
                    "the folder has no manifest, and is not the origin's tar: {why} \
                     (--existing replace downloads it anew, --existing trust takes it as it is)"
                )));
            }
            let manifest = existing::adopt(&folder, wnid, &run, &source)
                .map_err(|source| Unfinished::Target(target.error("write a manifest", source)))?;
            tracing::info!(%wnid, "adopted: the folder is the whole tar");
            Ok(Outcome::Skipped(manifest.published()))
        })
        .await
    }

    /// Publishes what is complete in a staging folder.
    pub(crate) async fn publish(
        &self,
        wnid: Wnid,
        staging: Staging,
        source: Source,
        tar: TarFate,
        replace: bool,
    ) -> Result<Outcome, Unfinished> {
        let run = self.job.run_id.clone();
        let (staging, manifest) = self
            .off_thread(move |target| {
                let manifest = write_manifest(&staging, wnid, &run, &source)
                    .map_err(|source| Unfinished::Target(target.error("write a manifest", source)))?;
                Ok((staging, manifest))
            })
            .await?;
        let staged = Staged { wnid, staging, tar, replace };
        match self.publisher.publish(staged).await {
            Ok(Publication::Done) => Ok(Outcome::Success(manifest.published())),
            Ok(Publication::AlreadyThere) => Ok(Outcome::Skipped(manifest.published())),
            Ok(Publication::Occupied) => Err(conflict("something was put under the class's name in the meantime")),
            Err(source) => Err(Unfinished::Target(self.target.error("publish a class", source))),
        }
    }

    /// Sorts what broke an unpacking; a bad archive leaves nothing behind.
    pub(crate) async fn broken(&self, staging: Staging, error: UnpackError) -> Unfinished {
        match error.into_failure() {
            Err((action, source)) => Unfinished::Target(self.target.error(action, source)),
            Ok(failure) => {
                let removed = self.off_thread(move |target| {
                    staging
                        .remove()
                        .map_err(|source| Unfinished::Target(target.error("remove a staging folder", source)))
                });
                removed.await.err().unwrap_or(Unfinished::Failed(failure))
            }
        }
    }

    /// Runs file work where it may block.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Target) -> Result<T, Unfinished> + Send + 'static,
    ) -> Result<T, Unfinished> {
        let target = Arc::clone(&self.target);
        tokio::task::spawn_blocking(move || work(&target)).await.expect("file work does not panic")
    }
}

fn write_manifest(staging: &Staging, wnid: Wnid, run: &str, source: &Source) -> io::Result<Manifest> {
    let files = staging.entries()?.map(Ok);
    manifest::write(&staging.class_folder(), Provenance { wnid, run, source, adopted: false }, files)
}

/// What cannot be read under one class's name is that class's failure.
fn unreadable(target: &Target, wnid: Wnid, error: &io::Error) -> Unfinished {
    let folder = target.class_folder(wnid);
    Unfinished::Failed(Failure::new(FailureKind::StorageError, format!("cannot read {}: {error}", folder.display())))
}

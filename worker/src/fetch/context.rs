//! What all classes of a job share in one process, and the file operations that fetching a class
//! needs.
//!
//! A class has its own thread, so its file operations may block.

use std::{fmt::Display, io, path::PathBuf, sync::Arc};

use shared::{
    Wnid,
    job::JobOptions,
    outcome::{Failure, Outcome, Published},
    owner::explained,
    threads::NoThread,
};
use tokio::{runtime::Handle, task::JoinSet, time::Instant};

use crate::{
    extract::UnpackError,
    fetch::resume::{Checkpoint, take_over},
    fetch::{
        origin_proof::{self, NotProved},
        unfinished::{self, Unfinished, conflict, storage},
    },
    lease_clock::LeaseClock,
    observe::{counters::WorkerCounters, progress::ClassProgress},
    origin::{Origin, client::OriginError},
    process_limits::{TooFewDescriptors, raise_open_files_limit},
    source::Source,
    storage::{
        disk_space::DiskSpace,
        existing::{self, ExistingFolder, TAR_OF_ANOTHER, Unproved},
        kept_tar::{self, KeptTar},
        manifest::{self, Manifest},
        publish::{self, Publication, Publisher, Replace, Staged, TarFate, remove_tar},
        set_aside,
        staging::{Staging, Unpacked},
        target::{Target, TargetError},
    },
};

/// The job, its target and its origin.
#[derive(Debug)]
pub(crate) struct JobContext {
    pub(crate) job: JobOptions,
    origin: Origin,
    target: Arc<Target>,
    clock: Arc<LeaseClock>,
    publisher: Publisher,
    disk_space: Arc<DiskSpace>,
    counters: Arc<WorkerCounters>,
    runtime: Handle,
}

/// Why a job cannot start.
#[derive(Debug, thiserror::Error)]
pub enum JobContextError {
    /// The target folder cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The limit on open files is too low.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// A slot's runtime cannot be started.
    #[error("start the downloads: {0}; allow the process more open files")]
    Runtime(io::Error),
    /// A thread cannot be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
}

impl JobContext {
    /// Starts the committer, which ends soon after the context is dropped.
    pub(crate) fn open(
        job: JobOptions,
        origin: Origin,
        target: Arc<Target>,
        clock: Arc<LeaseClock>,
        slots: usize,
        counters: Arc<WorkerCounters>,
        threads: &mut JoinSet<()>,
    ) -> Result<Self, JobContextError> {
        raise_open_files_limit(slots)?;
        let publisher = publish::start(
            Arc::clone(&target),
            job.durability,
            Arc::clone(&clock),
            threads,
        )?;
        let disk_space = DiskSpace::new(Arc::clone(&target));
        Ok(Self {
            job,
            origin,
            target,
            clock,
            publisher,
            disk_space,
            counters,
            runtime: Handle::current(),
        })
    }

    /// Returns an error if the origin's address is not allowed.
    pub(crate) async fn check_origin(&self) -> Result<(), JobContextError> {
        Ok(self.origin.check_address().await?)
    }

    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The clock that tells until when the leases are valid.
    pub(crate) fn clock(&self) -> &Arc<LeaseClock> {
        &self.clock
    }

    /// The origin of the tars.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The origin, and the runtime for the tasks that fetch parts.
    pub(crate) fn origin_and_runtime(&self) -> (&Origin, &Handle) {
        (&self.origin, &self.runtime)
    }

    /// The disk space that the classes of this process share.
    pub(crate) fn disk_space(&self) -> &Arc<DiskSpace> {
        &self.disk_space
    }

    /// What is under the class's final name.
    pub(crate) fn look(&self, wnid: Wnid) -> Result<ExistingFolder, Unfinished> {
        let found = existing::inspect(&self.target, wnid, &self.job);
        found.map_err(|error| self.storage(wnid, "look at what is there", error))
    }

    /// The tar in the target, if this program wrote it.
    pub(crate) fn own_tar(&self, wnid: Wnid) -> Result<Option<KeptTar>, Unfinished> {
        let written = kept_tar::written_here(&self.target, wnid);
        written.map_err(|error| self.storage(wnid, "look at the tar", error))
    }

    /// With `--delete-tar`, removes a tar that this program wrote, also one of an earlier run.
    pub(crate) fn drop_tar(&self, wnid: Wnid) -> Result<(), Unfinished> {
        if !self.job.delete_tar || self.own_tar(wnid)?.is_none() {
            return Ok(());
        }
        remove_tar(&self.target, wnid)
            .map_err(|error| storage(&self.target, "remove the tar", error))
    }

    /// Removes a staging folder that is not needed any more.
    pub(crate) fn drop_staging(&self, staging: &Staging) -> Result<(), Unfinished> {
        let removed = staging.remove();
        removed.map_err(|error| unfinished::staging(&self.target, "remove a staging folder", error))
    }

    /// A staging folder, with the checkpoint of an earlier attempt if there is one.
    pub(crate) fn take_over(
        &self,
        wnid: Wnid,
    ) -> Result<(Staging, Option<Checkpoint>), Unfinished> {
        let url = crate::source::shown(&self.job.url.for_class(wnid));
        take_over(&self.target, wnid, &url, !self.job.delete_tar)
            .map_err(|error| unfinished::staging(&self.target, "make a staging folder", error))
    }

    /// Verifies a folder by the length of the tar that the origin announces. Then gives it a
    /// manifest, unless it is another user's: a manifest there proves nothing. Otherwise returns
    /// the reason.
    pub(crate) async fn prove(
        &self,
        origin: &Origin,
        wnid: Wnid,
        retries: u32,
        progress: &ClassProgress,
        unproved: Unproved,
    ) -> Result<Outcome, Unfinished> {
        let adopt_if_whole = |source: &Source| {
            let _local = progress.locally();
            self.adopt_if_whole(wnid, source, unproved)
        };
        let url = self.job.url.for_class(wnid);
        let proved = origin_proof::prove(origin, &url, retries, adopt_if_whole).await?;
        proved.map_err(|why| match why {
            NotProved::Differs(why) => conflict(&format!(
                "{unproved}, and {why} \
                 (--existing replace downloads it anew, --existing trust takes it as it is)"
            )),
            NotProved::Refused(error) => {
                conflict(&format!("{unproved}, and cannot be proved ({error})"))
            }
        })
    }

    /// Gives a folder a manifest if the sizes of its files add up to the tar; the inner error is
    /// why they do not.
    fn adopt_if_whole(
        &self,
        wnid: Wnid,
        source: &Source,
        unproved: Unproved,
    ) -> Result<Result<Outcome, String>, Unfinished> {
        let Some(length) = source.length else {
            return Ok(Err("the origin does not say how long the tar is".to_owned()));
        };
        let folder = self.target.class_folder(wnid);
        let proved = existing::matches(&folder, length);
        let files = match proved.map_err(|error| self.storage(wnid, "read the folder", error))? {
            Ok(files) => files,
            Err(why) => return Ok(Err(format!("is not the origin's tar, because {why}"))),
        };
        if unproved == Unproved::OfAnotherUser {
            tracing::info!(%wnid, "the folder is another user's, and is as long as the whole tar");
            return Ok(Ok(Outcome::Skipped(Published {
                files,
                bytes: length,
            })));
        }
        let manifest = existing::adopt(&folder, wnid, &self.job.run_id, source)
            .map_err(|error| self.storage(wnid, "adopt the folder", error))?;
        tracing::info!(%wnid, "adopted: the folder is the whole tar");
        Ok(Ok(Outcome::Skipped(manifest.published())))
    }

    /// Publishes a complete class from its staging folder.
    pub(crate) async fn publish(
        &self,
        wnid: Wnid,
        unpacked: Unpacked,
        tar: TarFate,
        replace: Replace,
        own_tar: Option<KeptTar>,
    ) -> Result<Outcome, Unfinished> {
        let began = Instant::now();
        let manifest = kept(&unpacked.staging, tar, own_tar)
            .and_then(|kept_tar| write_manifest(&unpacked, wnid, &self.job.run_id, kept_tar))
            .map_err(|error| unfinished::staging(&self.target, "write the manifest", error))?;
        let staged = Staged {
            wnid,
            staging: unpacked.staging,
            tar,
            replace,
        };
        let published = self.publisher.publish(staged).await;
        self.counters.publishes.record(began.elapsed());
        match published {
            Ok(Publication::Done) => Ok(Outcome::Success(manifest.published())),
            Ok(Publication::AlreadyThere(manifest)) => Ok(self.found(&manifest)),
            Ok(Publication::Fenced) => {
                tracing::info!(%wnid, "complete, but what is there is not replaced under a lease that may be gone");
                Err(Unfinished::Stopped)
            }
            Ok(Publication::Occupied) => Err(conflict(
                "something was put under the class's name in the meantime",
            )),
            Ok(Publication::CannotKeep(why)) => Err(cannot_keep(&why)),
            Err(error) => {
                let error = self.explained(wnid, error);
                Err(unfinished::staging(
                    &self.target,
                    "publish the class",
                    error,
                ))
            }
        }
    }

    /// The folder for files of users that the manifest of a class does not list; `None` if the
    /// class folder has no such files.
    ///
    /// # Errors
    /// A conflict if there are such files and no folder can keep them.
    pub(crate) fn place_of_unlisted(&self, wnid: Wnid) -> Result<Option<PathBuf>, Unfinished> {
        let found = set_aside::has_unlisted(&self.target.class_folder(wnid), wnid);
        if !found.map_err(|error| self.storage(wnid, "read the folder", error))? {
            return Ok(None);
        }
        set_aside::place(&self.target)
            .map(Some)
            .map_err(|why| cannot_keep(&why))
    }

    /// Returns a conflict if another user's file has the tar's name and cannot be renamed.
    pub(crate) fn check_tar_name(&self, wnid: Wnid) -> Result<(), Unfinished> {
        if self.job.delete_tar {
            return Ok(());
        }
        let Ok(found) = self.target.tar(wnid).symlink_metadata() else {
            return Ok(());
        };
        let users = self
            .target
            .users()
            .map_err(|error| self.storage(wnid, "look at the target", error))?;
        if users.can_replace(&found) {
            Ok(())
        } else {
            Err(conflict(TAR_OF_ANOTHER))
        }
    }

    /// Counts a folder that differed from its manifest and was replaced.
    pub(crate) fn count_replaced_folder(&self) {
        self.counters.replaced_folders.inc();
    }

    /// As [`storage`], for operations on what is under a class's final names.
    fn storage(&self, wnid: Wnid, action: &str, error: io::Error) -> Unfinished {
        storage(&self.target, action, self.explained(wnid, error))
    }

    fn explained(&self, wnid: Wnid, error: io::Error) -> io::Error {
        let folder = self.target.class_folder(wnid);
        explained(
            error,
            [
                folder.join(manifest::MANIFEST),
                folder,
                self.target.tar(wnid),
                self.target.root().to_owned(),
            ],
        )
    }

    /// Converts an unpacking error. Nothing of an invalid archive is kept.
    pub(crate) fn broken(&self, staging: &Staging, error: UnpackError) -> Unfinished {
        match error.into_failure() {
            Err((action, error)) => unfinished::staging(&self.target, &action, error),
            Ok(failure) => self.failed(staging, failure),
        }
    }

    /// Ends a class as failed, and removes its staging folder, which no other attempt can use.
    pub(crate) fn failed(&self, staging: &Staging, failure: Failure) -> Unfinished {
        match staging.remove() {
            Ok(()) => Unfinished::Failed(failure),
            Err(error) => storage(&self.target, "remove a staging folder", error),
        }
    }

    /// The outcome of a class whose folder is complete. If the manifest is of this run, an earlier
    /// process published the class and ended before it reported it.
    pub(crate) fn found(&self, manifest: &Manifest) -> Outcome {
        let published = manifest.published();
        if manifest.run == self.job.run_id {
            Outcome::Success(published)
        } else {
            Outcome::Skipped(published)
        }
    }
}

/// The class has files that its manifest does not list, and they cannot be kept elsewhere.
fn cannot_keep(why: &impl Display) -> Unfinished {
    conflict(&format!(
        "its folder has files that its manifest does not list, and {why}; move them out of the folder and run the \
         same command again"
    ))
}

/// What the manifest records of the tar: the one that is published with the class, or one that
/// stays and was written by this program.
fn kept(staging: &Staging, tar: TarFate, own: Option<KeptTar>) -> io::Result<Option<KeptTar>> {
    match tar {
        TarFate::Move | TarFate::MoveOver => KeptTar::of(&staging.tar()),
        TarFate::Stay => Ok(own),
        TarFate::Remove => Ok(None),
    }
}

/// Writes the manifest from the journal, which must list every file of the tar.
fn write_manifest(
    unpacked: &Unpacked,
    wnid: Wnid,
    run: &str,
    kept_tar: Option<KeptTar>,
) -> io::Result<Manifest> {
    let Unpacked {
        staging,
        source,
        files,
    } = unpacked;
    let folder = staging.class_folder();
    let mut manifest = Manifest::new(wnid, run, source);
    manifest.kept_tar = kept_tar;
    let mut writer = manifest::Writer::create(&folder, manifest)?;
    let mut entries = staging.entries()?;
    while let Some(file) = entries.next_finished() {
        writer.copy(file)?;
    }
    let manifest = writer.finish()?;
    if manifest.published().files != *files {
        return Err(io::Error::other(
            "the journal does not have every file of the tar",
        ));
    }
    Ok(manifest)
}

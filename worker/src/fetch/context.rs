//! What all classes of a job share in one process.

use std::{io, sync::Arc};

use shared::{job::JobOptions, outcome::Outcome, threads::NoThread};
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    lease_clock::LeaseClock,
    observe::counters::WorkerCounters,
    origin::{
        Origin, allowed_addresses::PrivateOrigin, client::OriginError, limiter::OriginLimiter,
    },
    process_limits::{TooFewDescriptors, raise_open_files_limit},
    storage::{
        disk_space::DiskSpace,
        manifest::Manifest,
        publish::{self, Publisher},
        target::{Target, TargetError},
    },
};

/// The job, its target and its origin.
#[derive(Debug)]
pub(crate) struct JobContext {
    pub(crate) job: JobOptions,
    pub(crate) origin: Origin,
    pub(crate) target: Arc<Target>,
    /// Tells until when the leases are valid.
    pub(crate) clock: Arc<LeaseClock>,
    pub(crate) publisher: Publisher,
    pub(crate) disk_space: Arc<DiskSpace>,
    pub(crate) counters: Arc<WorkerCounters>,
    /// The runtime for the tasks that fetch parts.
    pub(crate) runtime: Handle,
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
        private: PrivateOrigin,
        limiter: Arc<OriginLimiter>,
        target: Arc<Target>,
        clock: Arc<LeaseClock>,
        slots: usize,
        threads: &mut JoinSet<()>,
    ) -> Result<Self, JobContextError> {
        let counters = Arc::clone(&limiter.counters);
        let origin = Origin::new(&job, private, limiter)?;
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

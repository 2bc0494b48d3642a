//! The worker: leases classes from a coordinator, downloads, unpacks and publishes them.
//!
//! For one program on one machine there is [`download_batch`], with [`load_part_ids_from_csv`] beside it. The modules below
//! stand in the order in which a class meets them.

mod calls;
pub mod config;
mod coordinator_client;
mod joining;
mod lane;
mod lease_clock;
mod renewal;
mod room;
mod session;
mod slots;
mod stop_reason;
mod survey;
mod unreported;

mod broken_off_tar;
mod comparison;
mod existing;
mod fetch_class;
mod kept_tar;
mod local_tar;
mod receive;
mod site;
mod unfinished;

mod address_range;
mod allowed_addresses;
mod attempts;
mod authorities;
mod client;
mod client_error;
mod download;
mod download_error;
mod lookup;
mod origin;
mod origin_proof;
mod pace;
mod part_file;
mod proxies;
mod receive_window;
mod redirect;
mod retry;
mod route;
mod source;
mod tail;

mod area_access;
mod beginning;
mod checkpoint;
mod checkpoint_timer;
mod disk_space;
mod extract;
mod file_tree;
mod manifest;
mod publish;
mod set_aside;
mod staged_tar;
mod staging;
mod staging_area;
mod staging_place;
mod storage_id;
mod target;
mod target_users;

pub mod forecast;
pub mod http;
mod library;
mod progress;
mod tally;
pub mod verify;

#[cfg(test)]
mod fixture;

use std::{path::PathBuf, sync::Arc};

use shared::{connect::Connector, exit_code::Exit, job::JobStatus, job_line::Screen, shutdown::Shutdown};
use tokio::sync::watch;

pub use crate::{
    allowed_addresses::RefusedAddress,
    client::OriginError,
    library::{
        BatchError, BatchProgress, ClassUnderWay, DEFAULT_URL, Options, ProgressCallback, ReadError, Stats,
        download_batch, load_part_ids_from_csv,
    },
    renewal::RenewalError,
    room::TooFewDescriptors,
    site::SiteError,
    tally::Tally,
    target::TargetError,
};
pub use shared::{
    class_list::ClassListError,
    job::{Durability, Existing, InvalidUrl, SecretHeader},
    outcome::{Failure, FailureKind},
};
pub use tokio_util::sync::CancellationToken;

use crate::{coordinator_client::Identity, progress::Progress, session::Ended};

/// The version and the commit that this was built from, as far as that is known.
pub const VERSION: &str = env!("IMAGENET_VERSION");

/// What a worker is told by its own command line; the rest comes from the coordinator.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Stable name, e.g. the host's.
    pub name: String,
    /// Parallel downloads, at least 1.
    pub slots: usize,
    /// Folder that gets the class folders.
    pub target: PathBuf,
    /// Folder in which classes are put together; beside the target where it is not given.
    pub staging: Option<PathBuf>,
    /// The coordinator may send it to an origin at a private or loopback address.
    pub allow_private_origin: bool,
    /// The job's counts as they are now, where the coordinator is in the same process. Without them
    /// the job's line shows those of the coordinator's last answer.
    pub counts: Option<watch::Receiver<JobStatus>>,
}

/// Why a worker could not run, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator answered that it never will.
    #[error("work for the coordinator: {0}")]
    Refused(String),
    /// The target folder, or the HTTP client.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The thread of the renewals.
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    /// The target failed on the way, e.g. because it is full.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Works for the coordinator until the job is done or the worker is drained (`Exit::Done`), or the shutdown asks for an end
/// (`Exit::Interrupted`). What it does is counted in `tally`.
///
/// # Errors
/// [`WorkerError`]; what was leased is checkpointed and handed back first.
pub async fn run(
    config: &WorkerConfig,
    connector: &Connector,
    screen: &Screen,
    shutdown: &Shutdown,
    tally: &Arc<Tally>,
) -> Result<Exit, WorkerError> {
    let who = Identity { name: config.name.clone(), nonce: rand::random(), slots: config.slots };
    let progress = Progress::new(screen.clone(), Arc::clone(tally));
    loop {
        let ended = session::work(connector, &who, config, &progress, shutdown).await;
        if !matches!(ended, Ok(Ended::AnotherRun)) {
            tally.tell_mended();
        }
        match ended? {
            Ended::JobDone | Ended::Dismissed => return Ok(Exit::Done),
            Ended::Drained => return Ok(Exit::Interrupted),
            Ended::AnotherRun => tracing::info!("the coordinator has begun another run"),
        }
    }
}

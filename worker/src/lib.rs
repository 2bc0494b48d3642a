//! The worker: leases classes from a coordinator, downloads, unpacks and publishes them.
//!
//! For one program on one machine there is [`download_batch`], with [`load_part_ids_from_csv`]. The
//! modules below are in the order in which a class passes through them.

pub mod config;
mod fetch;
mod lease_clock;
mod observe;
mod process_limits;
mod session;
mod slots;
mod storage;

mod origin;
mod parts;
mod source;
mod version;

mod extract;

pub mod forecast;
mod library;
pub mod verify;

#[cfg(test)]
mod fixture;

use std::sync::Arc;

use shared::{connect::Connector, exit_code::Exit, job_line::Screen, shutdown::Shutdown};

pub use crate::observe::http;
pub use crate::{
    config::WorkerConfig,
    fetch::context::JobContextError,
    library::{
        BatchError, BatchProgress, ClassUnderWay, DEFAULT_URL, FailedClass, Options,
        ProgressCallback, ReadError, Stats, download_batch, load_part_ids_from_csv,
    },
    observe::counters::WorkerCounters,
    origin::{allowed_addresses::RefusedAddress, client::OriginError},
    session::error::WorkerError,
    storage::target::TargetError,
    version::VERSION,
};
pub use shared::{
    class_list::{ClassListError, Unusable},
    job::{Durability, Existing, InvalidUrl, SecretHeader},
    outcome::{Failure, FailureKind},
};
pub use tokio_util::sync::CancellationToken;

use crate::{
    observe::progress::Progress,
    session::{SessionEnd, coordinator_client::Identity},
};

/// Works for the coordinator until the job is done or the worker is drained (`Exit::Done`), or
/// until the shutdown requests its end (`Exit::Interrupted`). Updates `counters`.
///
/// # Errors
/// [`WorkerError`]; before that, leased classes are checkpointed and their leases released.
pub async fn run(
    config: &WorkerConfig,
    connector: &Connector,
    screen: &Screen,
    shutdown: &Shutdown,
    counters: &Arc<WorkerCounters>,
) -> Result<Exit, WorkerError> {
    let identity = Identity {
        name: config.name.clone(),
        nonce: rand::random(),
        slots: config.slots,
    };
    let progress = Progress::new(screen.clone(), Arc::clone(counters));
    loop {
        let ended = session::work(connector, &identity, config, &progress, shutdown).await;
        if !matches!(ended, Ok(SessionEnd::AnotherRun)) {
            counters.log_replaced_folders();
        }
        match ended? {
            SessionEnd::JobDone | SessionEnd::Drained => return Ok(Exit::Done),
            SessionEnd::Interrupted => return Ok(Exit::Interrupted),
            SessionEnd::AnotherRun => tracing::info!("the coordinator has begun another run"),
        }
    }
}

//! Why the coordinator could not run, or not go on.

use std::{io, net::SocketAddr, path::PathBuf};

use shared::{class_list::ClassListError, http::HttpError, telemetry::TelemetryError, threads::NoThread};

use crate::{
    commands::CommandError,
    config::ConfigError,
    demo::DemoError,
    dev::DevWorkerError,
    dry_run::DryRunError,
    failure_log::FailureLogError,
    job::{NothingToRetry, OriginRefusesAll},
    ledger::{LedgerError, NoLastRun},
    rpc::service::ServeError,
    target::TargetError,
};

/// Why the coordinator could not run, or not go on; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A flag or a file that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The CSV cannot be read, or holds no class.
    #[error(transparent)]
    ClassList(ClassListError),
    /// The CSV has no column of classes.
    #[error("read {}: {source}", path.display())]
    Column {
        /// The CSV.
        path: PathBuf,
        /// What is missing.
        source: ClassListError,
    },
    /// The demo's origin.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The target folder.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The detailed log.
    #[error("open the log: {0}")]
    Log(io::Error),
    /// Logs and traces.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A thread that the job needs.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The failure log.
    #[error(transparent)]
    FailureLog(#[from] FailureLogError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is nothing that `--retry-failed` could mean.
    #[error(transparent)]
    NoLastRun(#[from] NoLastRun),
    /// Or nothing to which it could be applied.
    #[error(transparent)]
    NothingToRetry(#[from] NothingToRetry),
    /// Another program has the address.
    #[error("listen on {0}: the address is in use; stop the other program, or give another address with --listen")]
    AddressInUse(SocketAddr),
    /// The address is not to be had.
    #[error("listen on {address}: {source}; give another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something else than a job.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The address of health and metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The service.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The worker in this process.
    #[error(transparent)]
    Worker(#[from] DevWorkerError),
    /// A wrong URL, or a login that is missing.
    #[error(transparent)]
    OriginRefuses(OriginRefusesAll),
    /// A mistake of ours: the counts cannot be trusted any more.
    #[error(
        "go on: the task that keeps the counts has died, which is a bug; run the same command again to resume from what is in the ledger"
    )]
    DispatcherDied,
    /// `--dry-run`.
    #[error(transparent)]
    DryRun(#[from] DryRunError),
    /// The worker in this process left before the job was done.
    #[error("go on: worker {name} stopped: {reason}")]
    WorkerStopped {
        /// The worker's name.
        name: String,
        /// Its last words.
        reason: String,
    },
}

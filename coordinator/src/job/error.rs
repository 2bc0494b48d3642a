//! Errors for which the coordinator cannot run or cannot continue.

use std::{io, path::PathBuf};

use shared::{
    class_list::ClassListError, http::ListenError, telemetry::TelemetryError, threads::NoThread,
};

use crate::{
    commands::CommandError,
    config::ConfigError,
    demo::DemoError,
    dev::DevWorkerError,
    dry_run::DryRunError,
    failure_log::FailureLogError,
    job::{NothingToRetry, OriginRefusesAll},
    ledger::LedgerError,
    rpc::service::ServeError,
    target::TargetError,
};

/// Why the coordinator cannot run or cannot continue; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// A flag, or a file that it names, is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The CSV cannot be read, or contains no class.
    #[error(transparent)]
    ClassList(ClassListError),
    /// The CSV has no `wnid` column.
    #[error("read {}: {source}", path.display())]
    Column {
        /// The CSV.
        path: PathBuf,
        /// The missing column.
        source: ClassListError,
    },
    /// The demo's origin cannot start.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The target folder cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The detailed log cannot be opened.
    #[error("open the log: {0}")]
    Log(io::Error),
    /// Logs or traces cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A thread that the job needs cannot be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The failure log cannot be written.
    #[error(transparent)]
    FailureLog(#[from] FailureLogError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// `--retry-failed` was given and no class of the list failed in the last run.
    #[error(transparent)]
    NothingToRetry(#[from] NothingToRetry),
    /// A command other than a job failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The address for workers, or that of health and metrics, cannot be used.
    #[error(transparent)]
    Http(#[from] ListenError),
    /// The gRPC server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The worker in this process failed.
    #[error(transparent)]
    Worker(#[from] DevWorkerError),
    /// The origin refuses all requests: the URL is wrong, or a login is missing.
    #[error(transparent)]
    OriginRefuses(OriginRefusesAll),
    /// The dispatcher task ended unexpectedly, which is a bug: the counts are no longer reliable.
    #[error(
        "go on: the task that keeps the counts has died, which is a bug; run the same command again to resume from what is in the ledger"
    )]
    DispatcherDied,
    /// `--dry-run` failed.
    #[error(transparent)]
    DryRun(#[from] DryRunError),
    /// The worker in this process stopped before the job was done.
    #[error("go on: worker {name} stopped: {reason}")]
    WorkerStopped {
        /// The worker's name.
        name: String,
        /// The reason that it gave.
        reason: String,
    },
}

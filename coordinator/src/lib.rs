//! The coordinator: reads the class list, leases classes to workers, keeps the counts and the failure log.
//!
//! [`run`] tells the story. The modules stand in the order in which a class meets them.

pub mod commands;
pub mod config;
pub mod demo;
pub mod target;

pub mod dispatcher;
mod failure_lines;
pub mod failure_log;
pub mod fleet;
pub mod lease_table;
pub mod ledger;
pub mod pace;
mod running_time;
pub mod tally;
mod time_left;

mod admin;
pub mod dev;
mod http;
pub mod service;
pub mod trust;
mod wire;

pub mod dry_run;
mod job;
pub mod summary;

use std::{io, net::SocketAddr, path::PathBuf};

use shared::{
    class_list::{ClassList, ClassListError},
    exit_code::Exit,
    http::HttpError,
    job_line::Screen,
    limits,
    output::{Output, Retrying},
    shutdown::Shutdown,
    telemetry::{Telemetry, TelemetryError},
    threads::NoThread,
};

use crate::{
    commands::CommandError,
    config::{ClassSource, Config, ConfigError, Plan},
    demo::{Demo, DemoError},
    dev::DevWorkerError,
    dry_run::DryRunError,
    failure_log::FailureLogError,
    ledger::{LedgerError, NoLastRun},
    service::ServeError,
    target::{Target, TargetError},
};

/// The version and the commit that this was built from, as far as that is known.
pub const VERSION: &str = env!("IMAGENET_VERSION");

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
    NothingToRetry(#[from] job::NothingToRetry),
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
    OriginRefuses(job::OriginRefusesAll),
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

/// Does what the command line asks for. A job runs to its end: reads the list, takes the target, leases every class and tells the outcome.
///
/// `Exit::Interrupted` means that `shutdown` asked for the end.
///
/// # Errors
/// [`CoordinatorError`], one sentence that says what to do.
pub async fn run(config: Config, screen: Screen, shutdown: Shutdown) -> Result<Exit, CoordinatorError> {
    if let Some(command) = config.command {
        return Ok(Box::pin(commands::run(command, &screen, &shutdown, Retrying(io::stdout()))).await?);
    }
    let dry_run = config.origin.dry_run;
    let mut plan = config.plan()?;
    let (classes, _demo) = classes(&mut plan, &screen).await?;
    if dry_run {
        let forecast = Box::pin(dry_run::run(&plan, &classes, Retrying(io::stdout())));
        return match shutdown.drain.run_until_cancelled(forecast).await {
            None => Ok(Exit::Interrupted),
            Some(exit) => Ok(exit?),
        };
    }
    let target = Target::prepare(&plan.target)?;
    let log = target.log().map_err(CoordinatorError::Log)?;
    let telemetry = Telemetry::start(log, &screen, "coordinator")?;
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    target.warn_if_unlocked();
    // A worker has two connections, and many systems give a program only 1024 open files at first.
    limits::raise_open_files(None);
    let out = Output::start("stdout", io::stdout())?;
    let exit = Box::pin(job::run(plan, &classes, &screen, &shutdown, &out, dev::run_worker)).await;
    match &exit {
        Ok(exit) => tracing::info!(code = exit.code(), "finished"),
        // The screen hears it from `main`.
        Err(error) => tracing::info!("failed to {error}"),
    }
    telemetry.flush().await;
    exit
}

/// The classes of the CSV, or those of the demo, which lives as long as what is returned with them.
async fn classes(plan: &mut Plan, screen: &Screen) -> Result<(ClassList, Option<Demo>), CoordinatorError> {
    match &plan.source {
        ClassSource::Csv(path) => match ClassList::read(path) {
            Ok(classes) => Ok((classes, None)),
            Err(source @ ClassListError::MissingColumn { .. }) => {
                Err(CoordinatorError::Column { path: path.clone(), source })
            }
            Err(error) => Err(CoordinatorError::ClassList(error)),
        },
        ClassSource::Demo => {
            let demo = Demo::start().await?;
            job::say(screen, &demo.announcement());
            plan.job.url = demo.url.clone();
            Ok((ClassList { wnids: demo.wnids.clone(), ..ClassList::default() }, Some(demo)))
        }
    }
}

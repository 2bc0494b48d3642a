//! The coordinator: reads the class list, leases classes to workers, and keeps the counts and the
//! failure log.
//!
//! [`run`] is the entry point. The modules are declared in the order in which a class passes
//! through them.

pub mod commands;
pub mod config;
pub mod demo;
pub mod target;

pub mod concurrency;
pub mod counters;
pub mod dispatcher;
pub mod failure_log;
pub mod fleet;
mod fleet_lines;
pub mod lease_table;
pub mod ledger;
mod rpc;
mod running_time;
mod time_left;

pub mod auth;
pub mod dashboard;
pub mod dev;
mod http;

pub mod dry_run;
mod job;
pub mod summary;
mod version;
mod wording;

use std::io;

use shared::{
    class_list::{ClassList, ClassListError},
    exit_code::Exit,
    job_line::Screen,
    limits,
    output::{Output, Retrying},
    shutdown::Shutdown,
    telemetry::Telemetry,
};

use crate::{
    config::{ClassSource, Config, Plan},
    demo::Demo,
    target::Target,
};
pub use crate::{job::CoordinatorError, version::VERSION};

/// Runs the command line. A job runs to its end: it reads the list, locks the target, leases every
/// class and prints the outcome.
///
/// `Exit::Interrupted` means that `shutdown` ended the job.
///
/// # Errors
/// [`CoordinatorError`], one sentence with the remedy.
pub async fn run(
    config: Config,
    screen: Screen,
    shutdown: Shutdown,
) -> Result<Exit, CoordinatorError> {
    if let Some(command) = config.command {
        return Ok(Box::pin(commands::run(
            config.called_as,
            command,
            &screen,
            &shutdown,
            Retrying(io::stdout()),
        ))
        .await?);
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
    for warning in plan.warnings.iter().chain(&classes.warning()) {
        tracing::warn!("{warning}");
    }
    target.warn_if_unlocked();
    // Each worker has two connections, and many systems limit a process to 1024 open files by
    // default.
    limits::raise_open_files(None);
    let out = Output::start("stdout", io::stdout())?;
    let exit = Box::pin(job::run(
        plan,
        &classes,
        &screen,
        &shutdown,
        &out,
        dev::run_worker,
    ))
    .await;
    match &exit {
        Ok(exit) => tracing::info!(code = exit.code(), "finished"),
        // `main` prints it to the screen.
        Err(error) => tracing::info!("failed to {error}"),
    }
    telemetry.flush().await;
    exit
}

/// The classes of the CSV or of the demo. The demo runs until the returned value is dropped.
async fn classes(
    plan: &mut Plan,
    screen: &Screen,
) -> Result<(ClassList, Option<Demo>), CoordinatorError> {
    match &plan.source {
        ClassSource::Csv(path) => match ClassList::read(path) {
            Ok(classes) => Ok((classes, None)),
            Err(source @ ClassListError::MissingColumn { .. }) => Err(CoordinatorError::Column {
                path: path.clone(),
                source,
            }),
            Err(error @ ClassListError::Unusable { .. }) => Err(CoordinatorError::ClassList(error)),
        },
        ClassSource::Demo => {
            let demo = Demo::start().await?;
            screen.write_line(&demo.announcement());
            plan.job.url = demo.url.clone();
            Ok((
                ClassList {
                    wnids: demo.wnids.clone(),
                    ..ClassList::default()
                },
                Some(demo),
            ))
        }
    }
}

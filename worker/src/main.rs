//! `worker`: downloads the classes that a coordinator leases to it.

use std::{error::Error, io, process::ExitCode, sync::Arc};

use shared::{
    exit_code::Exit, http, job_line::Screen, manual::Manual, output::Retrying, own_file::open_log,
    owner::explained, program, shutdown::Shutdown, telemetry::Telemetry,
};
use tokio::task::JoinSet;
use worker::{
    WorkerConfig, WorkerCounters,
    config::{Action, Cli},
};

fn main() -> ExitCode {
    let exit = match Cli::read(std::env::args_os()) {
        Ok(asked) => program::run(asked.output(), async |screen| run(asked, screen).await),
        Err(message) => program::explain(&message),
    };
    exit.into()
}

async fn run(asked: Action, screen: Screen) -> Exit {
    let shutdown = Shutdown::default();
    let done = async {
        match asked {
            Action::Work(cli) => Box::pin(work(*cli, &screen, &shutdown))
                .await
                .map_err(|error| error.to_string()),
            Action::Write(manual) => write(&manual),
        }
    };
    program::with_signals(&screen, &shutdown, done).await
}

fn write(manual: &Manual) -> Result<Exit, String> {
    match manual.write(Cli::manual(), &mut Retrying(io::stdout())) {
        Err(error) if !error.is_closed_pipe() => Err(error.to_string()),
        _ => Ok(Exit::Done),
    }
}

async fn work(cli: Cli, screen: &Screen, shutdown: &Shutdown) -> Result<Exit, Box<dyn Error>> {
    let connector = cli.coordinator.worker_connector()?;
    let config = WorkerConfig {
        name: cli.slots.name(),
        slots: cli.slots.workers,
        allow_private_origin: cli.allow_private_origin || cli.coordinator.is_on_this_host().await,
        target: cli.target,
        staging: cli.staging,
        counts: None,
        rate: None,
    };
    let target = config.target.display();
    std::fs::create_dir_all(&config.target)
        .map_err(|error| explained(error, [&config.target]))
        .map_err(|error| {
            format!("make the target {target}: {error} (or give a writable folder with --target)")
        })?;
    let log = config
        .target
        .join(format!("imagenet_downloader.{}.log", config.name));
    let log = open_log(&log).map_err(|error| {
        format!(
            "open the log {}: {} (or give a writable folder with --target)",
            log.display(),
            explained(error, [&log])
        )
    })?;
    let counters = Arc::<WorkerCounters>::default();
    let mut http_tasks = JoinSet::new();
    if let Some(address) = cli.http {
        let address = worker::http::open(
            address,
            Arc::clone(&counters),
            shutdown.drain.clone(),
            &mut http_tasks,
        )?;
        screen.write_line(&http::announcement(address));
    }
    let telemetry = Telemetry::start(log, screen, "worker")?;
    for warning in cli.coordinator.warnings() {
        tracing::warn!("{warning}");
    }
    let exit = worker::run(&config, &connector, screen, shutdown, &counters).await;
    if let Err(error) = &exit {
        // The caller prints the error to the screen; this is for the log file.
        tracing::info!("failed to {error}");
    }
    telemetry.flush().await;
    Ok(exit?)
}

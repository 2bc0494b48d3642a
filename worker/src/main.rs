//! `worker`: downloads what a coordinator leases to it.

use std::{io, process::ExitCode, sync::Arc};

use shared::{
    exit_code::Exit,
    http,
    job_line::Screen,
    owner::explained,
    program,
    shutdown::Shutdown,
    telemetry::{self, Telemetry},
};
use tokio::task::JoinSet;
use worker::{
    Tally, WorkerConfig,
    config::{Asked, Cli},
};

fn main() -> ExitCode {
    match Cli::read(std::env::args_os()) {
        Ok(asked) => program::run(run(asked)).into(),
        Err(message) => {
            let code = u8::try_from(message.exit_code()).ok().filter(|_| message.print().is_ok());
            code.map_or(Exit::CouldNotRun.into(), ExitCode::from)
        }
    }
}

async fn run(asked: Asked) -> Exit {
    let (screen, shutdown) = (Screen::for_stderr(), Shutdown::default());
    let done = async {
        match asked {
            Asked::Work(cli) => work(*cli, &screen, &shutdown).await,
            Asked::Write(manual) => {
                manual.write(Cli::manual(), &mut io::stdout()).map(|()| Exit::Done).map_err(|error| error.to_string())
            }
        }
    };
    program::with_signals(&screen, &shutdown, done).await
}

async fn work(cli: Cli, screen: &Screen, shutdown: &Shutdown) -> Result<Exit, String> {
    let connector = cli.coordinator.worker_connector().map_err(|error| error.to_string())?;
    let config =
        WorkerConfig { name: cli.slots.name(), slots: cli.slots.workers, target: cli.target, staging: cli.staging };
    let target = config.target.display();
    std::fs::create_dir_all(&config.target)
        .map_err(|error| explained(error, [&config.target]))
        .map_err(|error| format!("make the target {target}: {error} (or give a writable folder with --target)"))?;
    let log = config.target.join(format!("imagenet_downloader.{}.log", config.name));
    let log = telemetry::open_log(&log).map_err(|error| {
        format!(
            "open the log {}: {} (or give a writable folder with --target)",
            log.display(),
            explained(error, [&log])
        )
    })?;
    let (tally, mut outside) = (Arc::<Tally>::default(), JoinSet::new());
    if let Some(address) = cli.http {
        let opened = worker::http::open(address, Arc::clone(&tally), shutdown.drain.clone(), &mut outside).await;
        let address = opened.map_err(|error| error.to_string())?;
        // A closed standard error must not stop a worker.
        screen.write(format!("{}\n", http::announcement(address)).as_bytes()).ok();
    }
    let telemetry = Telemetry::start(log, screen, "worker").map_err(|error| error.to_string())?;
    if let Some(warning) = cli.coordinator.warning() {
        tracing::warn!("{warning}");
    }
    let exit = worker::run(&config, &connector, screen, shutdown, &tally).await.map_err(|error| error.to_string());
    if let Err(error) = &exit {
        // The screen hears it from the caller.
        tracing::info!("failed to {error}");
    }
    telemetry.flush().await;
    exit
}

//! `worker`: downloads what a coordinator leases to it.

use std::{io::Write as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use shared::{exit_code::Exit, job_line::Screen, shutdown::Shutdown, telemetry};
use worker::{WorkerConfig, config::Cli};

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let exit = runtime.block_on(run(cli)).unwrap_or_else(|error| {
        // With standard error closed there is nobody left to tell.
        writeln!(std::io::stderr(), "error: failed to {error:#}").ok();
        Exit::CouldNotRun
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(exit.into())
}

async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let config = WorkerConfig { name: cli.slots.name(), slots: cli.slots.workers, target: cli.target };
    let screen = Screen::for_stderr();
    std::fs::create_dir_all(&config.target).with_context(|| format!("make the target {}", config.target.display()))?;
    let log = config.target.join(format!("imagenet_downloader.{}.log", config.name));
    let log = telemetry::open_log(&log).with_context(|| format!("open the log {}", log.display()))?;
    let telemetry = telemetry::Telemetry::start(log, &screen, "worker")?;
    let shutdown = Shutdown::default();
    let (signalled, mut signal) = tokio::sync::oneshot::channel();
    let result = tokio::select! {
        result = worker::run(&config, &cli.connect, &screen, &shutdown) => result,
        Err(error) = shutdown.clone().on_signals(signalled) => return Err(error).context("listen for signals"),
    };
    telemetry.flush().await;
    Ok(signal.try_recv().unwrap_or(result?))
}

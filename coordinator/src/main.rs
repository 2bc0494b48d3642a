//! `coordinator`: leases the classes of a CSV to workers and reports their outcomes.

use std::process::ExitCode;

use coordinator::config::Config;
use shared::{exit_code::Exit, job_line::Screen, program, shutdown::Shutdown};

fn main() -> ExitCode {
    let exit = match Config::read(std::env::args_os()) {
        Ok(config) => program::run(config.output, async |screen| run(config, screen).await),
        Err(message) => program::explain(&message),
    };
    exit.into()
}

async fn run(config: Config, screen: Screen) -> Exit {
    let shutdown = Shutdown::default();
    let job = coordinator::run(config, screen.clone(), shutdown.clone());
    program::with_signals(&screen, &shutdown, async {
        job.await.map_err(|error| error.to_string())
    })
    .await
}

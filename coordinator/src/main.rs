//! `coordinator`: hands the classes of a CSV to workers and tells what became of them.

use std::{process::ExitCode, time::Duration};

use coordinator::config::Config;
use shared::{exit_code::Exit, job_line::Screen, shutdown::Shutdown};
use tokio::{runtime::Runtime, sync::oneshot};

fn main() -> anyhow::Result<ExitCode> {
    let config = match Config::read(std::env::args_os()) {
        Ok(config) => config,
        Err(message) => {
            message.print()?;
            return Ok(ExitCode::from(u8::try_from(message.exit_code())?));
        }
    };
    let runtime = Runtime::new()?;
    let exit = runtime.block_on(run(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(exit.into())
}

async fn run(config: Config) -> Exit {
    let (screen, shutdown) = (Screen::for_stderr(), Shutdown::default());
    let (signalled, mut signal) = oneshot::channel();
    let job = coordinator::run(config, screen.clone(), shutdown.clone());
    let result = tokio::select! {
        result = job => result.map_err(|error| error.to_string()),
        Err(error) = shutdown.on_signals(signalled) => Err(format!("listen for signals: {error}")),
    };
    match result {
        Ok(Exit::Interrupted) => signal.try_recv().unwrap_or(Exit::Interrupted),
        Ok(exit) => exit,
        Err(error) => {
            // With standard error closed there is nobody left to tell.
            screen.write(format!("error: failed to {error}\n").as_bytes()).ok();
            Exit::CouldNotRun
        }
    }
}

//! `coordinator`: hands the classes of a CSV to workers and tells what became of them.

use std::process::ExitCode;

use coordinator::config::Config;
use shared::{exit_code::Exit, job_line::Screen, program, shutdown::Shutdown};

fn main() -> ExitCode {
    let config = match Config::read(std::env::args_os()) {
        Ok(config) => config,
        Err(message) => {
            let code = u8::try_from(message.exit_code()).ok().filter(|_| message.print().is_ok());
            return code.map_or(Exit::CouldNotRun.into(), ExitCode::from);
        }
    };
    program::run(run(config)).into()
}

async fn run(config: Config) -> Exit {
    let (screen, shutdown) = (Screen::for_stderr(), Shutdown::default());
    let job = coordinator::run(config, screen.clone(), shutdown.clone());
    program::with_signals(&screen, &shutdown, async { job.await.map_err(|error| error.to_string()) }).await
}

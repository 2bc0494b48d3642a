//! The subcommands besides the job. A command writes its results to standard output and everything
//! else to standard error.

use std::io::{self, Write};

use serde::Serialize;
use shared::{
    exit_code::Exit,
    job_line::Screen,
    manual::{Manual, ManualError},
    shutdown::Shutdown,
};

pub use crate::rpc::admin::client::AdminError;
use crate::{
    commands::init::InitError,
    config::{CalledAs, Command, Config, CoordinatorArgs},
    demo::DemoError,
};

mod admin;
mod classes;
mod completions;
mod demo_origin;
pub(crate) mod init;
mod status;
mod verify;
mod workers_table;

pub use verify::VerifyError;

/// Why a command failed. Each message is fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// `init`.
    #[error(transparent)]
    Init(#[from] InitError),
    /// `verify`.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// `status`, `retry`, `drain` and `resume`.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// `demo-origin`.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// `completions` and `man`.
    #[error(transparent)]
    Manual(#[from] ManualError),
    /// The job is done, so the coordinator accepts no retry any more.
    #[error(
        "try failed classes again: the job is done; start the coordinator again with --retry-failed"
    )]
    JobDone,
    /// Standard output cannot be written.
    #[error("write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// The reader of the output has closed the pipe. This is not an error.
    fn is_closed_pipe(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Self::Manual(error) => error.is_closed_pipe(),
            _ => false,
        }
    }
}

/// Runs a command and writes its results to `out`. Ends without an error when the reader of `out`
/// has closed it. `called_as`: the name for completions and manual pages.
///
/// # Errors
/// [`CommandError`], one sentence with the remedy.
pub async fn run(
    called_as: CalledAs,
    command: Command,
    screen: &Screen,
    shutdown: &Shutdown,
    out: impl Write,
) -> Result<Exit, CommandError> {
    match execute(called_as, command, screen, shutdown, out).await {
        Err(error) if error.is_closed_pipe() => Ok(Exit::Done),
        ended => ended,
    }
}

async fn execute(
    called_as: CalledAs,
    command: Command,
    screen: &Screen,
    shutdown: &Shutdown,
    mut out: impl Write,
) -> Result<Exit, CommandError> {
    let coordinator = match &command {
        Command::Status(arguments) => Some(&arguments.coordinator),
        Command::Retry(arguments) => Some(&arguments.coordinator),
        Command::Drain(arguments) => Some(&arguments.coordinator),
        Command::Resume(coordinator) => Some(coordinator),
        Command::Init(_) | Command::Verify(_) | Command::DemoOrigin(_) | Command::Manual(_) => None,
    };
    for warning in coordinator
        .map(CoordinatorArgs::warnings)
        .into_iter()
        .flatten()
    {
        screen.write_warning(&format!("warning: {warning}"));
    }
    Ok(match command {
        Command::Init(arguments) => {
            write_line(&mut out, &init::init(&arguments)?)?;
            Exit::Done
        }
        Command::Status(arguments) => {
            until(shutdown, status::run(&arguments, screen, &mut out)).await?
        }
        Command::Retry(arguments) => until(shutdown, admin::retry(&arguments, &mut out)).await?,
        Command::Drain(arguments) => until(shutdown, admin::drain(&arguments, &mut out)).await?,
        Command::Resume(arguments) => until(shutdown, admin::resume(&arguments, &mut out)).await?,
        Command::Verify(arguments) => verify::run(&arguments, screen, shutdown, &mut out).await?,
        Command::DemoOrigin(arguments) => {
            until(shutdown, demo_origin::run(&arguments, &mut out)).await?
        }
        Command::Manual(manual) => {
            write_manual(called_as, &manual, &mut out)?;
            Exit::Done
        }
    })
}

fn write_manual(
    called_as: CalledAs,
    manual: &Manual,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let program = Config::manual(called_as);
    let (Manual::Completions { shell }, CalledAs::Coordinator) = (manual, called_as) else {
        // The completion of workers' names is written for the name `coordinator`.
        return Ok(manual.write(program, out)?);
    };
    let mut script = Vec::new();
    manual.write(program, &mut script)?;
    let script = completions::with_workers(&shell.to_string(), &String::from_utf8_lossy(&script));
    out.write_all(script.as_bytes())?;
    Ok(out.flush()?)
}

/// Runs a command until it ends or a shutdown is requested.
async fn until(
    shutdown: &Shutdown,
    command: impl Future<Output = Result<Exit, CommandError>>,
) -> Result<Exit, CommandError> {
    let ended = shutdown.drain.run_until_cancelled(command).await;
    ended.unwrap_or(Ok(Exit::Interrupted))
}

/// Writes one line of the results and flushes it, because a reader may wait for it.
fn write_line(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and texts are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VerifyArgs;

    /// A writer that fails each write.
    struct Refusing(io::ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("n00000001")).unwrap();
        let ended = async |out| {
            let arguments = VerifyArgs {
                target: folder.path().to_owned(),
                strict: false,
                repair: false,
                json: false,
            };
            run(
                CalledAs::default(),
                Command::Verify(arguments),
                &Screen::Silent,
                &Shutdown::default(),
                out,
            )
            .await
        };
        assert_eq!(
            ended(Refusing(io::ErrorKind::BrokenPipe)).await.unwrap(),
            Exit::Done
        );
        let full = ended(Refusing(io::ErrorKind::StorageFull))
            .await
            .unwrap_err();
        assert!(
            full.to_string().starts_with("write to standard output: "),
            "{full}"
        );
    }
}

//! What people ask for besides jobs. What a command finds goes to standard output, and everything else to standard error.

use std::io::{self, Write};

use serde::Serialize;
use shared::{
    connect::ConnectArgs,
    exit_code::Exit,
    job_line::{Screen, short},
    shutdown::Shutdown,
};

pub use crate::admin::client::AdminError;
use crate::{
    config::Command,
    trust::{self, InitError},
};

mod admin;
mod status;
mod verify;

pub use verify::VerifyError;

/// Why a command could not do what it was asked to; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// `init`.
    #[error(transparent)]
    Init(#[from] InitError),
    /// `verify`.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// `status`, `retry` and `drain`.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// There is no coordinator any more that could.
    #[error("try failed classes again: the job is done; start the coordinator again with --retry-failed")]
    JobDone,
    /// Nobody listens.
    #[error("write to standard output: {0}")]
    Say(io::Error),
}

/// Does what a command asks for; what it finds goes to `out`.
///
/// # Errors
/// [`CommandError`], one sentence that says what to do.
pub async fn run(
    command: Command,
    screen: &Screen,
    shutdown: &Shutdown,
    mut out: impl Write,
) -> Result<Exit, CommandError> {
    let way = match &command {
        Command::Status(arguments) => Some(&arguments.coordinator.way),
        Command::Retry(arguments) => Some(&arguments.coordinator.way),
        Command::Drain(arguments) => Some(&arguments.coordinator.way),
        Command::Init(_) | Command::Verify(_) => None,
    };
    if let Some(warning) = way.and_then(ConnectArgs::warning) {
        // A closed standard error must not stop a command.
        screen.write(format!("warning: {warning}\n").as_bytes()).ok();
    }
    Ok(match command {
        Command::Init(arguments) => trust::init(&arguments, &mut out).map(|()| Exit::Done)?,
        Command::Status(arguments) => status::run(&arguments, shutdown, &mut out).await?,
        Command::Retry(arguments) => interruptible(admin::retry(&arguments, &mut out), shutdown).await?,
        Command::Drain(arguments) => interruptible(admin::drain(&arguments, &mut out), shutdown).await?,
        Command::Verify(arguments) => verify::run(&arguments, screen, shutdown, &mut out).await?,
    })
}

async fn interruptible(
    command: impl Future<Output = Result<Exit, CommandError>>,
    shutdown: &Shutdown,
) -> Result<Exit, CommandError> {
    tokio::select! {
        exit = command => exit,
        () = shutdown.drain.cancelled() => Ok(Exit::Interrupted),
    }
}

/// A line of what was found, at once: whoever reads it may be waiting.
fn tell(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and texts are JSON")
}

/// In units that people read.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn bytes(bytes: u64) -> String {
    format!("{}B", short(bytes as f64))
}

//! What people ask for besides jobs. What a command finds goes to standard output, and everything else to standard error.

use std::io::{self, Write};

use shared::{exit_code::Exit, job_line::Screen, shutdown::Shutdown};

use crate::{
    config::Command,
    trust::{self, InitError},
};

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
    Ok(match command {
        Command::Init(arguments) => trust::init(&arguments, &mut out).map(|()| Exit::Done)?,
        Command::Verify(arguments) => verify::run(&arguments, screen, shutdown, &mut out).await?,
    })
}

/// A line of what was found, at once: whoever reads it may be waiting.
fn tell(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

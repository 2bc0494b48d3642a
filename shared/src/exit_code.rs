//! The exit codes of both programs.

use std::process::ExitCode;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every class is complete. For a worker: the job is done, even if classes failed.
    Done = 0,
    /// The job finished and some classes failed; `failed_downloads.log` names them.
    SomeFailed = 1,
    /// The program could not start or continue: arguments, CSV, target, an address in use, or an
    /// origin that refuses every class.
    CouldNotRun = 2,
    /// Stopped by SIGINT (Ctrl-C); the same command resumes.
    Interrupted = 130,
    /// Stopped by SIGTERM; the same command resumes.
    Terminated = 143,
}

impl Exit {
    /// The exit status of the process.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The exit codes for `--help`.
pub const HELP: &str = "\
Exit codes:
    0  every class is there (a worker: the job is done)
    1  finished, some classes failed: failed_downloads.log names them
    2  could not run: arguments, CSV, target, address in use, or an
       origin that refuses every class
  130  interrupted (SIGINT), 143 terminated (SIGTERM): run the same
       command again to resume";

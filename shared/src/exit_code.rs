//! The exit codes of both programs, in one place.

use std::process::ExitCode;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every class is there. A worker: the job is done, also when classes failed.
    Done,
    /// The job finished and some classes failed; `failed_downloads.log` names them.
    SomeFailed,
    /// It could not run, or not go on: arguments, CSV, target, an address in use, an origin that refuses every class alike.
    CouldNotRun,
    /// Stopped by SIGINT (Ctrl-C); the same command resumes.
    Interrupted,
    /// Stopped by SIGTERM; the same command resumes.
    Terminated,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SomeFailed => 1,
            Self::CouldNotRun => 2,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The same, for `--help`.
pub const HELP: &str = "\
Exit codes:
    0  every class is there (a worker: the job is done)
    1  finished, some classes failed: failed_downloads.log names them
    2  could not run: arguments, CSV, target, address in use, or an
       origin that refuses every class
  130  interrupted (SIGINT), 143 terminated (SIGTERM): run the same
       command again to resume";

//! Errors of the ledger, with advice for the user.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;
use shared::{limits, owner::explained};

use super::schema::VERSION;

/// Why the ledger cannot be used. The message is one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{} the ledger {}: {problem}", problem.step(), path.display())]
pub struct LedgerError {
    path: PathBuf,
    pub(super) problem: Problem,
}

impl LedgerError {
    pub(super) fn new(path: &Path, problem: Problem) -> Self {
        let problem = match problem {
            Problem::File { source } => explained(source, [path]).into(),
            problem => problem,
        };
        Self {
            path: path.to_owned(),
            problem,
        }
    }
}

/// What is wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// Another coordinator uses it: the process that is named in it.
    #[error("it is in use by {owner}; wait for it, or give another file with --ledger")]
    Busy { owner: String },
    #[error("it is a folder; name a file with --ledger")]
    Directory,
    /// The path is a pipe or a device, which stores nothing.
    #[error("it is no regular file; give another one with --ledger")]
    NotAFile,
    /// The file cannot be opened.
    #[error("{source}; give another file with --ledger")]
    File {
        #[from]
        source: io::Error,
    },
    #[error("it is a database of something else and no ledger; give another file with --ledger")]
    Foreign,
    /// The file was written by a later version.
    #[error(
        "its format is {found}, and this version knows {VERSION}; use a newer coordinator, or give another file with --ledger"
    )]
    TooNew { found: i64 },
    #[error(
        "there is none; run the same command without --retry-failed, or give that run's ledger with --ledger"
    )]
    NoLastRun,
    /// The content cannot be read.
    #[error("{source}{}", advice(source))]
    Read { source: rusqlite::Error },
    /// A result could not be written. It was not acknowledged to the worker.
    #[error("{source}{}", advice(source))]
    Write { source: rusqlite::Error },
}

impl Problem {
    /// The step that failed.
    fn step(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::NoLastRun => "find the last run in",
            _ => "open",
        }
    }
}

fn advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) if limits::file_size().is_some() => {
            " (raise the limit on file sizes, ulimit -f, or free some space, and run the same command again to resume)"
        }
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => {
            " (free some space and run the same command again to resume)"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            " (give a file in a writable folder with --ledger)"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            " (another program has it open: close that, and run the same command again)"
        }
        Some(ErrorCode::OutOfMemory) => "",
        // A missing table, row or type: the file was not written by this program.
        _ => {
            " (it is damaged or no ledger: move it away, and the next run finds again what is in the target)"
        }
    }
}

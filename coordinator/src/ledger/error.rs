//! Errors of the ledger, with advice for the user.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;
use shared::limits;

use super::schema::VERSION;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another coordinator uses it.
    #[error("open the ledger {}: it is in use by {owner}; wait for it, or give another file with --ledger", path.display())]
    Busy {
        /// The ledger.
        path: PathBuf,
        /// The process that uses it, as stored in the ledger.
        owner: String,
    },
    /// The path is a folder.
    #[error("open the ledger {}: it is a folder; name a file with --ledger", path.display())]
    Directory {
        /// The path as given.
        path: PathBuf,
    },
    /// The path is a pipe or a device, which stores nothing.
    #[error("open the ledger {}: it is no regular file; give another one with --ledger", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("open the ledger {}: {source}; give another file with --ledger", path.display())]
    File {
        /// The ledger.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is a database of another program.
    #[error("open the ledger {}: it is a database of something else and no ledger; give another file with --ledger", path.display())]
    Foreign {
        /// The path as given.
        path: PathBuf,
    },
    /// The file was written by a later version.
    #[error(
        "open the ledger {}: its format is {found}, and this version knows {VERSION}; use a newer coordinator, or give another file with --ledger",
        path.display()
    )]
    TooNew {
        /// The ledger.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// The content cannot be read.
    #[error("read the ledger {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The ledger.
        path: PathBuf,
        /// `SQLite`'s error.
        source: rusqlite::Error,
    },
    /// A result could not be written. It was not acknowledged to the worker.
    #[error("write the ledger {}: {source}{}", path.display(), advice(source))]
    Write {
        /// The ledger.
        path: PathBuf,
        /// `SQLite`'s error.
        source: rusqlite::Error,
    },
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

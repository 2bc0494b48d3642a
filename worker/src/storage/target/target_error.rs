//! The errors of a target, which are no fault of a class.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use shared::owner::explained;

/// The target cannot be used. That is no fault of the class, so the process stops and no attempt is
/// counted.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The file system refuses an operation.
    #[error("{action} in the target folder {}: {cause}{}", target.display(), advice(cause))]
    Refused {
        /// The target.
        target: PathBuf,
        /// The operation, worded to follow "failed to".
        action: String,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The staging folder cannot be made or used.
    #[error("use the staging folder {}: {cause} (name another one with --staging)", area.display())]
    Staging {
        /// The folder.
        area: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// A loader would take the folder of `--staging` for a class.
    #[error(
        "use the folder {} for staging: it is in the target {}, where a loader would take it for a class; name a folder \
         outside of the target with --staging, on the same file system",
        folder.display(), target.display()
    )]
    StagingInTarget {
        /// The folder as it was resolved.
        folder: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// The staging folder is on another file system, so nothing can be renamed from it into the
    /// target.
    #[error(
        "use the folder {} for staging: it is on another file system than the target {}, and a class is published by a \
         rename; name a folder on the same one with --staging",
        folder.display(), target.display()
    )]
    StagingElsewhere {
        /// The folder as it was resolved.
        folder: PathBuf,
        /// The target.
        target: PathBuf,
    },
}

impl TargetError {
    pub(super) fn refused(target: &Path, action: impl Into<String>, cause: io::Error) -> Self {
        Self::Refused {
            target: target.to_owned(),
            action: action.into(),
            cause,
        }
    }

    pub(super) fn staging(area: &Path, cause: io::Error) -> Self {
        Self::Staging {
            area: area.to_owned(),
            cause: explained(cause, [area]),
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            " (free some space and run the same command again to resume)"
        }
        ErrorKind::FileTooLarge => {
            " (raise the limit on file sizes, ulimit -f, and run the same command again to resume)"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => " (give a folder with --target)",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            " (give a writable folder with --target)"
        }
        ErrorKind::NotFound => " (is it still mounted?)",
        _ => "",
    }
}

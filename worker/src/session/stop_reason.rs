//! The reason why a worker stops, as the coordinator shows it. Its reader is at another machine, so
//! it names the folder and the remedy. The worker's own log has the error itself.

use std::io::{self, ErrorKind};

use rustix::io::Errno;

use crate::{
    fetch::context::JobContextError, session::error::WorkerError, storage::target::TargetError,
};

/// One sentence without the final full stop.
pub(crate) fn for_the_coordinator(error: &WorkerError) -> String {
    match error {
        WorkerError::Target(TargetError::Refused {
            target,
            action,
            cause,
        })
        | WorkerError::Context(JobContextError::Target(TargetError::Refused {
            target,
            action,
            cause,
        })) => {
            format!(
                "cannot {action} in its target folder {}: {cause}; {}",
                target.display(),
                remedy(cause)
            )
        }
        error => format!("cannot {error}"),
    }
}

/// What an operator can do on the worker's machine.
fn remedy(cause: &io::Error) -> &'static str {
    match (cause.kind(), Errno::from_io_error(cause)) {
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => "free some space there",
        (ErrorKind::FileTooLarge, _) => "raise its limit on file sizes (ulimit -f)",
        (ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied, _) => {
            "make that folder writable, or give the worker another one with --target"
        }
        (ErrorKind::NotFound, _) => "mount that folder again",
        (_, Some(Errno::IO)) => "check that disk",
        (_, Some(Errno::MFILE)) => "allow the worker more open files (ulimit -n)",
        _ => "make that folder usable, or give the worker another one with --target",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_the_folder_and_the_remedy() {
        let stop = |errno: Errno| {
            let target = "/data/images".into();
            let action = "write n00000001".to_owned();
            for_the_coordinator(
                &TargetError::Refused {
                    target,
                    action,
                    cause: errno.into(),
                }
                .into(),
            )
        };
        assert_eq!(
            stop(Errno::NOSPC),
            "cannot write n00000001 in its target folder /data/images: No space left on device (os error 28); free some \
             space there"
        );
        for (errno, what) in [
            (Errno::DQUOT, "; free some space there"),
            (Errno::FBIG, "(ulimit -f)"),
            (
                Errno::ROFS,
                "; make that folder writable, or give the worker another one with --target",
            ),
            (
                Errno::ACCESS,
                "; make that folder writable, or give the worker another one with --target",
            ),
            (Errno::NOENT, "; mount that folder again"),
            (Errno::IO, "; check that disk"),
            (
                Errno::MFILE,
                "; allow the worker more open files (ulimit -n)",
            ),
            (
                Errno::STALE,
                "; make that folder usable, or give the worker another one with --target",
            ),
        ] {
            assert!(stop(errno).ends_with(what), "{}", stop(errno));
        }
        let refused = WorkerError::Context(JobContextError::Runtime(Errno::MFILE.into()));
        assert!(for_the_coordinator(&refused).ends_with("allow the process more open files"));
    }
}

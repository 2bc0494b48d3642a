//! Why an attempt at a class does not finish: a failure of the class, an error of the target, or a
//! stop.

use std::io;

use prometheus_client::metrics::counter::Counter;
use shared::outcome::{Failure, FailureKind, Outcome};

use crate::{
    observe::counters::WorkerCounters,
    origin::download_error::DownloadError,
    storage::{
        file_tree::is_gone,
        target::{Target, TargetError},
    },
};

/// Why an attempt at a class did not finish.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The class failed.
    Failed(Failure),
    /// The target has an error. It does not count as a failed attempt of the class.
    Target(TargetError),
    /// The attempt was stopped. Its progress is in the checkpoint.
    Stopped,
}

/// The failure of a class whose name is in use for something else in the target.
pub(crate) fn conflict(why: &str) -> Unfinished {
    Unfinished::Failed(Failure::new(FailureKind::Conflict, why))
}

/// Retries do not help, or are used up.
impl From<DownloadError> for Unfinished {
    fn from(error: DownloadError) -> Self {
        Self::Failed(error.into())
    }
}

/// Classifies a file system error during the work on one class: an error of the target stops the
/// worker, any other error fails the class.
pub(crate) fn storage(target: &Target, action: &str) -> impl FnOnce(io::Error) -> Unfinished {
    move |error| {
        if target.is_at_fault(&error) {
            return Unfinished::Target(target.error(action, error));
        }
        Unfinished::Failed(Failure::new(
            FailureKind::StorageError,
            format!("cannot {action}: {error}"),
        ))
    }
}

/// Like [`storage`], for work in the staging folder. If the folder is gone while the target is
/// fine, another process has taken over the class.
pub(crate) fn staging(target: &Target, action: &str) -> impl FnOnce(io::Error) -> Unfinished {
    move |error| {
        if is_gone(&error) && !target.is_at_fault(&error) {
            return Unfinished::Stopped;
        }
        storage(target, action)(error)
    }
}

/// The counter for classes that end in their slot with this result.
pub(crate) fn counter<'counters>(
    result: &Result<Outcome, Unfinished>,
    counters: &'counters WorkerCounters,
) -> &'counters Counter {
    match result {
        Ok(Outcome::Success(_)) => &counters.success,
        Ok(Outcome::Skipped(_)) => &counters.skipped,
        Ok(Outcome::Failed(_)) | Err(Unfinished::Failed(_)) => &counters.failed,
        // The next lease of the class continues where this one ended.
        Err(Unfinished::Target(_) | Unfinished::Stopped) => &counters.handed_back,
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::Published;

    use super::*;

    #[test]
    fn an_unfinished_class_is_handed_back() {
        let failure = || Failure::new(FailureKind::Timeout, "Request timeout after 120s");
        let counters = WorkerCounters::default();
        for result in [
            Ok(Outcome::Success(Published::default())),
            Ok(Outcome::Success(Published::default())),
            Ok(Outcome::Skipped(Published::default())),
            Ok(Outcome::Failed(failure())),
            Err(Unfinished::Failed(failure())),
            Err(Unfinished::Failed(failure())),
            Err(Unfinished::Stopped),
        ] {
            counter(&result, &counters).inc();
        }
        let ends = [
            &counters.success,
            &counters.skipped,
            &counters.failed,
            &counters.handed_back,
        ];
        assert_eq!(ends.map(Counter::get), [2, 1, 3, 1]);
    }
}

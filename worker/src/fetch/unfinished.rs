//! Why an attempt at a class does not finish: a failure of the class, an error of the target, or a
//! stop.

use crate::observe::counters::ClassEnd;
use std::io;

use shared::outcome::{Failure, FailureKind, Outcome};

use crate::storage::{
    file_tree::is_gone,
    target::{Target, TargetError},
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

/// Classifies a file system error during the work on one class: an error of the target stops the
/// worker, any other error fails the class.
pub(crate) fn storage(target: &Target, action: &str, error: io::Error) -> Unfinished {
    if target.is_at_fault(&error) {
        return Unfinished::Target(target.error(action, error));
    }
    Unfinished::Failed(Failure::new(
        FailureKind::StorageError,
        format!("cannot {action}: {error}"),
    ))
}

/// Like [`storage`], for work in the staging folder. If the folder is gone while the target is
/// fine, another process has taken over the class.
pub(crate) fn staging(target: &Target, action: &str, error: io::Error) -> Unfinished {
    if is_gone(&error) && !target.is_at_fault(&error) {
        return Unfinished::Stopped;
    }
    storage(target, action, error)
}

/// How a class ended in its slot, for the counters.
pub(crate) fn class_end(result: &Result<Outcome, Unfinished>) -> ClassEnd {
    match result {
        Ok(Outcome::Success(_)) => ClassEnd::Success,
        Ok(Outcome::Skipped(_)) => ClassEnd::Skipped,
        Ok(Outcome::Failed(_)) | Err(Unfinished::Failed(_)) => ClassEnd::Failed,
        Err(Unfinished::Target(_) | Unfinished::Stopped) => ClassEnd::HandedBack,
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::Published;

    use super::*;

    #[test]
    fn an_unfinished_class_is_handed_back() {
        let failure = || Failure::new(FailureKind::Timeout, "Request timeout after 120s");
        for (result, end) in [
            (
                Ok(Outcome::Success(Published::default())),
                ClassEnd::Success,
            ),
            (
                Ok(Outcome::Skipped(Published::default())),
                ClassEnd::Skipped,
            ),
            (Ok(Outcome::Failed(failure())), ClassEnd::Failed),
            (Err(Unfinished::Failed(failure())), ClassEnd::Failed),
            (Err(Unfinished::Stopped), ClassEnd::HandedBack),
        ] {
            assert_eq!(class_end(&result), end);
        }
    }
}

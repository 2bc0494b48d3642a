//! Why a class did not get where it should: its own failure, the target's fault, or a stop.

use crate::observe::counters::ClassEnd;
use std::io;

use shared::outcome::{Failure, FailureKind, Outcome};

use crate::storage::{
    file_tree::is_gone,
    target::{Target, TargetError},
};

/// Why a class did not get where it should.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The class failed.
    Failed(Failure),
    /// The target is at fault; the class's attempts are not burnt.
    Target(TargetError),
    /// Told to stop; what is done is checkpointed.
    Stopped,
}

/// Something else stands under the class's name.
pub(crate) fn conflict(why: &str) -> Unfinished {
    Unfinished::Failed(Failure::new(FailureKind::Conflict, why))
}

/// Sorts what the file system said while it worked on one class: the target's fault stops everything, any other is the
/// class's own.
pub(crate) fn storage(target: &Target, action: &str, error: io::Error) -> Unfinished {
    if target.is_at_fault(&error) {
        return Unfinished::Target(target.error(action, error));
    }
    Unfinished::Failed(Failure::new(FailureKind::StorageError, format!("cannot {action}: {error}")))
}

/// As [`storage`], for work in the staging folder: if that is gone while the target is fine, another process has taken the
/// class over.
pub(crate) fn staging(target: &Target, action: &str, error: io::Error) -> Unfinished {
    if is_gone(&error) && !target.is_at_fault(&error) {
        return Unfinished::Stopped;
    }
    storage(target, action, error)
}

/// How a class left its slot, for the counters.
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
    fn a_class_that_is_not_finished_is_handed_back() {
        let failure = || Failure::new(FailureKind::Timeout, "Request timeout after 120s");
        for (result, end) in [
            (Ok(Outcome::Success(Published::default())), ClassEnd::Success),
            (Ok(Outcome::Skipped(Published::default())), ClassEnd::Skipped),
            (Ok(Outcome::Failed(failure())), ClassEnd::Failed),
            (Err(Unfinished::Failed(failure())), ClassEnd::Failed),
            (Err(Unfinished::Stopped), ClassEnd::HandedBack),
        ] {
            assert_eq!(class_end(&result), end);
        }
    }
}

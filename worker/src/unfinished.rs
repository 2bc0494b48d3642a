//! Why a class did not get where it should: its own failure, the target's fault, or a stop.

use shared::outcome::{Failure, FailureKind};

use crate::target::TargetError;

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

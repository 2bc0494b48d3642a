//! One class in the table, and the states that it can be in.

use shared::{Wnid, ids::LeaseToken, ids::SessionId, job::JobStatus, outcome::Outcome};

/// The states of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Pending,
    Leased(SessionId),
    Success,
    Skipped,
    Failed,
}

impl State {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => Self::Success,
            Outcome::Skipped(_) => Self::Skipped,
            Outcome::Failed(_) => Self::Failed,
        }
    }

    /// The count that this state is part of.
    pub(super) fn counter(self, status: &mut JobStatus) -> &mut u64 {
        match self {
            Self::Pending => &mut status.pending,
            Self::Leased(_) => &mut status.leased,
            Self::Success => &mut status.success,
            Self::Skipped => &mut status.skipped,
            Self::Failed => &mut status.failed,
        }
    }
}

/// About 32 bytes, and 20 more in the index.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) wnid: Wnid,
    pub(super) state: State,
    /// Of the last grant; `None` when nobody may refer to it any more.
    pub(super) token: Option<LeaseToken>,
    /// The sum of what its losses count.
    pub(super) losses: u8,
    /// Stands in the queue of returned classes, at most once, so that this queue never outgrows the list.
    pub(super) queued: bool,
}

impl Class {
    pub(super) fn pending(wnid: Wnid) -> Self {
        Self { wnid, state: State::Pending, token: None, losses: 0, queued: false }
    }
}

//! One class in the table, and the states that it can be in.
//!
//! The pending states exclude each other: a class that waits for a time, for word from the origin or for the worker that has
//! it is in no queue and not found by the cursor, so no way of granting finds it.

use shared::{Wnid, ids::LeaseToken, ids::SessionId, job::JobStatus, outcome::Outcome};
use tokio::time::Instant;

/// The states of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Pending; no worker of this coordinator has held it. The cursor over the list grants it.
    Fresh,
    /// Pending; in the queue of returned classes, under this key.
    Queued(u64),
    /// Pending; failed by one worker. It is queued for another one at this time.
    Delayed(Instant),
    /// Pending; failed, and the breaker keeps the failure until it is clear whether the origin caused it.
    Doubted,
    /// Pending; complete on a worker of the last run that has not said so in this one.
    Elsewhere,
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
            Self::Fresh | Self::Queued(_) | Self::Delayed(_) | Self::Doubted | Self::Elsewhere => &mut status.pending,
            Self::Leased(_) => &mut status.leased,
            Self::Success => &mut status.success,
            Self::Skipped => &mut status.skipped,
            Self::Failed => &mut status.failed,
        }
    }
}

/// About 56 bytes, and 20 more in the index.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) wnid: Wnid,
    pub(super) state: State,
    /// Of the last grant; `None` when nobody may refer to it any more.
    pub(super) token: Option<LeaseToken>,
    /// How often it was taken from a worker that received nothing of it.
    pub(super) taken: u8,
    /// Its last grant took it from a worker that received nothing of it.
    pub(super) is_taken: bool,
}

impl Class {
    pub(super) fn fresh(wnid: Wnid) -> Self {
        Self { wnid, state: State::Fresh, token: None, taken: 0, is_taken: false }
    }
}

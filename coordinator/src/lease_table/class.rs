//! A class in the table and its states.
//!
//! The pending states exclude each other. A class that waits for a time, for an answer of the
//! origin or for the worker that has it complete is in no queue and is skipped by the cursor, so it
//! cannot be granted.

use shared::{Wnid, ids::LeaseToken, ids::SessionId, job::JobStatus, outcome::Outcome};
use tokio::time::Instant;

/// The states of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Pending; never granted by this coordinator. The cursor over the list grants it.
    Fresh,
    /// Pending, in the queue of returned classes under this key.
    Queued(u64),
    /// Pending: a worker failed it. It is queued for another worker at this time.
    Delayed(Instant),
    /// Pending: it failed, and the breaker keeps the failure until it is clear whether the origin
    /// caused it.
    Doubted,
    /// Pending: it is complete on a worker of the previous run that has not reported it in this
    /// run.
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

    /// The count that includes classes in this state.
    pub(super) fn counter(self, status: &mut JobStatus) -> &mut u64 {
        match self {
            Self::Fresh | Self::Queued(_) | Self::Delayed(_) | Self::Doubted | Self::Elsewhere => {
                &mut status.pending
            }
            Self::Leased(_) => &mut status.leased,
            Self::Success => &mut status.success,
            Self::Skipped => &mut status.skipped,
            Self::Failed => &mut status.failed,
        }
    }
}

/// A class of the list. About 56 bytes, and 20 more in the index.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) wnid: Wnid,
    pub(super) state: State,
    /// Token of the last grant; `None` if no report or heartbeat may refer to that grant any more.
    pub(super) token: Option<LeaseToken>,
    /// How often it was taken from a worker that received no bytes of it.
    pub(super) taken: u8,
    /// Whether the last grant took it from a worker that received no bytes of it.
    pub(super) is_taken: bool,
    /// Grants by this coordinator that ended without a result: with a failure, or because the lease
    /// was lost or taken back. For display only.
    pub(super) attempts: u16,
}

impl Class {
    pub(super) fn fresh(wnid: Wnid) -> Self {
        Self {
            wnid,
            state: State::Fresh,
            token: None,
            taken: 0,
            is_taken: false,
            attempts: 0,
        }
    }

    /// Counts an attempt that ended without a result.
    pub(super) fn count_attempt(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }
}

//! Losses: sessions that end without a `Leave` call, and what they imply for the classes that they
//! held.
//!
//! If the lease of a class is lost ten times, either the class crashes its workers, or the workers
//! were stopped for other reasons, or a hostile worker loses it on purpose under invented names.
//! Beyond [`MAX_LOSSES`] the class is therefore a suspect: it is granted to a worker that has
//! completed a class in its session, if there is one, which a hostile worker could only pretend by
//! reporting a false success. The class has failed if such a worker loses it too, or if there is
//! none.
//!
//! Invariant: a class that makes no progress and is lost by every worker fails.

use std::{collections::HashMap, mem, time::Duration};

use shared::{
    ids::SessionId,
    outcome::{Failure, FailureKind},
};
use tokio::time::Instant;

use super::{AttemptEvent, Ended, LeaseTable, Session, State, leases::LeaseProgress};

/// Number of losses after which a class is a suspect.
pub(super) const MAX_LOSSES: u8 = 10;
/// Weight of a loss.
pub(super) const LOSS: u8 = 10;
/// Weight of a loss when a recently seen worker registers again as a new process: an operator or a
/// supervisor restarted it. It is a tenth of [`LOSS`], so that a class that crashes its worker
/// after each start fails eventually.
pub(super) const RESTART: u8 = 1;
/// Time after its last loss for which a suspect is reserved for workers that have completed a
/// class.
const RESERVED: Duration = Duration::from_mins(5);
/// Minimum progress of a class, in bytes, beyond the furthest offset so far; a hundredth of the
/// tar's length if that is more. Downloads use the same rule.
const LEAST_PROGRESS: u64 = 64 << 10;

/// A session that ended without a `Leave` call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    /// [`LOSS`] or [`RESTART`].
    pub(super) weight: u8,
    pub(super) at: Instant,
}

/// The losses of one class since it last made progress.
#[derive(Debug, Clone, Copy)]
struct ClassLosses {
    /// Sum of the weights of the losses.
    weight: u8,
    /// Sum of the weights of losses by workers that had completed a class, since the class is a
    /// suspect.
    confirmed: u8,
    last: Instant,
    /// The furthest offset at which it was lost.
    furthest: u64,
}

impl ClassLosses {
    fn is_suspect(&self) -> bool {
        self.weight >= MAX_LOSSES * LOSS
    }
}

/// The classes that were lost and are not settled.
#[derive(Debug, Default)]
pub(super) struct Losses(HashMap<usize, ClassLosses>);

impl Losses {
    /// Records the loss of a lease with this progress. `is_proven`: the worker has completed a
    /// class.
    fn note(
        &mut self,
        class: usize,
        Loss { weight, at }: Loss,
        held: &LeaseProgress,
        is_proven: bool,
    ) {
        let new = ClassLosses {
            weight: 0,
            confirmed: 0,
            last: at,
            furthest: held.bytes,
        };
        let lost = self.0.entry(class).or_insert(new);
        let progress = LEAST_PROGRESS.max(held.length / 100);
        if held.bytes >= lost.furthest.saturating_add(progress) {
            *lost = new;
        }
        if lost.is_suspect() && is_proven {
            lost.confirmed = lost.confirmed.saturating_add(weight);
        }
        lost.weight = lost.weight.saturating_add(weight);
        lost.last = at;
    }

    /// Whether a suspect has failed. `is_proven`: the worker that lost it last has completed a
    /// class. `is_there_proven`: whether another such worker could still show that the class can be
    /// completed.
    fn has_failed(
        &self,
        class: usize,
        is_proven: bool,
        is_there_proven: impl Fn() -> bool,
    ) -> bool {
        let lost = self.0.get(&class).filter(|lost| lost.is_suspect());
        lost.is_some_and(|lost| lost.confirmed >= LOSS || !(is_proven || is_there_proven()))
    }

    /// Whether a class is reserved for workers that have completed one.
    pub(super) fn is_reserved(&self, class: usize, now: Instant) -> bool {
        self.0
            .get(&class)
            .is_some_and(|lost| lost.is_suspect() && now - lost.last < RESERVED)
    }

    /// Removes the losses of a settled class.
    pub(super) fn forget(&mut self, class: usize) {
        self.0.remove(&class);
    }
}

impl LeaseTable {
    /// Ends a session whose heartbeats stopped. Its worker may regain the classes that no other
    /// worker was granted meanwhile.
    pub(super) fn expire_session(&mut self, id: SessionId, now: Instant) -> Ended {
        let tokens: Vec<_> = self.sessions.by_id[&id]
            .leases
            .keys()
            .map(|position| (*position, self.classes[*position].token))
            .collect();
        let loss = Loss {
            weight: LOSS,
            at: now,
        };
        let (session, ended) = self.end(id, Some(loss));
        let received = self.shown_received(&session);
        self.lost.add(session, received, now);
        for (position, token) in tokens {
            // A class with a speculative attempt is leased to that one instead.
            if matches!(self.classes[position].state, State::Queued(_)) {
                self.classes[position].token = token;
                self.lost_by.insert(position, ended.worker.clone());
            }
        }
        ended
    }

    /// Ends a session and releases its leases. `loss`: the session ended without a `Leave` call.
    pub(super) fn end(&mut self, id: SessionId, loss: Option<Loss>) -> (Session, Ended) {
        for position in self.attempted_by(id) {
            let news = match loss {
                Some(_) => AttemptEvent::Failed,
                None => AttemptEvent::GivenBack,
            };
            self.end_attempt(position, news);
        }
        let mut session = self.sessions.remove(id);
        self.inventories.left(&session);
        self.breaker.failed_by.remove(&id);
        self.count_workers();
        let leases = mem::take(&mut session.leases);
        let ended = Ended {
            session: id,
            worker: session.worker_info.worker.clone(),
            returned: leases.len(),
        };
        let is_proven = session.last_success.is_some();
        for (position, held) in leases {
            if let Some(loss) = loss {
                self.classes[position].count_attempt();
                self.losses.note(position, loss, &held, is_proven);
            }
            if self.hand_over(position) {
                continue;
            }
            if let Some(Loss { at, .. }) = loss
                && self
                    .losses
                    .has_failed(position, is_proven, || self.sessions.is_there_proven(at))
            {
                let message = format!(
                    "the lease was lost {MAX_LOSSES} times or more; its workers crashed or were cut off"
                );
                self.give_up(position, Failure::new(FailureKind::LeaseLost, message));
            } else {
                if !session.worker_info.storage.is_empty() {
                    self.begun_on
                        .insert(position, session.worker_info.storage.clone());
                }
                self.queue(position);
            }
        }
        self.wake_ups += 1;
        (session, ended)
    }
}

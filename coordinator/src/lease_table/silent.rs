//! Silent leases: leases whose holders receive no bytes. When no other class is left to grant, an
//! idle worker takes such a class. A worker can therefore withhold from the others only classes of
//! which it receives bytes.
//!
//! Invariants: a class is taken only for a worker that gets it at once. Each time a class is taken,
//! the time that must pass before it is taken again doubles, so that some worker waits long enough
//! for an origin that answers slowly. The bytes that the former holder had received are charged to
//! the budget of speculative attempts ([`Attempts`]).
//!
//! Before its first byte, a class is not silent while its holder receives bytes of other classes,
//! because it waits for a connection. A worker may take few classes until it has completed some. A
//! failure of a class that a worker took is not final by its report alone
//! ([`LeaseTable::may_be_wrong`]).
//!
//! [`Attempts`]: super::attempts::Attempts

use std::{collections::BTreeSet, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{LeaseNotice, LeaseTable, State, leases::LeaseProgress, sessions::Session};

/// Limit on the exponent by which the time to wait grows.
const MAX_DOUBLINGS: u32 = 10;

/// The leases that are silent.
#[derive(Debug)]
pub(super) struct Silent {
    /// Time without a byte after which a lease is silent, if its class was never taken.
    after: Duration,
    /// Classes that may be taken, as of the last scan.
    due: BTreeSet<usize>,
}

impl Default for Silent {
    fn default() -> Self {
        Self::after(Duration::MAX)
    }
}

impl Silent {
    pub(super) fn after(patience: Duration) -> Self {
        Self {
            after: patience,
            due: BTreeSet::new(),
        }
    }
}

impl LeaseTable {
    /// Finds silent leases and wakes waiting workers if there are new ones. `quiet`: no worker may
    /// send requests to the origin now, so no lease is silent.
    pub(super) fn scan_for_silent_leases(&mut self, quiet: bool, now: Instant) {
        let may_be_taken = !quiet && self.no_class_is_pending() && self.sessions.by_id.len() > 1;
        let due = if may_be_taken {
            self.silent_leases(now)
        } else {
            BTreeSet::new()
        };
        if !due.is_subset(&self.silent.due) {
            self.wake_ups += 1;
        }
        self.silent.due = due;
    }

    fn silent_leases(&self, now: Instant) -> BTreeSet<usize> {
        let of = |session: &Session| {
            let silent = session
                .leases
                .iter()
                .filter(|(class, held)| self.is_silent(**class, session, held, now));
            silent.map(|(class, _)| *class).collect::<Vec<_>>()
        };
        self.sessions.by_id.values().flat_map(of).collect()
    }

    fn is_silent(
        &self,
        class: usize,
        session: &Session,
        held: &LeaseProgress,
        now: Instant,
    ) -> bool {
        let doublings = u32::from(self.classes[class].taken).min(MAX_DOUBLINGS);
        let patience = self.silent.after.saturating_mul(1 << doublings);
        // A class that was received completely is being published.
        let is_whole = held.length > 0 && held.bytes >= held.length;
        held.stalled(session.last_progress, now) >= patience
            && !is_whole
            && !held.is_local
            && self.attempts.affords(held.bytes)
    }

    /// How many silent classes a worker may take now: one of which it has not yet received bytes,
    /// plus one for each class that it has completed in its session.
    pub(super) fn room_for_silent(&self, id: SessionId) -> usize {
        let session = &self.sessions.by_id[&id];
        let is_waiting = |(class, held): &(&usize, &LeaseProgress)| {
            self.classes[**class].is_taken && held.bytes == 0
        };
        let waiting = session.leases.iter().filter(is_waiting).count();
        let done = usize::try_from(session.settled[0]).unwrap_or(usize::MAX);
        done.saturating_add(1).saturating_sub(waiting)
    }

    /// Whether a failure of this class is not final, because the reporting worker took the class
    /// from a worker with a live session: another worker tries it once more.
    pub(super) fn may_be_wrong(&self, class: usize, id: SessionId, now: Instant) -> bool {
        let has_not_failed =
            |other: &Session| !self.troubles.has_failed(class, now, || other.keys());
        self.classes[class].is_taken && self.sessions.is_there_another(id, now, has_not_failed)
    }

    /// Makes a silent class pending for this worker. The caller grants it next.
    pub(super) fn take_silent(&mut self, id: SessionId, now: Instant) -> Option<usize> {
        loop {
            let class = *self
                .silent
                .due
                .iter()
                .find(|class| self.may_take(**class, id, now))?;
            self.silent.due.remove(&class);
            let State::Leased(holder) = self.classes[class].state else {
                return None;
            };
            let holder = &self.sessions.by_id[&holder];
            let received = holder.leases[&class].bytes;
            if received > 0 && !holder.hello.storage.is_empty() {
                self.begun_on.insert(class, holder.hello.storage.clone());
            }
            let worker = holder.hello.worker.clone();
            self.notices.push(LeaseNotice::Silent {
                wnid: self.classes[class].wnid,
                worker,
            });
            self.attempts.spend(received);
            self.classes[class].taken = self.classes[class].taken.saturating_add(1);
            self.give_back(class);
            // Otherwise the class went to its speculative attempt.
            if matches!(self.classes[class].state, State::Queued(_)) {
                return Some(class);
            }
        }
    }

    fn may_take(&self, class: usize, id: SessionId, now: Instant) -> bool {
        let State::Leased(holder) = self.classes[class].state else {
            return false;
        };
        let session = &self.sessions.by_id[&holder];
        holder != id
            && !self.attempts.is_attempted_by(class, id)
            && self.is_silent(class, session, &session.leases[&class], now)
            && self.may_try(class, id, &self.sessions.by_id[&id], now)
    }
}

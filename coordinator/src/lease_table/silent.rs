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

use std::collections::BTreeSet;

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{
    LeaseNotice, LeaseTable, State, WorkerInfo, leases::LeaseProgress, sessions::Session, to_usize,
};

/// Limit on the exponent by which the time to wait grows.
const MAX_DOUBLINGS: u32 = 10;

impl LeaseTable {
    /// Finds silent leases and wakes waiting workers if there are new ones. `is_paused`: no worker
    /// may send requests to the origin now, so no lease is silent.
    pub(super) fn scan_for_silent_leases(&mut self, is_paused: bool, now: Instant) {
        let may_be_taken =
            !is_paused && self.no_class_is_pending() && self.sessions.by_id.len() > 1;
        let is_silent = |(class, session, held): &(usize, &Session, &LeaseProgress)| {
            may_be_taken && self.is_silent(*class, session, held, now)
        };
        let due = self.leases().filter(is_silent).map(|(class, ..)| class);
        let due: BTreeSet<usize> = due.collect();
        if !due.is_subset(&self.silent) {
            self.wake_ups += 1;
        }
        self.silent = due;
    }

    fn is_silent(
        &self,
        class: usize,
        session: &Session,
        held: &LeaseProgress,
        now: Instant,
    ) -> bool {
        let doublings = u32::from(self.classes[class].taken).min(MAX_DOUBLINGS);
        let patience = self.silent_after.saturating_mul(1 << doublings);
        // A class that was received completely is being published.
        let is_whole = held.length > 0 && held.bytes >= held.length;
        held.stalled(session.last_progress, now) >= patience
            && !is_whole
            && !held.is_local
            && self.attempts.affords(held.bytes)
    }

    /// Whether a failure of this class is not final, because the reporting worker took the class
    /// from a worker with a live session: another worker tries it once more.
    pub(super) fn may_be_wrong(&self, class: usize, id: SessionId, now: Instant) -> bool {
        self.classes[class].is_taken
            && self.sessions.any_healthy(now, |other| {
                other.id != id && !self.class_failures.has_failed(class, other, now)
            })
    }

    /// Makes a silent class pending for this worker, if it may take one. The caller grants it next.
    pub(super) fn take_silent(&mut self, id: SessionId, now: Instant) -> Option<usize> {
        loop {
            let session = &self.sessions.by_id[&id];
            if !self.may_take_more(session) {
                return None;
            }
            let mut silent = self.silent.iter().copied();
            let class = silent.find(|class| self.may_take(*class, session, now))?;
            self.silent.remove(&class);
            let (holder, held) = self.holder(class)?;
            let received = held.bytes;
            let WorkerInfo {
                worker, storage, ..
            } = holder.worker_info.clone();
            if received > 0 && !storage.is_empty() {
                self.begun_on.insert(class, storage);
            }
            self.notices.push(LeaseNotice::Silent {
                wnid: self.classes[class].wnid,
                worker,
            });
            self.attempts.spend(received);
            self.classes[class].count_attempt();
            self.classes[class].taken = self.classes[class].taken.saturating_add(1);
            self.give_back(class);
            // Otherwise the class went to its speculative attempt.
            if matches!(self.classes[class].state, State::Queued(_)) {
                return Some(class);
            }
        }
    }

    /// Whether a worker may take another silent class now. Of those that it has taken, it may wait
    /// for the first byte of one, plus one for each class that it has completed in its session.
    fn may_take_more(&self, session: &Session) -> bool {
        let is_waiting = |(class, held): &(&usize, &LeaseProgress)| {
            self.classes[**class].is_taken && held.bytes == 0
        };
        session.leases.iter().filter(is_waiting).count() <= to_usize(session.settled.success)
    }

    fn may_take(&self, class: usize, session: &Session, now: Instant) -> bool {
        let attempt = self.attempts.of.get(&class);
        self.holder(class).is_some_and(|(holder, held)| {
            holder.id != session.id
                && attempt.is_none_or(|attempt| attempt.session != session.id)
                && self.is_silent(class, holder, held, now)
                && self.may_try(class, session, now)
        })
    }
}

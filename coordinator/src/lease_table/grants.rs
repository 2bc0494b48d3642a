//! Granting: which worker is granted which class next, and when none is granted.

use std::ops::ControlFlow;

use shared::{Wnid, ids::SessionId, outcome::Failure};
use tokio::time::Instant;

use super::{
    AttemptEvent, Granted, Lease, LeaseTable, State, UnknownSession, leases::LeaseProgress,
    sessions::Session,
};

/// Number of returned classes that are searched for the best one for a worker.
const SEARCHED_CLASSES: usize = 64;

impl LeaseTable {
    /// Grants up to `max` classes, and not more than the worker has free slots: returned classes
    /// first, then in list order, then speculative attempts of classes of other workers, then
    /// classes of which their holders receive nothing. A worker that requests leases has sent its
    /// inventory, if one was required.
    pub fn acquire(
        &mut self,
        id: SessionId,
        max: usize,
        now: Instant,
    ) -> Result<Granted, UnknownSession> {
        self.sessions.get_mut(id)?.live.heard(now);
        if self.inventories.end(id) {
            self.wake_ups += 1;
        }
        self.release_of_present(id, now);
        // While the origin is unavailable, one class tests whether it is available again.
        let is_probe = self.breaker.is_open();
        let max = match () {
            () if !self.may_grant(&self.sessions.by_id[&id], now) => 0,
            () if is_probe => max.min(1),
            () => max,
        };
        let room = self.free_slots(id);
        let session = self.sessions.get_mut(id)?;
        session.waits_for_slot = room < max;
        let drain = session.draining;
        let mut max = max.min(room);
        if max > 0 {
            // Only if something is granted: until then the list may still change.
            max = max.min(self.room_in_sample(id, now));
        }
        let mut leases = Vec::new();
        while leases.len() < max
            && let Some(lease) = self.grant_next(id, is_probe, now)
        {
            leases.push(lease);
        }
        let probe = is_probe && !leases.is_empty();
        if probe {
            self.breaker.probed(now);
        }
        Ok(Granted {
            leases,
            probe,
            drain,
        })
    }

    /// Grants the next class. A probe is a class that is pending.
    fn grant_next(&mut self, id: SessionId, is_probe: bool, now: Instant) -> Option<Lease> {
        let mut pending = self.next_pending(id, now);
        if pending.is_none() && self.release_of_absent() {
            pending = self.next_pending(id, now);
        }
        if let Some(position) = pending {
            return Some(self.grant(position, id, now));
        }
        if is_probe {
            return None;
        }
        let attempt = self.grant_attempt(id, now);
        attempt.or_else(|| {
            let position = self.take_silent(id, now)?;
            let lease = self.grant(position, id, now);
            self.classes[position].is_taken = true;
            Some(lease)
        })
    }

    fn grant(&mut self, position: usize, id: SessionId, now: Instant) -> Lease {
        self.last_token = self.last_token.next();
        let is_anew = self.begun_on.remove(&position).is_none();
        self.hold(position, id, LeaseProgress::granted(now, is_anew));
        let class = &mut self.classes[position];
        class.token = Some(self.last_token);
        class.is_taken = false;
        Lease {
            wnid: class.wnid,
            token: self.last_token,
        }
    }

    /// Takes back leases that were granted but not delivered to the worker.
    pub fn take_back(&mut self, id: SessionId, leases: &[Lease]) {
        for Lease { wnid, token } in leases {
            let Some(position) = self.position(*wnid) else {
                continue;
            };
            let class = &self.classes[position];
            if class.state == State::Leased(id) && class.token == Some(*token) {
                self.give_back(position);
            } else if self.attempts.get_mut(position, id, *token).is_some() {
                self.end_attempt(position, AttemptEvent::GivenBack);
            }
        }
    }

    /// Makes failed classes pending again, with all earlier attempts removed; all failed classes if
    /// none is named. Returns those that were failed.
    pub fn retry_failed(&mut self, wnids: &[Wnid]) -> Vec<Wnid> {
        if self.status.is_done() {
            return Vec::new();
        }
        let positions: Vec<usize> = if wnids.is_empty() {
            (0..self.classes.len()).collect()
        } else {
            let listed = wnids.iter().filter_map(|wnid| self.position(*wnid));
            listed.collect()
        };
        let mut retried = Vec::new();
        for position in positions {
            if self.classes[position].state == State::Failed {
                self.class_failures.forget(position);
                self.give_back(position);
                retried.push(self.classes[position].wnid);
            }
        }
        retried
    }

    /// Whether this worker may be granted classes at the moment.
    fn may_grant(&self, session: &Session, now: Instant) -> bool {
        let is_another = |other: &Session| other.id != session.id;
        let is_quarantined =
            session.is_quarantined(now) && self.sessions.any_healthy(now, is_another);
        // Only before the first grant: later workers must not delay a fleet that is working.
        let waits_for_inventory =
            self.last_token == self.first_token && self.inventories.are_awaited(now);
        let is_paused = self.breaker.is_open() && !self.breaker.is_probe_due(now);
        !(session.draining || is_quarantined || waits_for_inventory || is_paused)
    }

    /// The best returned class for this worker, or the next class that was never granted.
    fn next_pending(&mut self, id: SessionId, now: Instant) -> Option<usize> {
        if let ControlFlow::Break(next) = self.next_of_later_sample() {
            return next;
        }
        let session = &self.sessions.by_id[&id];
        let storage = &session.worker_info.storage;
        let begun_here =
            |position: &usize| !storage.is_empty() && self.begun_on.get(position) == Some(storage);
        let may_try = |position: &usize| {
            !self.is_held_back(*position) && self.may_try(*position, session, now)
        };
        let returned = || self.returned.values().copied().take(SEARCHED_CLASSES);
        let candidates = || returned().filter(may_try);
        let best = candidates().find(begun_here);
        let best = best.or_else(|| candidates().next());
        if best.is_some() {
            return best;
        }
        if let ControlFlow::Break(next) = self.next_of_first_sample() {
            return next;
        }
        while self
            .classes
            .get(self.fresh)
            .is_some_and(|class| class.state != State::Fresh)
        {
            self.fresh += 1;
        }
        if self.fresh == self.classes.len() || !self.high_water.permits(self.fresh) {
            return None;
        }
        self.fresh += 1;
        Some(self.fresh - 1)
    }

    /// Whether the worker may try a class. A class that it has failed is for other workers as long
    /// as there are any. A class that was lost too often is for workers that have completed a
    /// class.
    pub(super) fn may_try(&self, position: usize, session: &Session, now: Instant) -> bool {
        let is_for_others = self.losses.is_reserved(position, now)
            && session.last_success.is_none()
            && self.sessions.is_there_proven(now);
        let has_failed = self.class_failures.has_failed(position, session, now);
        !is_for_others && (!has_failed || !self.is_there_one_to_try(position, now))
    }

    /// Whether there is a worker that has not failed a class.
    pub(super) fn is_there_one_to_try(&self, position: usize, now: Instant) -> bool {
        self.sessions.any_healthy(now, |session| {
            !self.class_failures.has_failed(position, session, now)
        })
    }

    /// Settles a class as failed without a report about it.
    pub(super) fn give_up(&mut self, position: usize, failure: Failure) {
        self.set(position, State::Failed);
        self.class_failures.forget(position);
        self.given_up.push((self.classes[position].wnid, failure));
    }
}

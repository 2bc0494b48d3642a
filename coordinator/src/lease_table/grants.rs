//! Granting: which worker is granted which class next, and when none is granted.

use shared::{Wnid, ids::SessionId, outcome::Failure};
use tokio::time::Instant;

use super::{
    Granted, Lease, LeaseTable, State, UnknownSession, first_answers::NextOfSample,
    leases::LeaseProgress, sessions::Session,
};

/// Number of returned classes that are searched for the best one for a worker.
const SEARCHED_CLASSES: usize = 64;

/// How much may be granted at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GrantRule {
    Closed,
    /// One class, to test whether the origin is available again.
    Probe,
    Open,
}

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
        self.known(id)?;
        if self.sessions.end_survey(id) {
            self.wake_ups += 1;
        }
        self.release_of_present(id, now);
        let drain = self.sessions.by_id[&id].draining;
        let (max, probe) = match self.grant_rule(id, now) {
            GrantRule::Closed => (0, false),
            GrantRule::Probe => (max.min(1), true),
            GrantRule::Open => (max, false),
        };
        let room = self.free_slots(id);
        self.sessions
            .by_id
            .get_mut(&id)
            .expect("it is known")
            .waits_for_slot = room < max;
        // Only if something is granted: until then the list may still change.
        let max = max.min(room);
        let max = if max > 0 {
            max.min(self.room_in_sample(id, now))
        } else {
            0
        };
        let mut leases = Vec::new();
        while leases.len() < max {
            let Some(position) = self.next_pending(id, now) else {
                if self.release_of_absent() {
                    continue;
                }
                break;
            };
            leases.push(self.grant(position, id, now));
        }
        while !probe && leases.len() < max {
            let Some(lease) = self.grant_attempt(id, now) else {
                break;
            };
            leases.push(lease);
        }
        let mut silent = if probe { 0 } else { self.room_for_silent(id) };
        while silent > 0 && leases.len() < max {
            let Some(position) = self.take_silent(id, now) else {
                break;
            };
            leases.push(self.grant(position, id, now));
            self.classes[position].is_taken = true;
            silent -= 1;
        }
        if probe && !leases.is_empty() {
            self.breaker.probed(now);
        }
        Ok(Granted {
            probe: probe && !leases.is_empty(),
            leases,
            drain,
        })
    }

    fn grant(&mut self, position: usize, id: SessionId, now: Instant) -> Lease {
        self.last_token = self.last_token.next();
        self.classes[position].token = Some(self.last_token);
        self.classes[position].is_taken = false;
        let anew = self.begun_on.remove(&position).is_none();
        self.hold(position, id, LeaseProgress::granted(now, anew));
        Lease {
            wnid: self.classes[position].wnid,
            token: self.last_token,
        }
    }

    /// Takes back leases that were granted but not delivered to the worker.
    pub fn take_back(&mut self, id: SessionId, leases: &[Lease]) {
        for lease in leases {
            if let Some(position) = self.index.get(&lease.wnid).copied() {
                let class = &self.classes[position];
                if self.attempts.get_mut(position, id, lease.token).is_some() {
                    self.take_back_attempt(position);
                } else if class.state == State::Leased(id) && class.token == Some(lease.token) {
                    self.give_back(position);
                }
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
            wnids
                .iter()
                .filter_map(|wnid| self.index.get(wnid).copied())
                .collect()
        };
        let mut retried = Vec::new();
        for position in positions {
            if self.classes[position].state == State::Failed {
                self.troubles.forget(position);
                self.give_back(position);
                retried.push(self.classes[position].wnid);
            }
        }
        retried
    }

    fn grant_rule(&self, id: SessionId, now: Instant) -> GrantRule {
        let session = &self.sessions.by_id[&id];
        let only_one = || !self.sessions.is_there_another(id, now, |_| true);
        match () {
            () if session.draining => GrantRule::Closed,
            () if session.is_quarantined(now) && !only_one() => GrantRule::Closed,
            // Only before the first grant: later workers must not delay a fleet that is working.
            () if self.last_token == self.first_token && self.sessions.is_surveying(now) => {
                GrantRule::Closed
            }
            () if !self.breaker.is_open() => GrantRule::Open,
            () if self.breaker.is_probe_due(now) => GrantRule::Probe,
            () => GrantRule::Closed,
        }
    }

    /// The best returned class for this worker, or the next class that was never granted.
    fn next_pending(&mut self, id: SessionId, now: Instant) -> Option<usize> {
        match self.next_of_later_sample() {
            NextOfSample::Class(position) => return Some(position),
            NextOfSample::NotYet => return None,
            NextOfSample::NoMore => {}
        }
        let session = &self.sessions.by_id[&id];
        let begun_here = |position: &usize| {
            !session.hello.storage.is_empty()
                && self.begun_on.get(position) == Some(&session.hello.storage)
        };
        let returned = || self.returned.values().copied().take(SEARCHED_CLASSES);
        let may_try = |position: &usize| {
            !self.is_held_back(*position) && self.may_try(*position, id, session, now)
        };
        let candidates = || returned().filter(may_try);
        let best = candidates()
            .find(begun_here)
            .or_else(|| candidates().next());
        if best.is_some() {
            return best;
        }
        match self.next_of_sample() {
            NextOfSample::Class(position) => return Some(position),
            NextOfSample::NotYet => return None,
            NextOfSample::NoMore => {}
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
    pub(super) fn may_try(
        &self,
        position: usize,
        id: SessionId,
        session: &Session,
        now: Instant,
    ) -> bool {
        if self.losses.is_reserved(position, now)
            && session.last_success.is_none()
            && self.sessions.is_there_proven(now)
        {
            return false;
        }
        let has_failed =
            |session: &Session| self.troubles.has_failed(position, now, || session.keys());
        !has_failed(session)
            || !self
                .sessions
                .is_there_another(id, now, |other| !has_failed(other))
    }

    /// Settles a class as failed without a report about it.
    pub(super) fn give_up(&mut self, position: usize, failure: Failure) {
        self.set(position, State::Failed);
        self.troubles.forget(position);
        self.given_up.push((self.classes[position].wnid, failure));
    }
}

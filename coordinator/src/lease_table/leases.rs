//! Leases from the grant to the end: reconciles the classes that a worker reports, releases idle
//! leases, and performs all state changes of classes.

use std::{mem, time::Duration};

use shared::{
    ids::SessionId,
    outcome::{Failure, FailureKind},
};
use tokio::time::Instant;

use super::{Lease, LeaseNotice, LeaseTable, ReportedLease, State, pauses::later, trouble::TRIES};

/// A lease of a session: the class's progress as its worker reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseProgress {
    /// Time of the grant, or of the last heartbeat that listed the class.
    pub(super) named: Instant,
    /// Offset in the tar, and the time of its last change. Pauses are not counted.
    pub(super) bytes: u64,
    pub(super) since: Instant,
    /// The worker needs no origin for the class now: it reads a local tar, verifies an existing
    /// folder, or publishes.
    pub(super) is_local: bool,
    /// Length of the tar in bytes; 0 where it is not known.
    pub(super) length: u64,
    /// Time and offset of the first heartbeat that listed the class with this length. Reset when
    /// the offset decreases. Pauses in which no bytes were received are not counted.
    pub(super) first: Option<(Instant, u64)>,
    /// Total length of the pauses since the last heartbeat that listed the class.
    paused: Duration,
    /// Time of the grant, if the whole tar is received under this lease.
    pub(super) granted: Option<Instant>,
}

impl LeaseProgress {
    /// The state at the grant. `anew`: no worker is known to have begun the class.
    pub(super) fn granted(now: Instant, anew: bool) -> Self {
        Self {
            named: now,
            bytes: 0,
            since: now,
            is_local: false,
            length: 0,
            first: None,
            paused: Duration::ZERO,
            granted: anew.then_some(now),
        }
    }

    /// Records the progress that a heartbeat reports.
    pub(super) fn name(&mut self, bytes: u64, length: u64, now: Instant) {
        self.named = now;
        let paused = mem::take(&mut self.paused);
        if bytes != self.bytes {
            self.since = now;
        } else if let Some((at, _)) = &mut self.first {
            *at = later(*at, paused, now);
        }
        let is_forward = |(_, position): &(Instant, u64)| *position <= bytes;
        if length != self.length || !self.first.as_ref().is_some_and(is_forward) {
            self.first = (length > 0).then_some((now, bytes));
        }
        (self.bytes, self.length) = (bytes, length);
    }

    /// Records a pause: a time in which no worker could send requests to the origin.
    pub(super) fn pause(&mut self, time: Duration, now: Instant) {
        self.since = later(self.since, time, now);
        self.paused += time;
    }

    /// How long no bytes were received. With fewer connections than slots, a class may wait hours
    /// for a connection while other classes of its worker receive bytes. Before the first byte of a
    /// class the progress of its session therefore counts as well.
    pub(super) fn stalled(&self, session_progress: Instant, now: Instant) -> Duration {
        let since = if self.bytes == 0 {
            self.since.max(session_progress)
        } else {
            self.since
        };
        now.saturating_duration_since(since)
    }
}

impl LeaseTable {
    /// Returns the leases that the session must drop. A session regains a queued class that its
    /// worker lost, if it names the current token, and a class that was granted by an earlier
    /// coordinator, whose grants are not in the ledger. Both are limited by its free slots.
    pub(super) fn reconcile(
        &mut self,
        id: SessionId,
        held: &[ReportedLease],
        now: Instant,
    ) -> Vec<Lease> {
        let mut drop = Vec::new();
        let mut room = self.free_slots(id);
        for ReportedLease {
            lease,
            bytes,
            length,
            is_local,
        } in held
        {
            let Some(position) = self.index.get(&lease.wnid).copied() else {
                drop.push(*lease);
                continue;
            };
            let state = self.classes[position].state;
            let is_current = self.classes[position].token == Some(lease.token);
            let holding = match state {
                State::Leased(holder) if holder == id && is_current => self
                    .sessions
                    .by_id
                    .get_mut(&id)
                    .and_then(|session| session.leases.get_mut(&position)),
                State::Queued(_) if is_current && room > 0 && self.was_lost_by(position, id) => {
                    room -= 1;
                    Some(self.hold(position, id, LeaseProgress::granted(now, false)))
                }
                State::Fresh | State::Elsewhere
                    if room > 0
                        && lease.token.is_of_an_epoch_before(self.first_token)
                        && self.may_be_held(position) =>
                {
                    room -= 1;
                    self.classes[position].token = Some(lease.token);
                    Some(self.hold(position, id, LeaseProgress::granted(now, false)))
                }
                _ => self.attempts.get_mut(position, id, lease.token),
            };
            match holding {
                Some(holding) => {
                    holding.name(*bytes, *length, now);
                    holding.is_local = *is_local;
                }
                None => drop.push(*lease),
            }
        }
        drop
    }

    /// Assigns a class to a session.
    pub(super) fn hold(
        &mut self,
        position: usize,
        id: SessionId,
        holding: LeaseProgress,
    ) -> &mut LeaseProgress {
        self.set(position, State::Leased(id));
        let leases = &mut self
            .sessions
            .by_id
            .get_mut(&id)
            .expect("leases go to known sessions")
            .leases;
        leases.entry(position).insert_entry(holding).into_mut()
    }

    pub(super) fn take_back_idle(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.by_id.get(&id) else {
            return;
        };
        let ttl = self.ttl;
        let stuck_after = self.stuck_after;
        let last_progress = session.last_progress;
        let not_listed = |held: &LeaseProgress| now - held.named >= ttl;
        let wedged = |held: &LeaseProgress| held.stalled(last_progress, now) >= stuck_after;
        let idle: Vec<_> = session
            .leases
            .iter()
            .filter(|(_, held)| not_listed(held) || wedged(held))
            .map(|(position, held)| (*position, wedged(held)))
            .collect();
        for (position, is_wedged) in idle {
            if is_wedged {
                let session = &self.sessions.by_id[&id];
                let worker = session.hello.worker.clone();
                self.notices.push(LeaseNotice::NoProgress {
                    wnid: self.classes[position].wnid,
                    worker,
                });
                let tried = self.troubles.note(position, session.name_key(), false, now);
                if tried >= TRIES && !self.attempts.has_attempt(position) {
                    let limit = humantime::format_duration(stuck_after);
                    let message = format!("no progress for {limit}, {TRIES} times");
                    self.give_up(position, Failure::new(FailureKind::Timeout, message));
                    continue;
                }
            }
            self.give_back(position);
        }
        for position in self.attempted_by(id) {
            let holding = self.attempts.holding(position);
            if holding.is_some_and(|held| not_listed(held) || wedged(held)) {
                self.end_attempt(position);
            }
        }
    }

    /// Transfers a leased class to its speculative attempt, or queues it. The old token is no
    /// longer valid.
    pub(super) fn give_back(&mut self, position: usize) {
        if self.hand_over(position) {
            return;
        }
        self.classes[position].token = None;
        self.queue(position);
    }

    /// Queues a class to be granted again.
    pub(super) fn queue(&mut self, position: usize) {
        self.last_queued += 1;
        self.set(position, State::Queued(self.last_queued));
        self.wake_ups += 1;
    }

    /// The only place where a class changes its state, and with it the counts, the queues and the
    /// leases of sessions.
    pub(super) fn set(&mut self, position: usize, state: State) {
        let before = mem::replace(&mut self.classes[position].state, state);
        *before.counter(&mut self.status) -= 1;
        *state.counter(&mut self.status) += 1;
        match before {
            State::Queued(key) => {
                self.returned.remove(&key);
                self.lost_by.remove(&position);
            }
            State::Delayed(until) => self.troubles.end_delay(position, until),
            State::Doubted => self.breaker.end_doubt(position),
            State::Elsewhere => self.elsewhere.pending -= 1,
            State::Leased(id) if state != before => {
                if let Some(session) = self.sessions.by_id.get_mut(&id) {
                    session.leases.remove(&position);
                }
                self.slot_was_freed(id);
            }
            State::Fresh | State::Leased(_) | State::Success | State::Skipped | State::Failed => {}
        }
        match state {
            State::Queued(key) => drop(self.returned.insert(key, position)),
            State::Delayed(until) => self.troubles.delay(position, until),
            State::Success | State::Skipped | State::Failed => self.losses.forget(position),
            State::Elsewhere => self.elsewhere.pending += 1,
            _ => {}
        }
    }
}

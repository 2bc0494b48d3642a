//! Leases from the grant to the end: reconciles the classes that a worker reports, releases idle
//! leases, and performs all state changes of classes.

use std::{mem, time::Duration};

use shared::{
    ids::{LeaseToken, SessionId},
    outcome::{Failure, FailureKind},
};
use tokio::time::Instant;

use super::{
    AttemptEvent, Lease, LeaseNotice, LeaseTable, Renewed, ReportedLease, Session, State,
    UnknownSession, class_failures::TRIES, live::ShownProgress, pauses::later,
};

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
    /// Time since which the session has held the class.
    pub(super) held_since: Instant,
    /// For display only: the progress in the last heartbeat or observation.
    pub(super) shown: ShownProgress,
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
            held_since: now,
            shown: ShownProgress::default(),
        }
    }

    /// Records the progress that a heartbeat reports.
    pub(super) fn name(&mut self, reported: &ReportedLease, now: Instant) {
        let ReportedLease { bytes, length, .. } = *reported;
        self.named = now;
        let paused = mem::take(&mut self.paused);
        if bytes != self.bytes {
            self.since = now;
        } else if let Some((at, _)) = &mut self.first {
            *at = later(*at, paused, now);
        }
        if length != self.length || self.first.is_none_or(|(_, first)| first > bytes) {
            self.first = (length > 0).then_some((now, bytes));
        }
        self.bytes = bytes;
        self.length = length;
        self.is_local = reported.is_local;
        self.shown = reported.into();
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
    /// Handles a heartbeat: keeps a session and its leases alive, and returns the leases that the
    /// worker must give up. An expired lease is resumed if the class was not granted to another
    /// worker meanwhile. A lease that the worker has not named for a whole time to live (its grant
    /// was lost in transit), or whose transfer makes no progress for a long time, is returned.
    pub fn renew(
        &mut self,
        id: SessionId,
        held: &[ReportedLease],
        received_bytes: u64,
        now: Instant,
    ) -> Result<Renewed, UnknownSession> {
        let session = self.sessions.get_mut(id)?;
        let heard_before = mem::replace(&mut session.heard, now);
        session.live.heard(now);
        let received = self.received.entry(&session.worker_info.instance);
        let more = received.renew(received_bytes);
        let shown = received.show(received_bytes);
        self.status.received_bytes = self.status.received_bytes.saturating_add(shown);
        if more > 0 {
            session.last_received = now;
            session.last_progress = now;
            // Bytes arrived after the origin was considered unavailable, so it is available again.
            let open_since = self.breaker.open_since();
            if open_since.is_some_and(|since| since <= heard_before) {
                self.origin_answered(now);
            }
        }
        let drop = self.reconcile(id, held, now);
        let most = held.iter().map(|held| held.bytes).max();
        self.first_bytes(most.unwrap_or_default(), more > 0);
        self.later_bytes(id);
        self.take_back_idle(id, now);
        Ok(Renewed {
            drop,
            drain: self.sessions.by_id[&id].draining,
        })
    }

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
        for reported in held {
            let Lease { wnid, token } = reported.lease;
            let Some(position) = self.position(wnid) else {
                drop.push(reported.lease);
                continue;
            };
            let class = &self.classes[position];
            let may_resume = match class.state {
                State::Queued(_) => class.token == Some(token) && self.was_lost_by(position, id),
                State::Fresh | State::Elsewhere => {
                    token.is_of_an_epoch_before(self.first_token) && self.may_be_held(position)
                }
                _ => false,
            };
            if may_resume && room > 0 {
                room -= 1;
                self.classes[position].token = Some(token);
                self.hold(position, id, LeaseProgress::granted(now, false));
            }
            match self.progress(position, id, token) {
                Some(progress) => progress.name(reported, now),
                None => drop.push(reported.lease),
            }
        }
        drop
    }

    /// The progress of a session's lease, or of its speculative attempt, with this token.
    pub(super) fn progress(
        &mut self,
        position: usize,
        id: SessionId,
        token: LeaseToken,
    ) -> Option<&mut LeaseProgress> {
        if self.classes[position].token == Some(token) {
            let session = self.sessions.by_id.get_mut(&id)?;
            session.leases.get_mut(&position)
        } else {
            self.attempts.get_mut(position, id, token)
        }
    }

    /// The session that holds a class, and the progress of its lease.
    pub(super) fn holder(&self, position: usize) -> Option<(&Session, &LeaseProgress)> {
        let State::Leased(id) = self.classes[position].state else {
            return None;
        };
        let session = self.sessions.by_id.get(&id)?;
        Some((session, session.leases.get(&position)?))
    }

    /// All leases: the class, the session that holds it, and the progress of the lease.
    pub(super) fn leases(&self) -> impl Iterator<Item = (usize, &Session, &LeaseProgress)> {
        self.sessions.by_id.values().flat_map(|session| {
            let leases = session.leases.iter();
            leases.map(move |(position, held)| (*position, session, held))
        })
    }

    /// Records that a session holds a class.
    pub(super) fn hold(&mut self, position: usize, id: SessionId, progress: LeaseProgress) {
        self.set(position, State::Leased(id));
        let session = self.sessions.get_mut(id);
        let session = session.expect("leases go to known sessions");
        session.leases.insert(position, progress);
    }

    fn take_back_idle(&mut self, id: SessionId, now: Instant) {
        let session = &self.sessions.by_id[&id];
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
            self.classes[position].count_attempt();
            if is_wedged {
                let session = &self.sessions.by_id[&id];
                self.notices.push(LeaseNotice::NoProgress {
                    wnid: self.classes[position].wnid,
                    worker: session.worker_info.worker.clone(),
                });
                let key = session.name_key();
                let tried = self.class_failures.note(position, key, false, now);
                if tried >= TRIES && !self.attempts.of.contains_key(&position) {
                    let limit = humantime::format_duration(stuck_after);
                    let message = format!("no progress for {limit}, {TRIES} times");
                    self.give_up(position, Failure::new(FailureKind::Timeout, message));
                    continue;
                }
            }
            self.give_back(position);
        }
        for position in self.attempted_by(id) {
            let held = &self.attempts.of[&position].holding;
            if not_listed(held) || wedged(held) {
                self.end_attempt(position, AttemptEvent::Failed);
            }
        }
    }

    /// Transfers a leased class to its speculative attempt, or queues it. The old token is no
    /// longer valid.
    pub(super) fn give_back(&mut self, position: usize) {
        if !self.hand_over(position) {
            self.queue(position);
        }
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
        let class = &mut self.classes[position];
        let before = mem::replace(&mut class.state, state);
        if !matches!(state, State::Leased(_)) {
            class.token = None;
        }
        *before.counter(&mut self.status) -= 1;
        *state.counter(&mut self.status) += 1;
        match before {
            State::Queued(key) => {
                self.returned.remove(&key);
                self.lost_by.remove(&position);
            }
            State::Delayed(until) => drop(self.delayed.remove(&(until, position))),
            State::Doubted => drop(self.breaker.doubts.remove(&position)),
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
            State::Delayed(until) => drop(self.delayed.insert((until, position))),
            State::Success | State::Skipped | State::Failed => self.losses.forget(position),
            State::Elsewhere => self.elsewhere.pending += 1,
            _ => {}
        }
    }
}

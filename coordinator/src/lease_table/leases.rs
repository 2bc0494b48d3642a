//! Who holds a class, from the grant to the end of the lease: what a worker says it has, and what goes back.

use std::{mem, time::Duration};

use shared::{
    ids::SessionId,
    outcome::{Failure, FailureKind},
};
use tokio::time::Instant;

use super::{Held, Lease, LeaseTable, Notice, State, pauses::later, trouble::TRIES};

/// A class in a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding {
    /// When the worker was granted it, or last named it.
    pub(super) named: Instant,
    /// Where it was in the tar, and since when; pauses are not counted.
    pub(super) bytes: u64,
    pub(super) since: Instant,
    /// Its worker does what needs no origin: it reads a local tar, proves a folder, or publishes.
    pub(super) is_local: bool,
    /// Length of the tar; 0 where it is not known.
    pub(super) length: u64,
    /// Time and offset of the first renewal that named it with this length. Reset when the offset
    /// decreases. Pauses in which no bytes came are not counted.
    pub(super) first: Option<(Instant, u64)>,
    /// Pauses since it was last named.
    paused: Duration,
    /// When it was granted, if all of the tar has come since then.
    pub(super) granted: Option<Instant>,
}

impl Holding {
    /// `anew`: nothing of the class is there yet, as far as anybody knows.
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

    /// Its worker says where it is.
    pub(super) fn name(&mut self, bytes: u64, length: u64, now: Instant) {
        self.named = now;
        let paused = mem::take(&mut self.paused);
        if bytes != self.bytes {
            self.since = now;
        } else if let Some((at, _)) = &mut self.first {
            *at = later(*at, paused, now);
        }
        let went_on = |(_, position): &(Instant, u64)| *position <= bytes;
        if length != self.length || !self.first.as_ref().is_some_and(went_on) {
            self.first = (length > 0).then_some((now, bytes));
        }
        (self.bytes, self.length) = (bytes, length);
    }

    /// For so long no worker could ask the origin.
    pub(super) fn pause(&mut self, time: Duration, now: Instant) {
        self.since = later(self.since, time, now);
        self.paused += time;
    }

    /// How long nothing has come of it. Where there are fewer connections than slots a class may
    /// wait for its turn for hours, while others of its worker have theirs: so before its first
    /// byte the progress of the session counts as well.
    pub(super) fn stalled(&self, session_progress: Instant, now: Instant) -> Duration {
        let since = if self.bytes == 0 { self.since.max(session_progress) } else { self.since };
        now.saturating_duration_since(since)
    }
}

impl LeaseTable {
    /// What the session must give up. It takes up again what its worker had under the token that it
    /// names, or what it had from an earlier coordinator, whose grants are not in the ledger; both
    /// within its slots.
    pub(super) fn reconcile(&mut self, id: SessionId, held: &[Held], now: Instant) -> Vec<Lease> {
        let mut drop = Vec::new();
        let mut room = self.free_slots(id);
        for Held { lease, bytes, length, is_local } in held {
            let Some(position) = self.index.get(&lease.wnid).copied() else {
                drop.push(*lease);
                continue;
            };
            let state = self.classes[position].state;
            let is_current = self.classes[position].token == Some(lease.token);
            let holding = match state {
                State::Leased(holder) if holder == id && is_current => {
                    self.sessions.by_id.get_mut(&id).and_then(|session| session.leases.get_mut(&position))
                }
                State::Queued(_) if is_current && room > 0 && self.was_lost_by(position, id) => {
                    room -= 1;
                    Some(self.hold(position, id, Holding::granted(now, false)))
                }
                State::Fresh | State::Elsewhere
                    if room > 0
                        && lease.token.is_of_an_epoch_before(self.first_token)
                        && self.may_be_held(position) =>
                {
                    room -= 1;
                    self.classes[position].token = Some(lease.token);
                    Some(self.hold(position, id, Holding::granted(now, false)))
                }
                _ => self.copies.get_mut(position, id, lease.token),
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

    /// Gives a class to a session.
    pub(super) fn hold(&mut self, position: usize, id: SessionId, holding: Holding) -> &mut Holding {
        self.set(position, State::Leased(id));
        let leases = &mut self.sessions.by_id.get_mut(&id).expect("leases go to known sessions").leases;
        leases.entry(position).insert_entry(holding).into_mut()
    }

    pub(super) fn take_back_idle(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.by_id.get(&id) else { return };
        let (ttl, stuck_after, last_progress) = (self.ttl, self.stuck_after, session.last_progress);
        let forgotten = |held: &Holding| now - held.named >= ttl;
        let wedged = |held: &Holding| held.stalled(last_progress, now) >= stuck_after;
        let idle: Vec<_> = session
            .leases
            .iter()
            .filter(|(_, held)| forgotten(held) || wedged(held))
            .map(|(position, held)| (*position, wedged(held)))
            .collect();
        for (position, is_wedged) in idle {
            if is_wedged {
                let session = &self.sessions.by_id[&id];
                let worker = session.hello.worker.clone();
                self.notices.push(Notice::Wedged { wnid: self.classes[position].wnid, worker });
                let tried = self.troubles.note(position, session.name_key(), false, now);
                if tried >= TRIES && !self.copies.is_copied(position) {
                    let limit = humantime::format_duration(stuck_after);
                    let message = format!("no progress for {limit}, {TRIES} times");
                    self.give_up(position, Failure::new(FailureKind::Timeout, message));
                    continue;
                }
            }
            self.give_back(position);
        }
        for position in self.copied_by(id) {
            let holding = self.copies.holding(position);
            if holding.is_some_and(|held| forgotten(held) || wedged(held)) {
                self.end_copy(position);
            }
        }
    }

    /// Gives a leased class to its copy, or makes it pending; the old token is worth nothing from now on.
    pub(super) fn give_back(&mut self, position: usize) {
        if self.hand_over(position) {
            return;
        }
        self.classes[position].token = None;
        self.queue(position);
    }

    /// Lets a class be granted again.
    pub(super) fn queue(&mut self, position: usize) {
        self.last_queued += 1;
        self.set(position, State::Queued(self.last_queued));
        self.turn += 1;
    }

    /// The one place where a class changes its state, and with it the counts, the queues that hold it and the sessions' leases.
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
                self.slot_is_free(id);
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

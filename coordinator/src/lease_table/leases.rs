//! Who holds a class, from the grant to the end of the lease: what a worker says it has, and what goes back.

use std::{mem, time::Duration};

use shared::{
    Wnid,
    ids::SessionId,
    outcome::{Failure, FailureKind},
};
use tokio::time::Instant;

use super::{Held, LeaseTable, Notice, State, trouble::TRIES};

/// A lease whose worker names it but does not get on goes to another: longer than all the waits that an origin may ask for,
/// six times a quarter of an hour.
const WEDGED: Duration = Duration::from_hours(2);

/// A class in a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding {
    /// When the worker was granted it, or last named it.
    pub(super) named: Instant,
    /// Where it was in the tar, and since when.
    pub(super) bytes: u64,
    pub(super) since: Instant,
}

impl LeaseTable {
    /// What the session must give up; takes up again what is pending under the very token that it holds, or under one of an
    /// earlier coordinator, whose grants nobody has kept.
    pub(super) fn reconcile(&mut self, id: SessionId, held: &[Held], now: Instant) -> Vec<Wnid> {
        let mut drop = Vec::new();
        for Held { lease, bytes } in held {
            let Some(position) = self.index.get(&lease.wnid).copied() else {
                drop.push(lease.wnid);
                continue;
            };
            let class = &mut self.classes[position];
            let is_current = class.token == Some(lease.token);
            let is_of_former = class.token.is_none() && lease.token < self.first_token;
            match class.state {
                State::Leased(holder) if holder == id && is_current => self.hold(position, id, *bytes, now),
                State::Pending if is_current || is_of_former => {
                    class.token = Some(lease.token);
                    self.hold(position, id, *bytes, now);
                }
                _ => drop.push(lease.wnid),
            }
        }
        drop
    }

    /// Gives a class to a session, or notes that the session still has it.
    pub(super) fn hold(&mut self, position: usize, id: SessionId, bytes: u64, now: Instant) {
        self.set(position, State::Leased(id));
        let leases = &mut self.sessions.by_id.get_mut(&id).expect("leases go to known sessions").leases;
        let since = leases.get(&position).filter(|held| held.bytes == bytes).map_or(now, |held| held.since);
        leases.insert(position, Holding { named: now, bytes, since });
    }

    pub(super) fn take_back_idle(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.by_id.get(&id) else { return };
        let forgotten = |held: &Holding| now - held.named >= self.ttl;
        let wedged = |held: &Holding| now - held.since >= WEDGED;
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
                if self.troubles.note(position, session.name_key(), now) >= TRIES {
                    let message = format!("no progress for {} hours, {TRIES} times", WEDGED.as_secs() / 3600);
                    self.give_up(position, Failure::new(FailureKind::Timeout, message));
                    continue;
                }
            }
            self.give_back(position);
        }
    }

    /// Makes a leased class pending; the old token is worth nothing from now on.
    pub(super) fn give_back(&mut self, position: usize) {
        self.set(position, State::Pending);
        self.classes[position].token = None;
        self.queue(position);
    }

    /// Lets a pending class be granted again.
    pub(super) fn queue(&mut self, position: usize) {
        if !mem::replace(&mut self.classes[position].queued, true) {
            self.returned.push_back(position);
        }
        self.turn += 1;
    }

    /// The one place where a class changes its state, and with it the counts and the sessions' leases.
    pub(super) fn set(&mut self, position: usize, state: State) {
        let before = mem::replace(&mut self.classes[position].state, state);
        *before.counter(&mut self.status) -= 1;
        *state.counter(&mut self.status) += 1;
        if let State::Leased(id) = before
            && state != before
            && let Some(session) = self.sessions.by_id.get_mut(&id)
        {
            session.leases.remove(&position);
        }
    }
}

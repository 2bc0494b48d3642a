//! Second copies: near the end of a job a worker with nothing to do takes a class that another one takes too long for, on
//! a storage of its own. The first to publish it wins, and the other gives it up.
//!
//! Invariants: a copy is of a leased class, at most one of each, and never counts; the class belongs to its holder, and to
//! the copy's worker only from the moment at which the holder has lost or failed it. Bad news of a copy ends the copy and
//! nothing else. All copies together are at most [`BUDGET`] of what has come for good.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use shared::ids::{LeaseToken, SessionId};
use tokio::time::Instant;

use super::{
    CopyNews, Lease, LeaseTable, Notice, State,
    leases::Holding,
    sessions::Session,
    stragglers::{Speeds, time_left},
};

/// The length of all copies, in hundredths of that of all classes that have come since the coordinator started.
const BUDGET: u64 = 3;

/// The second lease of a class.
#[derive(Debug)]
pub(super) struct SecondLease {
    pub(super) session: SessionId,
    pub(super) token: LeaseToken,
    pub(super) holding: Holding,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    of: BTreeMap<usize, SecondLease>,
    /// Classes that may be copied, as of the last look: the one that holds up the job for longest comes first.
    due: Vec<usize>,
    /// Classes whose copy failed or was lost: not copied again.
    came_to_nothing: HashSet<usize>,
    pub(super) speeds: Speeds,
    /// Bytes of the classes that have come, and of the copies that were begun.
    came: u64,
    copied: u64,
}

impl Copies {
    /// The copy of a class that a worker has under this token.
    pub(super) fn get_mut(&mut self, class: usize, id: SessionId, token: LeaseToken) -> Option<&mut Holding> {
        let copy = self.of.get_mut(&class).filter(|copy| copy.session == id && copy.token == token)?;
        Some(&mut copy.holding)
    }

    /// How the copy of a class gets on.
    pub(super) fn holding(&self, class: usize) -> Option<&Holding> {
        self.of.get(&class).map(|copy| &copy.holding)
    }

    /// Whether a worker has the copy of a class under this token.
    pub(super) fn has(&self, class: usize, id: SessionId, token: LeaseToken) -> bool {
        self.of.get(&class).is_some_and(|copy| copy.session == id && copy.token == token)
    }

    /// Whether a class is being copied.
    pub(super) fn is_copied(&self, class: usize) -> bool {
        self.of.contains_key(&class)
    }

    /// Whether a worker has the copy of a class.
    pub(super) fn is_copied_by(&self, class: usize, id: SessionId) -> bool {
        self.of.get(&class).is_some_and(|copy| copy.session == id)
    }

    /// How all copies get on.
    pub(super) fn holdings(&mut self) -> impl Iterator<Item = &mut Holding> {
        self.of.values_mut().map(|copy| &mut copy.holding)
    }

    /// All of them, with their classes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &SecondLease)> {
        self.of.iter().map(|(class, copy)| (*class, copy))
    }

    /// A class is settled.
    pub(super) fn settled(&mut self, class: usize, came: u64) -> Option<SecondLease> {
        self.came_to_nothing.remove(&class);
        self.came = self.came.saturating_add(came);
        self.of.remove(&class)
    }

    /// Bytes of all copies, and of all classes that have come.
    #[cfg(test)]
    pub(super) fn spent(&self) -> (u64, u64) {
        (self.copied, self.came)
    }

    /// Notes bytes that will come a second time.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.copied = self.copied.saturating_add(bytes);
    }

    /// Whether so many bytes may come a second time.
    pub(super) fn affords(&self, length: u64) -> bool {
        u128::from(self.copied) + u128::from(length) <= u128::from(self.came) * u128::from(BUDGET) / 100
    }
}

impl LeaseTable {
    /// Looks which classes hold up the end of the job, and calls those who wait if there are new ones. `quiet`: nobody may ask
    /// the origin for anything now, so nobody is slow.
    pub fn look_for_stragglers(&mut self, quiet: bool, now: Instant) {
        self.note_pause(quiet, now);
        let due = if quiet || !self.has_time_for_copies() { Vec::new() } else { self.stragglers(now) };
        if due.iter().any(|class| !self.copies.due.contains(class)) {
            self.turn += 1;
        }
        self.copies.due = due;
        self.look_for_silence(quiet, now);
    }

    /// Whether no class waits to be granted.
    pub(super) fn nothing_pends(&self) -> bool {
        self.recovery.is_none() && self.fresh == self.classes.len() && self.returned.is_empty()
    }

    /// Whether there may be workers with nothing to do, on more than one storage.
    fn has_time_for_copies(&self) -> bool {
        let mut sessions = self.sessions.by_id.values();
        let first = sessions.next();
        self.nothing_pends() && first.is_some_and(|first| sessions.any(|other| are_apart(first, other)))
    }

    fn stragglers(&self, now: Instant) -> Vec<usize> {
        let leases = self.sessions.by_id.values().flat_map(|session| &session.leases);
        let median = self.copies.speeds.median();
        let mut found: Vec<(Duration, usize)> = leases
            .filter(|(class, held)| self.may_be_copied(**class, held.length))
            .filter_map(|(class, held)| Some((time_left(held, median, self.ttl, now)?, *class)))
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.into_iter().map(|(_, class)| class).collect()
    }

    fn may_be_copied(&self, class: usize, length: u64) -> bool {
        !self.copies.is_copied(class) && !self.copies.came_to_nothing.contains(&class) && self.copies.affords(length)
    }

    /// Grants a copy of the class that holds up the job for longest, of those that this worker may help with.
    pub(super) fn grant_copy(&mut self, id: SessionId, now: Instant) -> Option<Lease> {
        let at = self.copies.due.iter().position(|class| self.may_copy(*class, id, now))?;
        let class = self.copies.due.remove(at);
        let State::Leased(holder) = self.classes[class].state else { return None };
        let length = self.sessions.by_id[&holder].leases[&class].length;
        self.last_token = self.last_token.next();
        let holding = Holding::granted(now, true);
        self.copies.of.insert(class, SecondLease { session: id, token: self.last_token, holding });
        self.copies.spend(length);
        let holder = self.sessions.by_id[&holder].hello.worker.clone();
        self.tell_of_copy(class, id, CopyNews::Granted { holder, length });
        Some(Lease { wnid: self.classes[class].wnid, token: self.last_token })
    }

    fn may_copy(&self, class: usize, id: SessionId, now: Instant) -> bool {
        let State::Leased(holder) = self.classes[class].state else { return false };
        let (session, other) = (&self.sessions.by_id[&id], &self.sessions.by_id[&holder]);
        let held = &other.leases[&class];
        holder != id
            && session.is_healthy(now)
            && are_apart(session, other)
            && self.may_be_copied(class, held.length)
            && !self.troubles.has_failed(class, now, || session.keys())
            && time_left(held, self.copies.speeds.median(), self.ttl, now).is_some()
    }

    /// The holder has lost or failed a class: it is now its copy's, if there is one.
    pub(super) fn hand_over(&mut self, class: usize) -> bool {
        let Some(SecondLease { session, token, holding }) = self.copies.of.remove(&class) else { return false };
        self.hold(class, session, holding);
        self.classes[class].token = Some(token);
        self.tell_of_copy(class, session, CopyNews::TookOver);
        true
    }

    /// A copy has failed or was lost, which says nothing of its class.
    pub(super) fn end_copy(&mut self, class: usize) {
        if let Some(copy) = self.copies.of.remove(&class) {
            self.copies.came_to_nothing.insert(class);
            self.tell_of_copy(class, copy.session, CopyNews::CameToNothing);
        }
    }

    /// A copy never reached its worker, or its worker wants to end: it may be granted again.
    pub(super) fn take_back_copy(&mut self, class: usize) {
        if let Some(copy) = self.copies.of.remove(&class) {
            self.tell_of_copy(class, copy.session, CopyNews::GivenBack);
        }
    }

    /// The classes that a session has copies of.
    pub(super) fn copied_by(&self, id: SessionId) -> Vec<usize> {
        self.copies.iter().filter(|(_, copy)| copy.session == id).map(|(class, _)| class).collect()
    }

    pub(super) fn tell_of_copy(&mut self, class: usize, id: SessionId, news: CopyNews) {
        if !matches!(news, CopyNews::Granted { .. } | CopyNews::TookOver) {
            self.slot_is_free(id);
        }
        let worker = self.sessions.by_id.get(&id).map(|session| session.hello.worker.clone()).unwrap_or_default();
        self.notices.push(Notice::Copy { wnid: self.classes[class].wnid, worker, news });
    }
}

/// Whether two workers write to different storages; one whose storage is not known has its own.
fn are_apart(one: &Session, other: &Session) -> bool {
    one.hello.storage.is_empty() || one.hello.storage != other.hello.storage
}

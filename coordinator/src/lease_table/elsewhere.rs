//! Classes that the ledger has as complete on a worker of the last run.
//!
//! Where each worker has a folder of its own, only that worker can say whether a class is still
//! there. Until it has, the class is in [`State::Elsewhere`] and no worker is granted it; with
//! `--retry-failed` it counts as skipped. A worker that has joined reports what it has before its
//! first lease: what it does not report is missing or damaged there, and is granted. The classes of
//! a worker that has not joined are granted when no other class is left and the others had
//! [`GRACE`] to join, or, if it is expected (`--expect`), when it has not joined in [`PATIENCE`].
//! After a restart of the coordinator a worker that comes back with leases is asked again, if there
//! are classes of it that no result in the ledger settles.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    time::Duration,
};

use shared::{Wnid, ids::SessionId};
use tokio::time::Instant;

use super::{ElsewhereEvent, LeaseNotice, LeaseTable, ReportedLease, State, UnknownSession};

/// An expected worker has this long to join, from the start of the coordinator.
pub const PATIENCE: Duration = Duration::from_mins(10);
/// Workers of one fleet start at about the same time: after the first one is ready, the others have
/// this long to join before they count as absent.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// Workers that are named one by one when they have not joined.
const NAMED: usize = 10;

/// Which worker has which class, as far as it has not said so in this run.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Positions of classes by worker; those that are not in `unsaid` any more do not count.
    by_worker: BTreeMap<String, Vec<usize>>,
    /// Classes of which no worker has said in this run that they are there.
    unsaid: HashSet<usize>,
    /// Pending classes that an earlier process of the run may have granted.
    begun: HashSet<usize>,
    /// Classes in [`State::Elsewhere`].
    pub(super) pending: usize,
    expected: BTreeSet<String>,
    until: Option<Instant>,
    /// When workers that have not joined count as absent; from the first worker that asks for a
    /// class.
    absent_from: Option<Instant>,
    /// Absent workers were told to people.
    is_told: bool,
    /// Classes that were settled as skipped and are pending again.
    forgotten: Vec<Wnid>,
}

impl Elsewhere {
    /// Whether an earlier process of the run may have granted the class.
    pub(super) fn may_be_held(&self, position: usize) -> bool {
        self.begun.contains(&position)
    }

    /// So many classes of a worker are unsaid.
    fn count(&self, worker: &str) -> usize {
        let positions = self.by_worker.get(worker).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter(|position| self.unsaid.contains(position)).count()
    }

    /// Takes a worker's unsaid classes out.
    fn take(&mut self, worker: &str) -> Vec<usize> {
        let mut positions = self.by_worker.remove(worker).unwrap_or_default();
        positions.retain(|position| self.unsaid.remove(position));
        positions
    }
}

impl LeaseTable {
    /// A class that an earlier run has left complete on a worker, before anything is leased.
    /// `has_begun`: an earlier process has begun this run, so what counts as skipped was said in it.
    pub fn was_complete_on(&mut self, wnid: Wnid, worker: &str, has_begun: bool) {
        let Some(position) = self.index.get(&wnid).copied() else { return };
        match self.classes[position].state {
            State::Fresh => {
                self.set(position, State::Elsewhere);
                if has_begun {
                    self.elsewhere.begun.insert(position);
                }
            }
            State::Skipped if !has_begun => {}
            _ => return,
        }
        self.elsewhere.unsaid.insert(position);
        self.elsewhere.by_worker.entry(worker.to_owned()).or_default().push(position);
    }

    /// Workers that are waited for before classes that they have are granted to others.
    pub fn expect(&mut self, workers: &[String], now: Instant) {
        for worker in BTreeSet::from_iter(workers) {
            let classes = self.elsewhere.count(worker);
            self.notices.push(LeaseNotice::Elsewhere(ElsewhereEvent::Expected { worker: worker.clone(), classes }));
            if classes > 0 {
                self.elsewhere.expected.insert(worker.clone());
            }
        }
        self.elsewhere.until = Some(now + PATIENCE);
    }

    /// Whether a class counts as skipped.
    pub fn is_skipped(&self, wnid: Wnid) -> bool {
        self.index.get(&wnid).is_some_and(|position| self.classes[*position].state == State::Skipped)
    }

    /// Classes that were settled as skipped and are pending again since the last call.
    pub fn take_forgotten(&mut self) -> Vec<Wnid> {
        mem::take(&mut self.elsewhere.forgotten)
    }

    /// A worker has said that a class is there.
    pub(super) fn is_there(&mut self, position: usize) {
        self.elsewhere.unsaid.remove(&position);
    }

    /// A worker has said that a class is there, and that its lease still has work to do: the class is granted, to
    /// a worker of the same storage first. Only what is known from an earlier run changes; the others are granted
    /// anyway.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn needs_lease(&mut self, id: SessionId, wnid: Wnid) -> Result<(), UnknownSession> {
        let storage = self.sessions.by_id.get(&id).ok_or(UnknownSession)?.hello.storage.clone();
        if let Some(position) = self.index.get(&wnid).copied()
            && self.elsewhere.unsaid.remove(&position)
        {
            self.begun_on.insert(position, storage);
            self.forget_skipped(&[position]);
            self.queue_all(&[position]);
        }
        Ok(())
    }

    /// Whether a worker that registers has to say what its storage has. One that comes back with
    /// leases after a restart of the coordinator said it before: it is asked again only if the ledger
    /// has a class of it that is not settled in this run, and no other worker waits for its answer.
    pub(super) fn has_to_survey(&mut self, id: SessionId, held: &[ReportedLease], now: Instant) -> bool {
        if held.is_empty() {
            return self.sessions.survey(id, now);
        }
        self.pending_on(&self.sessions.by_id[&id].hello.worker) > 0
    }

    /// Lets the classes be granted that a worker which asks for some has not reported, once all have
    /// reported what they have.
    pub(super) fn release_of_present(&mut self, id: SessionId, now: Instant) {
        if self.elsewhere.by_worker.is_empty() || self.sessions.is_surveying(now) {
            return;
        }
        let worker = self.sessions.by_id[&id].hello.worker.clone();
        if self.elsewhere.by_worker.contains_key(&worker) {
            self.elsewhere.expected.remove(&worker);
            let classes = self.release(&worker);
            if classes > 0 {
                self.notices.push(LeaseNotice::Elsewhere(ElsewhereEvent::NotThere { worker, classes }));
            }
        }
        let from = *self.elsewhere.absent_from.get_or_insert(now + GRACE);
        self.tell_absent_from(from, now);
    }

    /// What the time brings.
    pub(super) fn wait_for_absent(&mut self, now: Instant) {
        self.end_patience(now);
        if let Some(from) = self.elsewhere.absent_from {
            self.tell_absent_from(from, now);
        }
    }

    /// Says, before the first of them is granted to another worker, what absent workers have.
    fn tell_absent_from(&mut self, from: Instant, now: Instant) {
        if now < from || self.sessions.is_surveying(now) || mem::replace(&mut self.elsewhere.is_told, true) {
            return;
        }
        self.turn += 1;
        let elsewhere = &self.elsewhere;
        let is_absent =
            |worker: &&String| !elsewhere.expected.contains(*worker) && !self.sessions.by_worker.contains_key(*worker);
        let unexpected = elsewhere.by_worker.keys().filter(is_absent);
        let mut absent: Vec<(usize, String)> = unexpected
            .map(|worker| (self.pending_on(worker), worker.clone()))
            .filter(|(classes, _)| *classes > 0)
            .collect();
        absent.sort_unstable_by(|one, other| other.cmp(one));
        for (classes, worker) in absent.drain(..absent.len().min(NAMED)) {
            self.notices.push(LeaseNotice::Elsewhere(ElsewhereEvent::Absent { worker, classes }));
        }
        if !absent.is_empty() {
            let classes = absent.iter().map(|(classes, _)| classes).sum();
            self.notices.push(LeaseNotice::Elsewhere(ElsewhereEvent::MoreAbsent { workers: absent.len(), classes }));
        }
    }

    /// Classes of an absent worker that others would download again.
    fn pending_on(&self, worker: &str) -> usize {
        let positions = self.elsewhere.by_worker.get(worker).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter(|position| self.classes[**position].state == State::Elsewhere).count()
    }

    /// No other class is left: those of workers that have not joined and are not expected. Says
    /// whether there is one.
    pub(super) fn release_of_absent(&mut self) -> bool {
        if self.elsewhere.pending == 0 || !self.elsewhere.is_told {
            return false;
        }
        let elsewhere = &self.elsewhere;
        // One with a session is about to report what it has.
        let is_waited_for =
            |worker: &String| elsewhere.expected.contains(worker) || self.sessions.by_worker.contains_key(worker);
        let absent = elsewhere.by_worker.keys().filter(|worker| !is_waited_for(worker));
        let absent: Vec<String> = absent.filter(|worker| self.pending_on(worker) > 0).cloned().collect();
        let released: usize = absent.iter().map(|worker| self.release_pending(worker)).sum();
        released > 0
    }

    /// Does not wait for expected workers any longer when their time is over.
    fn end_patience(&mut self, now: Instant) {
        if self.elsewhere.until.is_none_or(|until| now < until) {
            return;
        }
        self.elsewhere.until = None;
        for worker in mem::take(&mut self.elsewhere.expected) {
            if self.sessions.by_worker.contains_key(&worker) {
                continue;
            }
            let classes = self.release_pending(&worker);
            if classes > 0 {
                self.notices.push(LeaseNotice::Elsewhere(ElsewhereEvent::NotJoined { worker, classes }));
            }
        }
    }

    /// Lets all unsaid classes of a worker be granted, those that count as skipped too.
    fn release(&mut self, worker: &str) -> usize {
        let positions = self.elsewhere.take(worker);
        self.forget_skipped(&positions);
        self.queue_all(&positions)
    }

    fn forget_skipped(&mut self, positions: &[usize]) {
        for position in positions {
            if self.classes[*position].state == State::Skipped {
                self.elsewhere.forgotten.push(self.classes[*position].wnid);
            }
        }
    }

    /// Lets the pending ones be granted; what counts as skipped stays so.
    fn release_pending(&mut self, worker: &str) -> usize {
        let positions = self.elsewhere.by_worker.get(worker).cloned().unwrap_or_default();
        let is_pending = |position: &usize| self.classes[*position].state == State::Elsewhere;
        let pending: Vec<usize> = positions.into_iter().filter(is_pending).collect();
        self.queue_all(&pending)
    }

    fn queue_all(&mut self, positions: &[usize]) -> usize {
        let mut queued = 0;
        for position in positions {
            if matches!(self.classes[*position].state, State::Elsewhere | State::Skipped) {
                self.queue(*position);
                queued += 1;
            }
        }
        queued
    }
}

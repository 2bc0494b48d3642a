//! Classes that the ledger has as complete on a worker of the last run.
//!
//! If each worker has its own folder, only that worker knows whether a class is still complete.
//! Until it has reported, the class is in [`State::Elsewhere`] and is granted to no worker; with
//! `--retry-failed` it counts as skipped. A worker that has joined reports its inventory before its
//! first lease: classes that it does not report are missing or damaged there, and are granted. The
//! classes of a worker that has not joined are granted when no other class is left and
//! [`JOIN_GRACE`] has passed, or, for an expected worker (`--expect`), after [`JOIN_TIMEOUT`].
//! After a restart of the coordinator a worker that returns with leases must send its inventory
//! again if the ledger has unsettled classes of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    time::Duration,
};

use shared::{Wnid, ids::SessionId};
use tokio::time::Instant;

use super::{ElsewhereEvent, LeaseNotice, LeaseTable, ReportedLease, State, UnknownSession};

/// An expected worker must join within this time after the start of the coordinator.
pub const JOIN_TIMEOUT: Duration = Duration::from_mins(10);
/// The workers of a fleet start at about the same time. After the first one is ready, the others
/// have this long to join before they count as absent.
pub(super) const JOIN_GRACE: Duration = Duration::from_secs(10);
/// Maximum number of absent workers that are named individually.
const MAX_NAMED: usize = 10;

/// The classes that earlier runs left on workers, until the workers have confirmed them in this
/// run.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Positions of classes by worker. Those that are no longer in `unconfirmed` do not count.
    by_worker: BTreeMap<String, Vec<usize>>,
    /// Classes that no worker has confirmed in this run.
    unconfirmed: HashSet<usize>,
    /// Pending classes that an earlier process of the run may have granted.
    begun: HashSet<usize>,
    /// Classes in [`State::Elsewhere`].
    pub(super) pending: usize,
    expected: BTreeSet<String>,
    until: Option<Instant>,
    /// The time from which workers that have not joined count as absent. Set by the first request
    /// for a class.
    absent_from: Option<Instant>,
    /// Whether the absent workers were reported.
    is_reported: bool,
    /// Classes that were settled as skipped and are pending again.
    unsettled: Vec<Wnid>,
}

impl Elsewhere {
    /// Whether an earlier process of the run may have granted the class.
    pub(super) fn may_be_held(&self, position: usize) -> bool {
        self.begun.contains(&position)
    }

    /// The number of unconfirmed classes of a worker.
    fn count(&self, worker: &str) -> usize {
        let positions = self
            .by_worker
            .get(worker)
            .map(Vec::as_slice)
            .unwrap_or_default();
        positions
            .iter()
            .filter(|position| self.unconfirmed.contains(position))
            .count()
    }

    /// Removes and returns a worker's unconfirmed classes.
    fn take(&mut self, worker: &str) -> Vec<usize> {
        let mut positions = self.by_worker.remove(worker).unwrap_or_default();
        positions.retain(|position| self.unconfirmed.remove(position));
        positions
    }
}

impl LeaseTable {
    /// Notes a class that an earlier run left complete on a worker, before any lease is granted.
    /// `has_begun`: an earlier process has begun this run, so classes that count as skipped were
    /// confirmed in it.
    pub fn was_complete_on(&mut self, wnid: Wnid, worker: &str, has_begun: bool) {
        let Some(position) = self.index.get(&wnid).copied() else {
            return;
        };
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
        self.elsewhere.unconfirmed.insert(position);
        self.elsewhere
            .by_worker
            .entry(worker.to_owned())
            .or_default()
            .push(position);
    }

    /// Sets the workers that are waited for before their classes are granted to others.
    pub fn expect(&mut self, workers: &[String], now: Instant) {
        for worker in BTreeSet::from_iter(workers) {
            let classes = self.elsewhere.count(worker);
            self.notices
                .push(LeaseNotice::Elsewhere(ElsewhereEvent::Expected {
                    worker: worker.clone(),
                    classes,
                }));
            if classes > 0 {
                self.elsewhere.expected.insert(worker.clone());
            }
        }
        self.elsewhere.until = Some(now + JOIN_TIMEOUT);
    }

    /// Whether a class counts as skipped.
    pub fn is_skipped(&self, wnid: Wnid) -> bool {
        self.index
            .get(&wnid)
            .is_some_and(|position| self.classes[*position].state == State::Skipped)
    }

    /// Classes that were settled as skipped and are pending again since the last call.
    pub fn take_unsettled(&mut self) -> Vec<Wnid> {
        mem::take(&mut self.elsewhere.unsettled)
    }

    /// A worker has reported that a class is complete.
    pub(super) fn is_there(&mut self, position: usize) {
        self.elsewhere.unconfirmed.remove(&position);
    }

    /// A worker has reported that a class is complete but its lease still has work to do: the class
    /// is granted, first to a worker of the same storage. Only classes known from an earlier run
    /// change; all others are granted anyway.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn needs_lease(&mut self, id: SessionId, wnid: Wnid) -> Result<(), UnknownSession> {
        let storage = self
            .sessions
            .by_id
            .get(&id)
            .ok_or(UnknownSession)?
            .hello
            .storage
            .clone();
        if let Some(position) = self.index.get(&wnid).copied()
            && self.elsewhere.unconfirmed.remove(&position)
        {
            self.begun_on.insert(position, storage);
            self.unsettle_skipped(&[position]);
            self.queue_all(&[position]);
        }
        Ok(())
    }

    /// Whether a worker that registers must send its inventory. One that returns with leases after
    /// a restart of the coordinator has sent it before. It must send it again only if the ledger
    /// has a class of it that is not settled in this run; no other worker waits for that.
    pub(super) fn needs_inventory(
        &mut self,
        id: SessionId,
        held: &[ReportedLease],
        now: Instant,
    ) -> bool {
        if held.is_empty() {
            return self.sessions.survey(id, now);
        }
        self.pending_on(&self.sessions.by_id[&id].hello.worker) > 0
    }

    /// Makes the classes grantable that the requesting worker has not reported, once all workers
    /// have reported their inventory.
    pub(super) fn release_of_present(&mut self, id: SessionId, now: Instant) {
        if self.elsewhere.by_worker.is_empty() || self.sessions.is_surveying(now) {
            return;
        }
        let worker = self.sessions.by_id[&id].hello.worker.clone();
        if self.elsewhere.by_worker.contains_key(&worker) {
            self.elsewhere.expected.remove(&worker);
            let classes = self.release(&worker);
            if classes > 0 {
                self.notices
                    .push(LeaseNotice::Elsewhere(ElsewhereEvent::NotThere {
                        worker,
                        classes,
                    }));
            }
        }
        let from = *self.elsewhere.absent_from.get_or_insert(now + JOIN_GRACE);
        self.report_absent_from(from, now);
    }

    /// Processes the timeouts of absent workers.
    pub(super) fn wait_for_absent(&mut self, now: Instant) {
        self.end_join_timeout(now);
        if let Some(from) = self.elsewhere.absent_from {
            self.report_absent_from(from, now);
        }
    }

    /// Reports the classes of absent workers before the first of them is granted to another worker.
    fn report_absent_from(&mut self, from: Instant, now: Instant) {
        if now < from
            || self.sessions.is_surveying(now)
            || mem::replace(&mut self.elsewhere.is_reported, true)
        {
            return;
        }
        self.wake_ups += 1;
        let elsewhere = &self.elsewhere;
        let is_absent = |worker: &&String| {
            !elsewhere.expected.contains(*worker) && !self.sessions.by_worker.contains_key(*worker)
        };
        let unexpected = elsewhere.by_worker.keys().filter(is_absent);
        let mut absent: Vec<(usize, String)> = unexpected
            .map(|worker| (self.pending_on(worker), worker.clone()))
            .filter(|(classes, _)| *classes > 0)
            .collect();
        absent.sort_unstable_by(|one, other| other.cmp(one));
        for (classes, worker) in absent.drain(..absent.len().min(MAX_NAMED)) {
            self.notices
                .push(LeaseNotice::Elsewhere(ElsewhereEvent::Absent {
                    worker,
                    classes,
                }));
        }
        if !absent.is_empty() {
            let classes = absent.iter().map(|(classes, _)| classes).sum();
            self.notices
                .push(LeaseNotice::Elsewhere(ElsewhereEvent::MoreAbsent {
                    workers: absent.len(),
                    classes,
                }));
        }
    }

    /// Classes of an absent worker that others would download again.
    fn pending_on(&self, worker: &str) -> usize {
        let positions = self
            .elsewhere
            .by_worker
            .get(worker)
            .map(Vec::as_slice)
            .unwrap_or_default();
        positions
            .iter()
            .filter(|position| self.classes[**position].state == State::Elsewhere)
            .count()
    }

    /// If no other class is left, makes the classes of absent workers grantable, except those of
    /// expected workers. Returns whether there are any.
    pub(super) fn release_of_absent(&mut self) -> bool {
        if self.elsewhere.pending == 0 || !self.elsewhere.is_reported {
            return false;
        }
        let elsewhere = &self.elsewhere;
        // A worker with a session is about to report its inventory.
        let is_waited_for = |worker: &String| {
            elsewhere.expected.contains(worker) || self.sessions.by_worker.contains_key(worker)
        };
        let absent = elsewhere
            .by_worker
            .keys()
            .filter(|worker| !is_waited_for(worker));
        let absent: Vec<String> = absent
            .filter(|worker| self.pending_on(worker) > 0)
            .cloned()
            .collect();
        let released: usize = absent
            .iter()
            .map(|worker| self.release_pending(worker))
            .sum();
        released > 0
    }

    /// Stops waiting for expected workers when their time has passed.
    fn end_join_timeout(&mut self, now: Instant) {
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
                self.notices
                    .push(LeaseNotice::Elsewhere(ElsewhereEvent::NotJoined {
                        worker,
                        classes,
                    }));
            }
        }
    }

    /// Makes all unconfirmed classes of a worker grantable, including those that count as skipped.
    fn release(&mut self, worker: &str) -> usize {
        let positions = self.elsewhere.take(worker);
        self.unsettle_skipped(&positions);
        self.queue_all(&positions)
    }

    fn unsettle_skipped(&mut self, positions: &[usize]) {
        for position in positions {
            if self.classes[*position].state == State::Skipped {
                self.elsewhere.unsettled.push(self.classes[*position].wnid);
            }
        }
    }

    /// Makes the pending classes of a worker grantable. Classes that count as skipped stay skipped.
    fn release_pending(&mut self, worker: &str) -> usize {
        let positions = self
            .elsewhere
            .by_worker
            .get(worker)
            .cloned()
            .unwrap_or_default();
        let is_pending = |position: &usize| self.classes[*position].state == State::Elsewhere;
        let pending: Vec<usize> = positions.into_iter().filter(is_pending).collect();
        self.queue_all(&pending)
    }

    fn queue_all(&mut self, positions: &[usize]) -> usize {
        let mut queued = 0;
        for position in positions {
            if matches!(
                self.classes[*position].state,
                State::Elsewhere | State::Skipped
            ) {
                self.queue(*position);
                queued += 1;
            }
        }
        queued
    }
}

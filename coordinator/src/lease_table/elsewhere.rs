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

use super::{
    ElsewhereEvent, ElsewhereNotice, LeaseNotice, LeaseTable, ReportedLease, State, UnknownSession,
};

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
    pub(super) unconfirmed: HashSet<usize>,
    /// Pending classes that an earlier process of the run may have granted.
    pub(super) begun: HashSet<usize>,
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
    /// The classes that earlier runs left on a worker.
    fn of(&self, worker: &str) -> &[usize] {
        self.by_worker.get(worker).map_or(&[], Vec::as_slice)
    }
}

impl LeaseTable {
    /// Notes a class that an earlier run left complete on a worker, before any lease is granted.
    /// `has_begun`: an earlier process has begun this run, so classes that count as skipped were
    /// confirmed in it.
    pub fn was_complete_on(&mut self, wnid: Wnid, worker: &str, has_begun: bool) {
        let Some(position) = self.position(wnid) else {
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
        let of_worker = self.elsewhere.by_worker.entry(worker.to_owned());
        of_worker.or_default().push(position);
    }

    /// Sets the workers that are waited for before their classes are granted to others.
    pub fn expect(&mut self, workers: &[String], now: Instant) {
        for worker in BTreeSet::from_iter(workers) {
            let mut positions = self.elsewhere.of(worker).to_vec();
            positions.retain(|position| self.elsewhere.unconfirmed.contains(position));
            if !positions.is_empty() {
                self.elsewhere.expected.insert(worker.clone());
            }
            let event = ElsewhereEvent::Expected(worker.clone());
            self.tell_elsewhere(positions.len(), event);
        }
        self.elsewhere.until = Some(now + JOIN_TIMEOUT);
    }

    fn tell_elsewhere(&mut self, classes: usize, event: ElsewhereEvent) {
        let notice = ElsewhereNotice { classes, event };
        self.notices.push(LeaseNotice::Elsewhere(notice));
    }

    /// Whether a class counts as skipped.
    pub fn is_skipped(&self, wnid: Wnid) -> bool {
        self.position(wnid)
            .is_some_and(|position| self.classes[position].state == State::Skipped)
    }

    /// Classes that were settled as skipped and are pending again since the last call.
    pub fn take_unsettled(&mut self) -> Vec<Wnid> {
        mem::take(&mut self.elsewhere.unsettled)
    }

    /// A worker has reported that a class is complete but its lease still has work to do: the class
    /// is granted, first to a worker of the same storage. Only classes known from an earlier run
    /// change; all others are granted anyway.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn needs_lease(&mut self, id: SessionId, wnid: Wnid) -> Result<(), UnknownSession> {
        let storage = self.sessions.get(id)?.worker_info.storage.clone();
        if let Some(position) = self.position(wnid)
            && self.elsewhere.unconfirmed.remove(&position)
        {
            self.begun_on.insert(position, storage);
            self.queue_all(vec![position]);
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
        let session = &self.sessions.by_id[&id];
        if held.is_empty() {
            self.inventories.request(session, now)
        } else {
            !self.pending_on(&session.worker_info.worker).is_empty()
        }
    }

    /// Makes the classes grantable that the requesting worker has not reported, once all workers
    /// have reported their inventory.
    pub(super) fn release_of_present(&mut self, id: SessionId, now: Instant) {
        if self.elsewhere.by_worker.is_empty() || self.inventories.are_awaited(now) {
            return;
        }
        let worker = &self.sessions.by_id[&id].worker_info.worker;
        if let Some(mut positions) = self.elsewhere.by_worker.remove(worker) {
            let worker = worker.clone();
            self.elsewhere.expected.remove(&worker);
            positions.retain(|position| self.elsewhere.unconfirmed.remove(position));
            let classes = self.queue_all(positions);
            if classes > 0 {
                self.tell_elsewhere(classes, ElsewhereEvent::NotThere(worker));
            }
        }
        let from = self.elsewhere.absent_from;
        self.elsewhere.absent_from = from.or(Some(now + JOIN_GRACE));
        self.report_absent(now);
    }

    /// Processes the timeouts of absent workers.
    pub(super) fn wait_for_absent(&mut self, now: Instant) {
        self.end_join_timeout(now);
        self.report_absent(now);
    }

    /// Reports the classes of absent workers before the first of them is granted to another worker.
    fn report_absent(&mut self, now: Instant) {
        if self.elsewhere.absent_from.is_none_or(|from| now < from)
            || self.inventories.are_awaited(now)
            || mem::replace(&mut self.elsewhere.is_reported, true)
        {
            return;
        }
        self.wake_ups += 1;
        let absent = self.absent_workers();
        let mut absent: Vec<(usize, String)> = absent
            .map(|worker| (self.pending_on(worker).len(), worker.clone()))
            .filter(|(classes, _)| *classes > 0)
            .collect();
        absent.sort_unstable_by(|one, other| other.cmp(one));
        let others = absent.split_off(absent.len().min(MAX_NAMED));
        for (classes, worker) in absent {
            self.tell_elsewhere(classes, ElsewhereEvent::Absent(worker));
        }
        if !others.is_empty() {
            let classes = others.iter().map(|(classes, _)| classes).sum();
            self.tell_elsewhere(classes, ElsewhereEvent::MoreAbsent(others.len()));
        }
    }

    /// The workers that have classes complete, have no session and are not waited for. A worker
    /// with a session is about to report its inventory.
    fn absent_workers(&self) -> impl Iterator<Item = &String> {
        self.elsewhere.by_worker.keys().filter(|worker| {
            !self.elsewhere.expected.contains(*worker)
                && !self.sessions.by_worker.contains_key(*worker)
        })
    }

    /// Classes of an absent worker that others would download again.
    fn pending_on(&self, worker: &str) -> Vec<usize> {
        let mut positions = self.elsewhere.of(worker).to_vec();
        positions.retain(|position| self.classes[*position].state == State::Elsewhere);
        positions
    }

    /// If no other class is left, makes the classes of absent workers grantable, except those of
    /// expected workers. Returns whether there are any.
    pub(super) fn release_of_absent(&mut self) -> bool {
        if self.elsewhere.pending == 0 || !self.elsewhere.is_reported {
            return false;
        }
        let absent = self.absent_workers();
        let pending = absent.flat_map(|worker| self.pending_on(worker)).collect();
        self.queue_all(pending) > 0
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
            // Classes that count as skipped stay skipped.
            let classes = self.queue_all(self.pending_on(&worker));
            if classes > 0 {
                self.tell_elsewhere(classes, ElsewhereEvent::NotJoined(worker));
            }
        }
    }

    /// Makes those of these classes grantable that are pending or count as skipped. Returns their
    /// number.
    fn queue_all(&mut self, positions: Vec<usize>) -> usize {
        let mut queued = 0;
        for position in positions {
            let class = &self.classes[position];
            match class.state {
                State::Skipped => self.elsewhere.unsettled.push(class.wnid),
                State::Elsewhere => {}
                _ => continue,
            }
            self.queue(position);
            queued += 1;
        }
        queued
    }
}

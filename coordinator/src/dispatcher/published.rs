//! What the dispatcher publishes: the counts, the phase, the wake-up generation, the generation of
//! the budgets, and the state of the concurrency controller.
//!
//! Invariants: each snapshot of the counts has a sequence number. A snapshot is dropped if one with
//! a higher number is already published. The end of the job is published only after the ledger has
//! confirmed it.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use shared::job::JobStatus;
use tokio::{sync::watch, time::Instant};

use crate::{
    concurrency::{ConcurrencyController, ConcurrencyStatus},
    fleet::Phase,
    lease_table::{LeaseTable, StateCounts},
};

/// The counts at one moment.
#[derive(Debug, Clone, Copy)]
struct Snapshot {
    /// Sequence number, in the order in which the dispatcher takes snapshots.
    number: u64,
    status: JobStatus,
}

/// The published values. Clones publish to the same receivers.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// The counts. Those of a finished job are published only after the ledger has recorded its
    /// end.
    pub(super) status: watch::Sender<JobStatus>,
    pub(super) phase: watch::Sender<Phase>,
    /// The number of workers in each state.
    pub(super) workers: watch::Sender<StateCounts>,
    /// See [`LeaseTable::wake_ups`].
    pub(super) wake_ups: watch::Sender<u64>,
    /// See [`ConcurrencyController::budget_generation`].
    pub(super) budgets: watch::Sender<u64>,
    pub(super) concurrency: watch::Sender<ConcurrencyStatus>,
    /// See [`ConcurrencyStatus::bytes_per_second`].
    pub(super) rate: watch::Sender<u64>,
    /// Number of the published snapshot; changes only under the lock of `status`.
    newest: Arc<AtomicU64>,
    /// Number of the last snapshot that was taken. Only the dispatcher takes snapshots; its clones
    /// in [`Self::publish_done_later`] only publish them.
    last_taken: u64,
}

impl Published {
    /// The initial values, from the table.
    pub(super) fn from_table(table: &LeaseTable, controller: &ConcurrencyController) -> Self {
        Self {
            status: watch::Sender::new(table.status()),
            phase: watch::Sender::new(table.phase()),
            workers: watch::Sender::new(table.state_counts()),
            wake_ups: watch::Sender::new(table.wake_ups()),
            budgets: watch::Sender::new(controller.budget_generation()),
            concurrency: watch::Sender::new(controller.status(Instant::now())),
            rate: watch::Sender::new(0),
            newest: Arc::default(),
            last_taken: 0,
        }
    }

    /// Whether the ledger has recorded the end of the job.
    pub(super) fn is_done(&self) -> bool {
        self.status.borrow().is_done()
    }

    /// Publishes the counts, the workers and the wake-up generation. The counts of a finished job
    /// are published only by [`Self::publish_done_later`].
    pub(super) fn publish_counts(&mut self, table: &LeaseTable) {
        let snapshot = self.take(table.status());
        if self.may_publish(table) {
            self.publish(snapshot);
        }
        replace(&self.wake_ups, table.wake_ups());
        replace(&self.workers, table.state_counts());
    }

    /// Publishes the generation of the budgets and the state of the concurrency controller.
    pub(super) fn publish_concurrency(&self, controller: &ConcurrencyController) {
        replace(&self.budgets, controller.budget_generation());
        let status = controller.status(Instant::now());
        replace(&self.concurrency, status);
        replace(&self.rate, status.bytes_per_second);
    }

    /// Publishes the phase. [`Phase::Done`] is published only after the ledger has recorded the end
    /// of the job. Returns whether the published phase has changed.
    pub(super) fn publish_phase(&self, table: &LeaseTable) -> bool {
        self.may_publish(table) && replace(&self.phase, table.phase())
    }

    /// Takes the counts of a finished job. The returned function publishes them and the phase; it
    /// is called when the ledger has recorded the end of the job.
    pub(super) fn publish_done_later(
        &mut self,
        table: &LeaseTable,
    ) -> impl FnOnce() + Send + use<> {
        let snapshot = self.take(table.status());
        let published = self.clone();
        move || {
            // If a newer snapshot is published, a class is pending again: its worker has reported
            // meanwhile that it is not complete. So the job is not done.
            if published.publish(snapshot) {
                published.phase.send_replace(Phase::Done);
            }
        }
    }

    /// Whether the job goes on, or the ledger has recorded its end.
    fn may_publish(&self, table: &LeaseTable) -> bool {
        !table.status().is_done() || self.is_done()
    }

    fn take(&mut self, status: JobStatus) -> Snapshot {
        self.last_taken += 1;
        Snapshot {
            number: self.last_taken,
            status,
        }
    }

    /// Returns false if a newer snapshot is already published.
    fn publish(&self, Snapshot { number, status }: Snapshot) -> bool {
        let mut is_newest = false;
        self.status.send_if_modified(|published| {
            is_newest = number >= self.newest.load(Ordering::Relaxed);
            if !is_newest {
                return false;
            }
            self.newest.store(number, Ordering::Relaxed);
            mem::replace(published, status) != status
        });
        is_newest
    }
}

/// Publishes a value if it differs. Returns whether it does.
fn replace<T: PartialEq + Copy>(published: &watch::Sender<T>, new: T) -> bool {
    published.send_if_modified(|published| mem::replace(published, new) != new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::outcome::Outcome;

    use super::*;
    use crate::{concurrency::Ceilings, lease_table::WorkerInfo};

    /// A folder that an earlier run has left on a worker counts as skipped until the worker reports
    /// that it is not complete.
    #[test]
    fn a_class_that_is_pending_again_before_the_end_is_recorded_takes_the_end_back() {
        let now = Instant::now();
        let wnid = "n00000001".parse().unwrap();
        let skipped = Outcome::Skipped(shared::outcome::Published::default());
        let mut table = LeaseTable::new(&[wnid], 0, 1, Duration::from_secs(30));
        let controller = ConcurrencyController::new(Ceilings::default(), now);
        let mut published = Published::from_table(&table, &controller);
        table.restore(wnid, &skipped);
        table.was_complete_on(wnid, "host", false);
        let publish_done = published.publish_done_later(&table);
        let worker_info = WorkerInfo {
            worker: "host".to_owned(),
            ..WorkerInfo::default()
        };
        let registered = table.register(&worker_info, &[], now).unwrap();
        table.needs_lease(registered.session, wnid).unwrap();
        published.publish_counts(&table);
        publish_done();
        assert!(!published.is_done());
        assert_ne!(*published.phase.borrow(), Phase::Done);
        table.restore(wnid, &skipped);
        published.publish_counts(&table);
        assert!(!published.is_done(), "the ledger has not recorded it");
        published.publish_done_later(&table)();
        assert!(published.is_done());
        assert_eq!(*published.phase.borrow(), Phase::Done);
    }
}

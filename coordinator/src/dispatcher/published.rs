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
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use shared::job::JobStatus;
use tokio::{sync::watch, time::Instant};

use crate::{
    concurrency::{ConcurrencyController, ConcurrencyStatus},
    fleet::Phase,
    lease_table::LeaseTable,
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
    /// See [`LeaseTable::wake_ups`].
    pub(super) wake_ups: watch::Sender<u64>,
    /// See [`ConcurrencyController::budget_generation`].
    pub(super) budgets: watch::Sender<u64>,
    pub(super) concurrency: watch::Sender<ConcurrencyStatus>,
    /// Whether the ledger has recorded the end of the job.
    is_done: Arc<AtomicBool>,
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
            wake_ups: watch::Sender::new(table.wake_ups()),
            budgets: watch::Sender::new(controller.budget_generation()),
            concurrency: watch::Sender::new(controller.status(Instant::now())),
            is_done: Arc::new(AtomicBool::new(table.status().is_done())),
            newest: Arc::default(),
            last_taken: 0,
        }
    }

    /// Whether the ledger has recorded the end of the job.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Publishes the counts and the wake-up generation. The counts of a finished job are published
    /// only by [`Self::publish_done_later`].
    pub(super) fn publish_counts(&mut self, table: &LeaseTable) {
        let snapshot = self.take(table.status());
        if self.may_publish(table) {
            self.publish(snapshot);
        }
        replace(&self.wake_ups, table.wake_ups());
    }

    /// Publishes the generation of the budgets and the state of the concurrency controller.
    pub(super) fn publish_concurrency(&self, controller: &ConcurrencyController) {
        replace(&self.budgets, controller.budget_generation());
        replace(&self.concurrency, controller.status(Instant::now()));
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
            published.publish(snapshot);
            published.phase.send_replace(Phase::Done);
            published.is_done.store(true, Ordering::Release);
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

    fn publish(&self, Snapshot { number, status }: Snapshot) {
        self.status.send_if_modified(|published| {
            if number < self.newest.load(Ordering::Relaxed) {
                return false;
            }
            self.newest.store(number, Ordering::Relaxed);
            mem::replace(published, status) != status
        });
    }
}

/// Publishes a value if it differs. Returns whether it does.
fn replace<T: PartialEq + Copy>(published: &watch::Sender<T>, new: T) -> bool {
    published.send_if_modified(|published| mem::replace(published, new) != new)
}

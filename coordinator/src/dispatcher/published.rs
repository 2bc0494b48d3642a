//! What the dispatcher publishes: the counts, the phase, the generations of leases and budgets, and
//! the state of the concurrency controller.
//!
//! Invariants: published counts never go back to an older snapshot. A snapshot that waits for the
//! ledger keeps the number under which it was taken, and is discarded if a later one was published
//! meanwhile. The end of the job is published only after the ledger has confirmed it.

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

/// Counts, numbered in the order in which they were taken.
#[derive(Debug, Clone, Copy)]
struct Snapshot {
    number: u64,
    status: JobStatus,
}

/// The published values. Clones publish to the same receivers.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) status: watch::Sender<JobStatus>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) wake_ups: watch::Sender<u64>,
    /// The generation of the budgets.
    pub(super) budgets: watch::Sender<u64>,
    pub(super) concurrency: watch::Sender<ConcurrencyStatus>,
    /// Whether the ledger has recorded the end of the job.
    is_done: Arc<AtomicBool>,
    /// Number of the published snapshot; changes only under the lock of `status`.
    newest: Arc<AtomicU64>,
    /// Number of the last snapshot that the owner has taken.
    taken: u64,
}

impl Published {
    /// The initial values, from the table.
    pub(super) fn of(table: &LeaseTable, controller: &ConcurrencyController) -> Self {
        Self {
            status: watch::Sender::new(table.status()),
            phase: watch::Sender::new(table.phase()),
            wake_ups: watch::Sender::new(table.wake_ups()),
            budgets: watch::Sender::new(controller.budget_generation()),
            concurrency: watch::Sender::new(controller.status(Instant::now())),
            is_done: Arc::new(AtomicBool::new(table.status().is_done())),
            newest: Arc::default(),
            taken: 0,
        }
    }

    /// Whether the ledger has recorded the end of the job.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// Publishes the counts and the wake-up generation. The counts of a finished job are published
    /// only after [`Self::finishing`].
    pub(super) fn counts(&mut self, table: &LeaseTable) {
        let snapshot = self.take(table.status());
        if self.may_publish(table) {
            self.publish(snapshot);
        }
        replace(&self.wake_ups, table.wake_ups());
    }

    /// Publishes the generation of the budgets and the state of the concurrency controller.
    pub(super) fn concurrency(&self, controller: &ConcurrencyController) {
        replace(&self.budgets, controller.budget_generation());
        replace(&self.concurrency, controller.status(Instant::now()));
    }

    /// Publishes the phase under the same condition as [`Self::counts`]. Returns whether it has
    /// changed.
    pub(super) fn phase(&self, table: &LeaseTable) -> bool {
        self.may_publish(table) && replace(&self.phase, table.phase())
    }

    /// Takes the counts of a finished job. The returned function publishes them, and that the job
    /// is done.
    pub(super) fn finishing(&mut self, table: &LeaseTable) -> impl FnOnce() + Send + use<> {
        let snapshot = self.take(table.status());
        let published = self.clone();
        move || {
            published.publish(snapshot);
            published.phase.send_replace(Phase::Done);
            published.is_done.store(true, Ordering::Release);
        }
    }

    fn may_publish(&self, table: &LeaseTable) -> bool {
        !table.status().is_done() || self.is_done()
    }

    fn take(&mut self, status: JobStatus) -> Snapshot {
        self.taken += 1;
        Snapshot {
            number: self.taken,
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

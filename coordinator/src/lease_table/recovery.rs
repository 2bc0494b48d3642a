//! After a start a class that a worker of the former coordinator may hold is not granted until
//! those workers have said what they hold, or until their leases have run out. Classes behind the
//! mark of [`HighWater`] are granted at once.
//!
//! [`HighWater`]: super::high_water::HighWater

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    EXPIRY_MARGIN, LeaseTable, Notice,
    high_water::{HighWater, Mark},
};

/// Workers that are expected back, and how long.
#[derive(Debug)]
pub(super) struct Recovery {
    expected: BTreeSet<String>,
    until: Instant,
}

impl Recovery {
    /// `None` when there is no worker to wait for. Each worker comes with the time to live that it was told; `ttl` is that of now.
    pub(super) fn of(
        workers: impl IntoIterator<Item = (String, Duration)>,
        ttl: Duration,
        now: Instant,
    ) -> Option<Self> {
        let (mut expected, mut longest) = (BTreeSet::new(), ttl);
        for (worker, told) in workers {
            expected.insert(worker);
            longest = longest.max(told);
        }
        (!expected.is_empty()).then_some(Self { expected, until: now + longest + EXPIRY_MARGIN })
    }

    /// A worker is back; whether it was the last one.
    pub(super) fn is_over_with(&mut self, worker: &str) -> bool {
        self.expected.remove(worker) && self.expected.is_empty()
    }

    /// Whether the others are not waited for any longer.
    pub(super) fn is_over_at(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// How many have not come back.
    pub(super) fn missing(&self) -> usize {
        self.expected.len()
    }

    /// Who has not come back.
    pub(super) fn into_missing(self) -> impl Iterator<Item = String> {
        self.expected.into_iter()
    }
}

/// The workers that are expected back after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Their names, in order.
    pub workers: Vec<String>,
    /// They are waited for until then.
    pub until: Instant,
}

impl LeaseTable {
    /// No class at or behind this position was granted in a former epoch of the run. Without it
    /// each class may have been.
    #[must_use]
    pub fn granted_before(self, mark: Mark) -> Self {
        let position = mark.position.min(self.classes.len());
        Self { high_water: HighWater::at(Mark { position, ..mark }), ..self }
    }

    /// A class that may have been granted before is not granted until these workers, which an earlier coordinator of the
    /// run knew, are back with what they hold, or their leases have run out: by the time to live that each was told.
    pub fn recover(&mut self, workers: impl IntoIterator<Item = (String, Duration)>, now: Instant) {
        self.recovery = Recovery::of(workers, self.ttl, now);
        if self.recovery.is_some() {
            self.fresh = self.high_water.former();
        }
    }

    /// Whom a class that may have been granted before the restart waits for.
    pub fn expected(&self) -> Option<Expected> {
        let recovery = self.recovery.as_ref()?;
        Some(Expected { workers: recovery.expected.iter().cloned().collect(), until: recovery.until })
    }

    /// The mark that is to be durable before grants go on, if it is another one than was asked for.
    pub fn take_mark(&mut self) -> Option<Mark> {
        self.high_water.request(self.fresh, self.classes.len())
    }

    /// The ledger has this mark.
    pub fn mark_is_durable(&mut self, mark: Mark) {
        if self.high_water.is_durable(mark) {
            self.turn += 1;
        }
    }

    /// Whether a worker that is expected back may hold the class.
    pub(super) fn is_held_back(&self, position: usize) -> bool {
        self.recovery.is_some() && self.may_be_held(position)
    }

    /// Whether a worker may hold the class from a former epoch. Classes that another worker had
    /// complete are granted without regard to the mark.
    pub(super) fn may_be_held(&self, position: usize) -> bool {
        self.high_water.may_be_held(position) || self.elsewhere.may_be_held(position)
    }

    /// A worker of the former coordinator is back.
    pub(super) fn is_back(&mut self, worker: &str) {
        if self.recovery.as_mut().is_some_and(|recovery| recovery.is_over_with(worker)) {
            self.end_recovery();
        }
    }

    pub(super) fn end_recovery(&mut self) {
        let missing = self.recovery.take().into_iter().flat_map(Recovery::into_missing);
        self.notices.extend(missing.map(Notice::NotBack));
        // What was held back is granted first.
        self.fresh = 0;
        self.turn += 1;
    }
}

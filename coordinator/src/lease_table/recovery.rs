//! Recovery after a restart of the coordinator. A class that a worker of the previous coordinator
//! may hold is not granted until those workers have registered with what they hold, or until their
//! leases have expired. Classes behind the mark of [`HighWater`] are granted at once.
//!
//! [`HighWater`]: super::high_water::HighWater

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    EXPIRY_MARGIN, LeaseNotice, LeaseTable,
    high_water::{HighWater, Mark},
};

/// The workers that are expected back, and the end of the wait.
#[derive(Debug)]
pub(super) struct Recovery {
    expected: BTreeSet<String>,
    until: Instant,
}

impl Recovery {
    /// `None` if there is no worker to wait for. Each worker comes with the time to live that the
    /// previous coordinator set for it; `ttl` is the current one.
    pub(super) fn of(
        workers: impl IntoIterator<Item = (String, Duration)>,
        ttl: Duration,
        now: Instant,
    ) -> Option<Self> {
        let mut expected = BTreeSet::new();
        let mut longest = ttl;
        for (worker, told) in workers {
            expected.insert(worker);
            longest = longest.max(told);
        }
        (!expected.is_empty()).then_some(Self {
            expected,
            until: now + longest + EXPIRY_MARGIN,
        })
    }

    /// Removes a worker that has registered again. Returns whether it was the last one.
    pub(super) fn is_complete_with(&mut self, worker: &str) -> bool {
        self.expected.remove(worker) && self.expected.is_empty()
    }

    /// Whether the wait for the other workers has ended.
    pub(super) fn is_over_at(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Number of workers that have not registered again.
    pub(super) fn missing(&self) -> usize {
        self.expected.len()
    }

    /// Names of the workers that have not registered again.
    pub(super) fn into_missing(self) -> impl Iterator<Item = String> {
        self.expected.into_iter()
    }
}

/// The workers that are expected back after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Their names, in order.
    pub workers: Vec<String>,
    /// End of the wait.
    pub until: Instant,
}

impl LeaseTable {
    /// Restores the mark: no class at or behind it was granted in a former epoch of the run.
    /// Without it each class may have been granted.
    #[must_use]
    pub fn granted_before(self, mark: Mark) -> Self {
        let position = mark.position.min(self.classes.len());
        Self {
            high_water: HighWater::at(Mark { position, ..mark }),
            ..self
        }
    }

    /// Starts a recovery. `workers`: the workers of the earlier coordinators of the run, each with
    /// the time to live that was set for it. A class that may have been granted before is granted
    /// only when all of them have registered with what they hold, or their leases have expired.
    pub fn recover(&mut self, workers: impl IntoIterator<Item = (String, Duration)>, now: Instant) {
        self.recovery = Recovery::of(workers, self.ttl, now);
        if self.recovery.is_some() {
            self.fresh = self.high_water.former();
        }
    }

    /// The workers that the recovery waits for, if there is a recovery.
    pub fn expected(&self) -> Option<Expected> {
        let recovery = self.recovery.as_ref()?;
        Some(Expected {
            workers: recovery.expected.iter().cloned().collect(),
            until: recovery.until,
        })
    }

    /// The mark that must become durable before further grants, if it differs from the last
    /// requested one.
    pub fn take_mark(&mut self) -> Option<Mark> {
        self.high_water.request(self.fresh, self.classes.len())
    }

    /// Records that the ledger has this mark.
    pub fn mark_is_durable(&mut self, mark: Mark) {
        if self.high_water.is_durable(mark) {
            self.wake_ups += 1;
        }
    }

    /// Whether a worker that has not registered again may hold the class.
    pub(super) fn is_held_back(&self, position: usize) -> bool {
        self.recovery.is_some() && self.may_be_held(position)
    }

    /// Whether a worker may hold the class from a former epoch. Classes that were complete on
    /// another worker are granted independently of the mark, so they may be held, too.
    pub(super) fn may_be_held(&self, position: usize) -> bool {
        self.high_water.may_be_held(position) || self.elsewhere.may_be_held(position)
    }

    /// Records that a worker of the previous coordinator has registered again.
    pub(super) fn is_back(&mut self, worker: &str) {
        if self
            .recovery
            .as_mut()
            .is_some_and(|recovery| recovery.is_complete_with(worker))
        {
            self.end_recovery();
        }
    }

    pub(super) fn end_recovery(&mut self) {
        let missing = self
            .recovery
            .take()
            .into_iter()
            .flat_map(Recovery::into_missing);
        self.notices.extend(missing.map(LeaseNotice::NotReturned));
        // The classes that were held back are granted first.
        self.fresh = 0;
        self.wake_ups += 1;
    }
}

//! Recovery after a restart of the coordinator. A class that a worker of the previous coordinator
//! may hold is not granted until those workers have registered with what they hold, or until their
//! leases have expired. Classes behind the mark of [`HighWater`] are granted at once.
//!
//! [`HighWater`]: super::high_water::HighWater

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    EXPIRY_MARGIN, LeaseNotice, LeaseTable,
    high_water::{HighWater, Mark},
};

/// The workers that are expected back after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Their names, in order.
    pub workers: Vec<String>,
    /// Number of workers that were expected at first.
    pub at_first: usize,
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
        let workers = BTreeMap::from_iter(workers);
        let Some(longest) = workers.values().copied().max() else {
            return;
        };
        self.fresh = self.high_water.former();
        self.recovery = Some(Expected {
            at_first: workers.len(),
            until: now + longest.max(self.ttl) + EXPIRY_MARGIN,
            workers: workers.into_keys().collect(),
        });
    }

    /// The workers that the recovery waits for, if there is a recovery.
    pub fn expected(&self) -> Option<&Expected> {
        self.recovery.as_ref()
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
        self.high_water.may_be_held(position) || self.elsewhere.begun.contains(&position)
    }

    /// Records that a worker of the previous coordinator has registered again.
    pub(super) fn is_back(&mut self, worker: &str) {
        if let Some(Expected { workers, .. }) = &mut self.recovery
            && let Ok(at) = workers.binary_search_by(|expected| expected.as_str().cmp(worker))
        {
            workers.remove(at);
            if workers.is_empty() {
                self.end_recovery();
            }
        }
    }

    pub(super) fn end_recovery(&mut self) {
        let missing = self.recovery.take().map(|recovery| recovery.workers);
        let missing = missing.into_iter().flatten();
        self.notices.extend(missing.map(LeaseNotice::NotReturned));
        // The classes that were held back are granted first.
        self.fresh = 0;
        self.wake_ups += 1;
    }
}

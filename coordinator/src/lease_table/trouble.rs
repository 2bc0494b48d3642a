//! Classes that failed on some workers and may succeed on others: which workers may not try a class
//! again, and when it is offered to the next one.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

/// Failures of a class on workers after which the class has failed.
pub(super) const TRIES: usize = 2;
/// A worker that lacks disk space does not fail a class: the class is offered to this many workers
/// or storages before it has failed.
pub(super) const OFFERS: usize = 8;
/// Time that other workers have to try a class; after it a worker that failed the class may try it
/// again.
const RESERVED_FOR_OTHERS: Duration = Duration::from_mins(5);

/// The failures of one class that is not settled.
#[derive(Debug)]
struct ClassFailures {
    /// Keys of the workers or storages that failed the class, one for each failure; fewer than
    /// [`TRIES`] and [`OFFERS`] together.
    failed_by: Vec<String>,
    /// How many of these failures were for lack of disk space.
    without_space: usize,
    since: Instant,
}

/// The classes that failed and are not settled, and those of them that wait for a retry.
#[derive(Debug, Default)]
pub(super) struct ClassFailureTable {
    of: HashMap<usize, ClassFailures>,
    /// Waiting classes, ordered by the time at which their wait ends.
    delayed: BTreeSet<(Instant, usize)>,
}

impl ClassFailureTable {
    /// Records a failure of a class. Returns the number of failures so far of the same kind: for
    /// lack of disk space, or for other reasons.
    pub(super) fn note(
        &mut self,
        class: usize,
        key: String,
        lacks_space: bool,
        now: Instant,
    ) -> usize {
        let new = || ClassFailures {
            failed_by: Vec::new(),
            without_space: 0,
            since: now,
        };
        let failures = self.of.entry(class).or_insert_with(new);
        failures.failed_by.push(key);
        failures.since = now;
        failures.without_space += usize::from(lacks_space);
        if lacks_space {
            failures.without_space
        } else {
            failures.failed_by.len() - failures.without_space
        }
    }

    /// Number of failures of a class.
    pub(super) fn times(&self, class: usize) -> usize {
        self.of
            .get(&class)
            .map_or(0, |failures| failures.failed_by.len())
    }

    /// Whether a worker or storage with one of these keys failed the class, and the class's last
    /// failure is less than [`RESERVED_FOR_OTHERS`] ago. `keys` is not called for a class without
    /// failures, which is the common case.
    pub(super) fn has_failed(
        &self,
        class: usize,
        now: Instant,
        keys: impl Fn() -> [String; 2],
    ) -> bool {
        self.of.get(&class).is_some_and(|failures| {
            now - failures.since < RESERVED_FOR_OTHERS
                && keys().iter().any(|key| failures.failed_by.contains(key))
        })
    }

    /// Starts the wait of a class.
    pub(super) fn delay(&mut self, class: usize, until: Instant) {
        self.delayed.insert((until, class));
    }

    /// Ends the wait of a class.
    pub(super) fn end_delay(&mut self, class: usize, until: Instant) {
        self.delayed.remove(&(until, class));
    }

    /// Classes whose wait has ended.
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        self.delayed
            .range(..=(now, usize::MAX))
            .map(|(_, class)| *class)
            .collect()
    }

    /// All waiting classes, in the order of the list.
    #[cfg(test)]
    pub(super) fn delayed(&self) -> Vec<usize> {
        self.delayed
            .iter()
            .map(|(_, class)| *class)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Removes the failures of a class that is settled, or that did not cause them.
    pub(super) fn forget(&mut self, class: usize) {
        self.of.remove(&class);
    }
}

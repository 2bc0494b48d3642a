//! Classes that failed on some workers and may succeed on others: which workers may not try a class
//! again, and when it is offered to the next one.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::sessions::Session;

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
    /// Key of the worker or storage that failed the class, and whether for lack of disk space, for
    /// each failure; fewer than [`TRIES`] and [`OFFERS`] together.
    failed_by: Vec<(String, bool)>,
    since: Instant,
}

/// The failures of the classes that are not settled.
#[derive(Debug, Default)]
pub(super) struct ClassFailureTable(HashMap<usize, ClassFailures>);

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
            since: now,
        };
        let failures = self.0.entry(class).or_insert_with(new);
        failures.failed_by.push((key, lacks_space));
        failures.since = now;
        let of_kind = failures.failed_by.iter();
        of_kind.filter(|(_, lacked)| *lacked == lacks_space).count()
    }

    /// Number of failures of a class.
    pub(super) fn times(&self, class: usize) -> usize {
        self.0
            .get(&class)
            .map_or(0, |failures| failures.failed_by.len())
    }

    /// Whether a worker or its storage failed the class, and the class's last failure is less than
    /// [`RESERVED_FOR_OTHERS`] ago.
    pub(super) fn has_failed(&self, class: usize, session: &Session, now: Instant) -> bool {
        self.0.get(&class).is_some_and(|failures| {
            let keys = [session.name_key(), session.host_key()];
            now - failures.since < RESERVED_FOR_OTHERS
                && failures.failed_by.iter().any(|(key, _)| keys.contains(key))
        })
    }

    /// Removes the failures of a class that is settled, or that did not cause them.
    pub(super) fn forget(&mut self, class: usize) {
        self.0.remove(&class);
    }
}

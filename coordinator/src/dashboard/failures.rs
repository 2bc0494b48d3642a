//! When the groups of failures are read again, and their form in messages. Pure.
//!
//! The ledger's thread counts the groups with one query, which takes time where many classes have
//! failed. It is asked at most once in [`INTERVAL`] and at the end of the job, and only after a
//! class has failed or a failed one has another state.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::snapshot::FailureGroup;
use crate::ledger;

/// Shortest time between two reads.
const INTERVAL: Duration = Duration::from_secs(2);
/// The letter of failed classes.
const FAILED: u8 = b'f';

/// The groups of failures as last read.
#[derive(Debug, Default)]
pub(super) struct GroupedFailures {
    pub(super) groups: Arc<[FailureGroup]>,
    /// Letters of the classes at the last read.
    letters: String,
    read_at: Option<Instant>,
}

impl GroupedFailures {
    /// Whether the groups have to be read: since the last read a class has failed, or a failed one
    /// has another state.
    pub(super) fn is_due(&self, letters: &str, now: Instant) -> bool {
        if self.read_at.is_some_and(|read_at| now < read_at + INTERVAL) {
            return false;
        }
        let is_failed = |letter: u8| letter == FAILED;
        if self.letters.is_empty() {
            return letters.bytes().any(is_failed);
        }
        let before = self.letters.bytes().map(is_failed);
        !before.eq(letters.bytes().map(is_failed))
    }

    /// Replaces the groups by those that were read when the classes had these letters.
    pub(super) fn replace(
        &mut self,
        groups: Vec<ledger::FailureGroup>,
        letters: &str,
        now: Instant,
    ) {
        self.groups = groups.into_iter().map(shown).collect();
        letters.clone_into(&mut self.letters);
        self.read_at = Some(now);
    }

    /// Permits the next read at once: the last message has the groups of all failed classes.
    pub(super) fn end_interval(&mut self) {
        self.read_at = None;
    }

    /// The ledger did not answer: the groups as last read stay until the next attempt.
    pub(super) fn not_read(&mut self, now: Instant) {
        self.read_at = Some(now);
    }
}

fn shown(group: ledger::FailureGroup) -> FailureGroup {
    FailureGroup {
        kind: group.kind.to_string(),
        retryable: group.is_retryable(),
        message: group.message,
        count: group.classes,
        classes: group.first.iter().map(ToString::to_string).collect(),
        worker: group.worker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_after_a_change_and_at_most_every_two_seconds() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut failures = GroupedFailures::default();
        assert!(!failures.is_due("wwr", start), "nothing has failed");
        assert!(failures.is_due("wfr", start));
        failures.replace(Vec::new(), "wfr", start);
        assert!(!failures.is_due("ffr", start + second), "it is too early");
        assert!(failures.is_due("ffr", start + 2 * second));
        assert!(
            !failures.is_due("rfs", start + 9 * second),
            "the same have failed"
        );
        assert!(
            failures.is_due("www", start + 9 * second),
            "it is tried again"
        );
        failures.end_interval();
        assert!(failures.is_due("ffr", start + second), "the job ends");
        assert!(!failures.is_due("wfr", start + second), "nothing is new");
    }
}

//! After a start nothing is leased until the workers of the former coordinator have said what they hold, or cannot any more.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::EXPIRY_MARGIN;

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

//! Estimates the bytes that are still to be downloaded: for classes under way the rest of their
//! announced length, and for classes of unknown length the mean of the known ones. Pure.
//!
//! The lengths come from workers and are not verified, so the estimate is for display only; no
//! decision depends on it.

use std::time::Duration;

use shared::{Wnid, ids::SessionId, outcome::Outcome};

use super::{LeaseTable, ReportedLease};

/// Added before a duration is truncated to whole seconds, which rounds it.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// The lengths of the settled classes.
#[derive(Debug)]
pub(super) struct Lengths {
    sum: Sum,
    /// Rows without a class id. They count as failed, but are no evidence about the classes.
    invalid: u64,
}

/// A number of classes, and the total bytes of their tars.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    classes: u64,
    bytes: u64,
}

impl Lengths {
    pub(super) fn with_invalid_rows(invalid: u64) -> Self {
        Self {
            sum: Sum::default(),
            invalid,
        }
    }

    /// Adds a class that has ended. Failed classes count in [`LeaseTable::remaining_bytes`], by
    /// their current number.
    pub(super) fn note(&mut self, outcome: &Outcome) {
        if let Outcome::Success(published) | Outcome::Skipped(published) = outcome
            && published.bytes > 0
        {
            self.sum.add(published.bytes);
        }
    }
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.classes += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The expected bytes of `classes` other classes of the same mean length.
    fn of_as_many(self, classes: u64) -> u64 {
        let product = u128::from(self.bytes) * u128::from(classes);
        u64::try_from(product / u128::from(self.classes.max(1))).unwrap_or(u64::MAX)
    }
}

impl LeaseTable {
    /// Bytes that are still to be downloaded, as of the last report of each worker. `None` while
    /// the lengths of most leased classes are unknown: of classes that were started at the same
    /// time the short ones end first, so the mean of the ended ones alone is too small.
    pub fn remaining_bytes(&self) -> Option<u64> {
        let mut lengths = self.lengths.sum;
        let mut leased_unknown = 0;
        let mut missing: u64 = 0;
        for held in self
            .sessions
            .by_id
            .values()
            .flat_map(|session| session.leases.values())
        {
            if held.length == 0 {
                leased_unknown += 1;
            } else {
                lengths.add(held.length);
                missing = missing.saturating_add(held.length.saturating_sub(held.bytes));
            }
        }
        let unknown = self.status.pending + leased_unknown;
        // The same proportion of the rest is expected to fail as of the classes that have ended.
        // Failed classes bring no bytes.
        lengths.classes += self.status.failed.saturating_sub(self.lengths.invalid);
        if (unknown > 0 && lengths.bytes == 0) || leased_unknown > lengths.classes {
            return None;
        }
        Some(missing.saturating_add(lengths.of_as_many(unknown)))
    }

    /// A request for leases names the classes that the worker holds. Lengths that no heartbeat has
    /// named yet count from now on; positions and leases change with heartbeats only.
    pub fn learn_lengths(&mut self, id: SessionId, held: &[ReportedLease]) {
        let Some(session) = self.sessions.by_id.get_mut(&id) else {
            return;
        };
        for ReportedLease { lease, length, .. } in held {
            let Some(position) = self.index.get(&lease.wnid) else {
                continue;
            };
            if self.classes[*position].token == Some(lease.token)
                && let Some(holding) = session.leases.get_mut(position)
                && holding.length == 0
            {
                holding.length = *length;
            }
        }
    }

    /// Rows of the list without a class id.
    pub fn invalid_rows(&self) -> u64 {
        self.lengths.invalid
    }

    /// The first of these classes that is not in the list.
    pub fn first_not_in_list(&self, wnids: &[Wnid]) -> Option<Wnid> {
        wnids
            .iter()
            .find(|wnid| !self.index.contains_key(wnid))
            .copied()
    }

    /// The position in the tar of a class that its holder named last.
    pub fn position_in_tar(&self, id: SessionId, wnid: Wnid) -> u64 {
        let position = self.index.get(&wnid);
        let session = self.sessions.by_id.get(&id);
        let held = position
            .zip(session)
            .and_then(|(position, session)| session.leases.get(position));
        held.map_or(0, |held| held.bytes)
    }

    /// Sets the estimate in the counts, to the nearest second. `None` once the job is done.
    pub fn set_time_left(&mut self, left: Option<Duration>) {
        let left = left.filter(|_| !self.status.is_done());
        self.status.time_left =
            left.map(|left| Duration::from_secs(left.saturating_add(HALF_A_SECOND).as_secs()));
    }
}

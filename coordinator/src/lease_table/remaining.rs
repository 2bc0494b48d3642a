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

/// The number of settled classes of known length, and the total bytes of their tars.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lengths {
    classes: u64,
    bytes: u64,
    /// Rows without a class id. They count as failed, but are no evidence about the classes.
    invalid: u64,
}

impl Lengths {
    pub(super) fn with_invalid_rows(invalid: u64) -> Self {
        Self {
            invalid,
            ..Self::default()
        }
    }

    /// Adds a class that has ended. Failed classes count in [`LeaseTable::remaining_bytes`], by
    /// their current number.
    pub(super) fn note(&mut self, outcome: &Outcome) {
        if let Outcome::Success(published) | Outcome::Skipped(published) = outcome
            && published.bytes > 0
        {
            self.add(published.bytes);
        }
    }

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
        let mut lengths = self.lengths;
        let mut leased_unknown = 0;
        let mut missing: u64 = 0;
        for (_, _, held) in self.leases() {
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
        for ReportedLease { lease, length, .. } in held {
            if let Some(position) = self.position(lease.wnid)
                && let Some(progress) = self.progress(position, id, lease.token)
                && progress.length == 0
            {
                progress.length = *length;
            }
        }
    }

    /// Rows of the list without a class id.
    pub fn invalid_rows(&self) -> u64 {
        self.lengths.invalid
    }

    /// The first of these classes that is not in the list.
    pub fn first_not_in_list(&self, wnids: &[Wnid]) -> Option<Wnid> {
        let is_missing = |wnid: &&Wnid| self.position(**wnid).is_none();
        wnids.iter().find(is_missing).copied()
    }

    /// The position in the tar of a class that its holder named last.
    pub fn position_in_tar(&self, id: SessionId, wnid: Wnid) -> u64 {
        let holder = self.position(wnid).and_then(|at| self.holder(at));
        let held = holder.filter(|(session, _)| session.id == id);
        held.map_or(0, |(_, held)| held.bytes)
    }

    /// Sets the estimate in the counts, to the nearest second. `None` once the job is done.
    pub fn set_time_left(&mut self, left: Option<Duration>) {
        let left = left.filter(|_| !self.status.is_done());
        self.status.time_left =
            left.map(|left| Duration::from_secs(left.saturating_add(HALF_A_SECOND).as_secs()));
    }
}

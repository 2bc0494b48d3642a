//! How many bytes are still to come from the origin: of classes under way what is missing of their
//! announced length, and for classes whose length is not known the mean of those that are. Pure.
//!
//! Workers say the lengths, so this is an estimate for people; nothing is decided by it.

use std::time::Duration;

use shared::{Wnid, ids::SessionId, outcome::Outcome};

use super::{LeaseTable, ReportedLease};

/// Added before a time is cut to whole seconds.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

/// The lengths of the settled classes.
#[derive(Debug)]
pub(super) struct Lengths {
    sum: Sum,
    /// Rows that hold no class id: they count as failed, and say nothing of the classes.
    invalid: u64,
}

/// Classes, and the bytes of their tars.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    classes: u64,
    bytes: u64,
}

impl Lengths {
    pub(super) fn with_invalid_rows(invalid: u64) -> Self {
        Self { sum: Sum::default(), invalid }
    }

    /// A class has ended. One that failed counts in [`LeaseTable::remaining_bytes`], by the number
    /// of those that have failed now.
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

    /// As many bytes as so many other classes have, if they are like these.
    fn of_as_many(self, classes: u64) -> u64 {
        let product = u128::from(self.bytes) * u128::from(classes);
        u64::try_from(product / u128::from(self.classes.max(1))).unwrap_or(u64::MAX)
    }
}

impl LeaseTable {
    /// Bytes that are still to come, as of the last word of each worker. `None` while the lengths of
    /// most leased classes are not known: of classes that were begun at the same time the short ones
    /// end first, so the mean of the ended ones alone is too small.
    pub fn remaining_bytes(&self) -> Option<u64> {
        let mut lengths = self.lengths.sum;
        let mut leased_unknown = 0;
        let mut missing: u64 = 0;
        for held in self.sessions.by_id.values().flat_map(|session| session.leases.values()) {
            if held.length == 0 {
                leased_unknown += 1;
            } else {
                lengths.add(held.length);
                missing = missing.saturating_add(held.length.saturating_sub(held.bytes));
            }
        }
        let unknown = self.status.pending + leased_unknown;
        // As many of the rest fail as of those that have ended, and bring no bytes.
        lengths.classes += self.status.failed.saturating_sub(self.lengths.invalid);
        if (unknown > 0 && lengths.bytes == 0) || leased_unknown > lengths.classes {
            return None;
        }
        Some(missing.saturating_add(lengths.of_as_many(unknown)))
    }

    /// A worker that asks for leases names what it holds. Lengths that none of its renewals has
    /// named yet count from now on; positions and leases change with renewals only.
    pub fn learn_lengths(&mut self, id: SessionId, held: &[ReportedLease]) {
        let Some(session) = self.sessions.by_id.get_mut(&id) else { return };
        for ReportedLease { lease, length, .. } in held {
            let Some(position) = self.index.get(&lease.wnid) else { continue };
            if self.classes[*position].token == Some(lease.token)
                && let Some(holding) = session.leases.get_mut(position)
                && holding.length == 0
            {
                holding.length = *length;
            }
        }
    }

    /// Rows of the list that hold no class id.
    pub fn invalid_rows(&self) -> u64 {
        self.lengths.invalid
    }

    /// The first of these classes that is not in the list.
    pub fn first_not_in_list(&self, wnids: &[Wnid]) -> Option<Wnid> {
        wnids.iter().find(|wnid| !self.index.contains_key(wnid)).copied()
    }

    /// Where in the tar of a class its holder was when it last named it.
    pub fn position_in_tar(&self, id: SessionId, wnid: Wnid) -> u64 {
        let position = self.index.get(&wnid);
        let session = self.sessions.by_id.get(&id);
        let held = position.zip(session).and_then(|(position, session)| session.leases.get(position));
        held.map_or(0, |held| held.bytes)
    }

    /// The estimate that the counts tell, to the nearest second; none once the job is done.
    pub fn set_time_left(&mut self, left: Option<Duration>) {
        let left = left.filter(|_| !self.status.is_done());
        self.status.time_left = left.map(|left| Duration::from_secs(left.saturating_add(HALF_A_SECOND).as_secs()));
    }
}

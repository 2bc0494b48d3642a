//! What the live page shows, as plain values of one moment.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use shared::Wnid;

use super::{Fleet, Transfers};
use crate::concurrency::ConcurrencyNotice;

/// The state that the live page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveView {
    /// Counts, phase, origin and workers.
    pub fleet: Fleet,
    /// One letter for the state of each class, in the order of the list: `w` waiting, `d` waiting
    /// for a retry, `r` running, `s` success, `k` skipped, `f` failed.
    pub letters: String,
    /// The longest-held classes.
    pub transfers: Transfers,
    /// The workers that a restarted coordinator waits for.
    pub recovery: Option<Recovery>,
    /// Why no worker has received a response of the origin yet.
    pub first_failure: Option<String>,
    /// The failure with which the origin began to fail for all workers, the last time it did.
    pub outage: Option<String>,
    /// `--max-connections`; `None` without it.
    pub ceiling: Option<u32>,
}

/// The workers that a restarted coordinator waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// Number of workers that had a session before the restart.
    pub expected: usize,
    /// Number of these that have not registered again.
    pub missing: usize,
    /// Time until the missing ones are no longer waited for.
    pub left: Duration,
}

/// The list of the job, which does not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobList {
    /// The classes, in the order of the list.
    pub wnids: Vec<Wnid>,
    /// Rows without a class id.
    pub invalid_rows: u64,
}

/// A class that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldClass {
    /// Position in the list.
    pub row: usize,
    /// Name of the worker.
    pub worker: String,
    /// Offset in the tar, as the worker reports it.
    pub bytes: u64,
    /// Length of the tar; 0 if unknown.
    pub length: u64,
}

/// A change of the limit of connections, or a pause of all requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitChange {
    /// Its time.
    pub at: SystemTime,
    /// Connections that were allowed before.
    pub before: u32,
    /// Connections that are allowed now.
    pub limit: u32,
    /// Why.
    pub notice: ConcurrencyNotice,
}

/// Number of changes of the limit that are kept. Each takes about 120 bytes of a snapshot.
pub(crate) const CHANGES: usize = 40;

/// The last changes of the limit, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitChanges {
    kept: VecDeque<LimitChange>,
}

impl LimitChanges {
    /// Adds a change; the oldest one is dropped if there are too many.
    pub fn push(&mut self, change: LimitChange) {
        if self.kept.len() == CHANGES {
            self.kept.pop_front();
        }
        self.kept.push_back(change);
    }

    /// The limit after the last change.
    pub fn limit(&self) -> Option<u32> {
        self.kept.back().map(|change| change.limit)
    }

    /// The changes, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LimitChange> {
        self.kept.iter()
    }
}

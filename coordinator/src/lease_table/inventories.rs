//! The inventories of storages: a worker reports which classes are complete on its storage before
//! the first class is granted. Each storage is reported once, by one of its workers. No I/O, no
//! clock.

use std::{collections::BTreeMap, mem, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{
    recent::LruMap,
    sessions::{FORMER, Session},
};

/// Time for which other workers wait for the inventory of a worker's storage.
pub(super) const INVENTORY_TIMEOUT: Duration = Duration::from_secs(30);
/// All inventories together delay the first grant by at most this, however many storages register.
pub(super) const ALL_INVENTORIES_TIMEOUT: Duration = Duration::from_mins(1);

/// The inventories that are being taken, and the storages that have been asked for one.
#[derive(Debug, Default)]
pub(super) struct Inventories {
    /// Sessions whose workers are taking the inventory of their storage, and since when.
    under_way: BTreeMap<SessionId, Instant>,
    /// When the first inventory of the run began.
    first: Option<Instant>,
    /// Storages whose inventory was requested from a worker.
    pub(super) requested: LruMap<String, bool, FORMER>,
}

impl Inventories {
    /// Whether a worker must report the inventory of its storage: it was requested from no other
    /// worker, or this worker has not finished it.
    pub(super) fn request(&mut self, session: &Session, now: Instant) -> bool {
        let storage = &session.worker_info.storage;
        if !storage.is_empty() && !mem::replace(self.requested.entry(storage), true) {
            self.first.get_or_insert(now);
            self.under_way.insert(session.id, now);
        }
        self.under_way.contains_key(&session.id)
    }

    /// Records that a worker has reported its inventory. Returns whether other workers may have
    /// waited for it.
    pub(super) fn end(&mut self, id: SessionId) -> bool {
        self.under_way.remove(&id).is_some()
    }

    /// Records that a session has ended. Another worker must report the inventory that it has not
    /// finished.
    pub(super) fn left(&mut self, session: &Session) {
        if self.end(session.id) {
            self.requested.remove(&session.worker_info.storage);
        }
    }

    /// Whether grants wait for the inventory of some storage.
    pub(super) fn are_awaited(&self, now: Instant) -> bool {
        self.under_way
            .values()
            .any(|since| is_awaited(*since, self.first, now))
    }

    /// Stops waiting for inventories that take too long. Returns whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.under_way.len();
        self.under_way
            .retain(|_, since| is_awaited(*since, self.first, now));
        self.under_way.len() < before
    }
}

/// Whether grants wait for an inventory that began at `since`. `first`: when the first one began.
fn is_awaited(since: Instant, first: Option<Instant>, now: Instant) -> bool {
    now - since < INVENTORY_TIMEOUT
        && first.is_some_and(|first| now - first < ALL_INVENTORIES_TIMEOUT)
}

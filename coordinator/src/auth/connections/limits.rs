//! How many connections of each kind there may be, from the limit on open files.

use super::Role;

/// Limit of pending connections. Each takes up to 70 KiB with half a message of a TLS handshake, so
/// all of them together take less than 64 MiB.
const MAX_PENDING: u64 = 500;
/// Limit of connections with a viewer's or admin's token: `coordinator status` and other tools.
const MAX_OBSERVERS: u64 = 128;
/// Open files reserved for everything else: the ledger, logs, the class list, and connections of
/// health and metrics endpoints.
pub(super) const RESERVED_FILES: u64 = 128;
/// Limit on open files that is assumed if the system has none.
const DEFAULT_OPEN_FILES: u64 = 1 << 20;

/// The maximum number of connections of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) struct Limits {
    pub(super) pending: usize,
    pub(super) observers: usize,
    pub(super) workers: usize,
}

impl Limits {
    /// Divides the number of files that this process may open; `None`: no limit.
    pub(in crate::auth) fn within(open_files: Option<u64>) -> Self {
        let files = open_files
            .unwrap_or(DEFAULT_OPEN_FILES)
            .saturating_sub(RESERVED_FILES)
            .max(16);
        let pending = (files / 8).min(MAX_PENDING);
        let observers = (files / 16).min(MAX_OBSERVERS);
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            pending: count(pending),
            observers: count(observers),
            workers: count(files - pending - observers),
        }
    }

    /// The limit for connections of this role. Viewers and admins are observers.
    pub(super) fn of(self, role: Role) -> usize {
        if role == Role::Worker {
            self.workers
        } else {
            self.observers
        }
    }
}

//! The slots of a session: how many classes it may hold.

use shared::ids::SessionId;

use super::{LeaseTable, to_usize};

impl LeaseTable {
    /// How many classes a session may be granted in addition to those that it holds.
    pub(super) fn free_slots(&self, id: SessionId) -> usize {
        let Some(session) = self.sessions.by_id.get(&id) else {
            return 0;
        };
        let held = session.leases.len() + self.attempted_by(id).len();
        to_usize(session.worker_info.slots).saturating_sub(held)
    }

    /// Called when a session holds one class fewer. A worker calls `Acquire` concurrently with its
    /// reports, so an `Acquire` call may already wait for the slot.
    pub(super) fn slot_was_freed(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.by_id.get_mut(&id)
            && std::mem::take(&mut session.waits_for_slot)
        {
            self.wake_ups += 1;
        }
    }

    /// Whether this session's worker held the class, now queued, when its former session expired.
    pub(super) fn was_lost_by(&self, position: usize, id: SessionId) -> bool {
        let worker = self.worker(id);
        worker.is_some() && self.lost_by.get(&position).map(String::as_str) == worker
    }
}

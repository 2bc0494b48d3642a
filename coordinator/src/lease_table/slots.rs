//! How much a worker may hold, and how many workers there may be.

use shared::ids::SessionId;

use super::{Ended, LeaseTable, Refused, sessions::MOST_SESSIONS};

impl LeaseTable {
    /// How many classes a session may be given beside those that it holds.
    pub(super) fn free_slots(&self, id: SessionId) -> usize {
        let Some(session) = self.sessions.by_id.get(&id) else { return 0 };
        let slots = usize::try_from(session.hello.slots).unwrap_or(usize::MAX);
        slots.saturating_sub(session.leases.len() + self.copied_by(id).len())
    }

    /// A session holds one class less. A worker calls `Acquire` beside its reports, so that call
    /// may wait for the slot already.
    pub(super) fn slot_is_free(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.by_id.get_mut(&id)
            && std::mem::take(&mut session.waits_for_slot)
        {
            self.turn += 1;
        }
    }

    /// Whether this session's worker held a queued class when its former session expired.
    pub(super) fn was_lost_by(&self, position: usize, id: SessionId) -> bool {
        let worker = self.worker(id);
        worker.is_some() && self.lost_by.get(&position).map(String::as_str) == worker
    }

    /// Ends an idle session if there are [`MOST_SESSIONS`]. A session that holds a class or has
    /// settled one stays. The worker of the ended one registers again with its next renewal.
    pub(super) fn make_room(&mut self, random: u64) -> Result<Option<Ended>, Refused> {
        if self.sessions.by_id.len() < MOST_SESSIONS {
            return Ok(None);
        }
        let has_copy = |id| self.copies.iter().any(|(_, copy)| copy.session == id);
        let idle = self.sessions.sample(random, |session| session.leases.is_empty() && session.settled == [0; 3]);
        let id = idle.filter(|id| !has_copy(*id)).ok_or(Refused::TooMany)?;
        Ok(Some(self.end(id, None).1))
    }
}

//! Limits on the classes of a session, and on the number of sessions.

use shared::ids::SessionId;

use super::{Ended, LeaseTable, Refused, sessions::MOST_SESSIONS};

impl LeaseTable {
    /// How many classes a session may be granted in addition to those that it holds.
    pub(super) fn free_slots(&self, id: SessionId) -> usize {
        let Some(session) = self.sessions.by_id.get(&id) else {
            return 0;
        };
        let slots = usize::try_from(session.hello.slots).unwrap_or(usize::MAX);
        slots.saturating_sub(session.leases.len() + self.attempted_by(id).len())
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

    /// Ends an idle session if there are [`MOST_SESSIONS`]. A session that holds a class or has
    /// settled one is not idle. The worker of the ended session registers again at its next
    /// heartbeat.
    pub(super) fn make_room(&mut self, random: u64) -> Result<Option<Ended>, Refused> {
        if self.sessions.by_id.len() < MOST_SESSIONS {
            return Ok(None);
        }
        let makes_attempt = |id| {
            self.attempts
                .iter()
                .any(|(_, attempt)| attempt.session == id)
        };
        let idle = self.sessions.sample(random, |session| {
            session.leases.is_empty() && session.settled == [0; 3]
        });
        let id = idle
            .filter(|id| !makes_attempt(*id))
            .ok_or(Refused::TooMany)?;
        Ok(Some(self.end(id, None).1))
    }
}

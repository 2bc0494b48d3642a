//! Waits that the origin has asked for with `Retry-After`, by the session that reports them. No I/O, no clock.
//!
//! Invariants: a reported wait is in force until its time has passed, its session ends, or an admin
//! ends it. A wait that a second session also reports stays in force. A single session can pause
//! the others for [`SOLO_HOLD`], plus a tenth of the elapsed time; after that, [`WaitProbes`] find
//! out whether the origin asks all workers to wait.
//!
//! [`WaitProbes`]: super::wait_probe::WaitProbes

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// The ends of one wait computed from two messages differ by less than this: a message carries the
/// time left and may arrive late. `Retry-After` has whole seconds.
pub(super) const JITTER: Duration = Duration::from_millis(500);
/// Time for which a single session can pause the others without a probe.
pub(super) const SOLO_HOLD: Duration = Duration::from_mins(1);
/// A session recovers the right to pause the others at this fraction (1/n) of the elapsed time.
const RECOVERY_FACTOR: u32 = 10;

/// The last wait that one session has reported.
#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Instant,
    is_ended: bool,
    /// The origin has served another session during a wait of this one, so its waits pause no other
    /// session.
    is_exclusive: bool,
    /// Time for which only this session has paused the others, minus what it has recovered.
    exclusive_time: Duration,
}

impl Wait {
    fn is_in_force(&self) -> bool {
        !self.is_ended && !self.is_exclusive
    }
}

/// The last wait of each session that has reported one.
#[derive(Debug, Default)]
pub(super) struct Waits {
    of: BTreeMap<SessionId, Wait>,
    /// Exclusive pause time of sessions that have ended. A new session starts with it.
    exclusive_time: Duration,
    counted: Option<Instant>,
}

impl Waits {
    /// A session reports the end of a wait. Returns whether the wait is in force. `is_refused`: the
    /// origin has refused a request of this session since its last report. Without a refusal the
    /// report repeats an earlier wait, which is ignored once an admin has ended it.
    pub(super) fn reported(&mut self, id: SessionId, until: Instant, is_refused: bool) -> bool {
        let new = Wait {
            until,
            is_ended: false,
            is_exclusive: self.exclusive_time >= SOLO_HOLD,
            exclusive_time: self.exclusive_time,
        };
        let wait = self.of.entry(id).or_insert(new);
        if wait.is_ended && !is_refused && until <= wait.until + JITTER {
            return false;
        }
        let is_longer = wait.is_ended || until > wait.until;
        *wait = Wait {
            until: if is_longer { until } else { wait.until },
            is_ended: false,
            ..*wait
        };
        !wait.is_exclusive
    }

    /// A session has ended. Returns whether it had reported a wait.
    pub(super) fn session_ended(&mut self, id: SessionId) -> bool {
        let ended = self.of.remove(&id);
        self.exclusive_time = self
            .exclusive_time
            .max(ended.map(|wait| wait.exclusive_time).unwrap_or_default());
        ended.is_some()
    }

    /// Ends all waits.
    pub(super) fn end_all(&mut self) {
        self.of.values_mut().for_each(|wait| wait.is_ended = true);
    }

    /// The end of the longest wait that is in force for all.
    pub(super) fn until(&self) -> Option<Instant> {
        self.of
            .values()
            .filter(|wait| wait.is_in_force())
            .map(|wait| wait.until)
            .max()
    }

    /// Adds the time since the last call. `are_others`: there are sessions that can be paused.
    pub(super) fn count(&mut self, are_others: bool, now: Instant) {
        let since = self.counted.replace(now).unwrap_or(now);
        let alone = if are_others {
            self.only_session_waiting(since)
        } else {
            None
        };
        let recovered = now.saturating_duration_since(since) / RECOVERY_FACTOR;
        self.exclusive_time = self.exclusive_time.saturating_sub(recovered);
        for (id, wait) in &mut self.of {
            wait.exclusive_time = if alone == Some(*id) {
                wait.exclusive_time + wait.until.min(now).saturating_duration_since(since)
            } else {
                wait.exclusive_time.saturating_sub(recovered)
            };
        }
    }

    /// The session that is the only one to pause the others now, if it has done so for too long.
    pub(super) fn exclusive_for_too_long(&self, now: Instant) -> Option<SessionId> {
        self.only_session_waiting(now)
            .filter(|id| self.of[id].exclusive_time >= SOLO_HOLD)
    }

    /// From now on, waits of this session apply to this session only.
    pub(super) fn mark_exclusive(&mut self, id: SessionId) {
        if let Some(wait) = self.of.get_mut(&id) {
            wait.is_exclusive = true;
        }
    }

    /// Whether waits of this session apply to this session only.
    pub(super) fn is_exclusive(&self, id: SessionId) -> bool {
        self.of.get(&id).is_some_and(|wait| wait.is_exclusive)
    }

    fn only_session_waiting(&self, now: Instant) -> Option<SessionId> {
        let mut waiting = self
            .of
            .iter()
            .filter(|(_, wait)| wait.is_in_force() && wait.until > now);
        let first = waiting.next().map(|(id, _)| *id);
        first.filter(|_| waiting.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_last_session_that_reported_it() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        let [one, other] = [1, 2].map(SessionId);
        assert!(
            waits.reported(one, at(900), true)
                && waits.reported(other, at(600), true)
                && waits.reported(one, at(800), false)
        );
        assert_eq!(waits.until(), Some(at(900)));
        assert!(waits.session_ended(one) && !waits.session_ended(one));
        assert_eq!(waits.until(), Some(at(600)));
        assert!(waits.session_ended(other));
        assert_eq!(waits.until(), None);
    }

    #[test]
    fn an_ended_wait_is_not_renewed_without_a_new_refusal() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        let one = SessionId(1);
        waits.reported(one, at(900), true);
        waits.end_all();
        assert_eq!(waits.until(), None);
        assert!(
            !waits.reported(one, at(900) + JITTER, false),
            "a repeated report of the ended wait"
        );
        assert_eq!(waits.until(), None);
        assert!(waits.reported(one, at(300), true), "a new refusal");
        assert_eq!(waits.until(), Some(at(300)));
        waits.end_all();
        assert!(waits.reported(one, at(301), false), "a longer wait");
        assert_eq!(waits.until(), Some(at(301)));
    }
}

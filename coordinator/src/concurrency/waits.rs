//! `Retry-After` waits, one per session. No I/O, no clock.
//!
//! Invariants: a reported wait is in force until its time has passed, its session ends, or an admin
//! ends it. A wait that a second session also reports stays in force.
//!
//! The sole session is the only one whose wait is in force; it pauses the others. Each session has
//! an allowance of [`SOLE_PAUSE_LIMIT`] for that. While it is the sole session, the time is taken
//! from the allowance and nothing is given back; at other times a tenth of the elapsed time is
//! given back. When the allowance is used up, [`WaitProbes`] find out whether the origin asks all
//! workers to wait.
//!
//! [`WaitProbes`]: super::wait_probe::WaitProbes

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// Two messages about the same wait yield ends that differ by less than this: a message carries the
/// time left, and its delay varies. Two different waits differ by more, because `Retry-After` has
/// whole seconds.
pub(super) const JITTER: Duration = Duration::from_millis(500);
/// Time for which the sole session can pause the others without a probe.
pub(super) const SOLE_PAUSE_LIMIT: Duration = Duration::from_mins(1);
/// The allowance of a session is refilled by the elapsed time divided by this.
const REFILL_DIVISOR: u32 = 10;

/// The last wait that one session has reported.
#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Instant,
    /// Whether an admin has ended it.
    is_ended: bool,
    /// Waits of this session pause no other session: the origin has served another session during
    /// one of them, or the allowance was used up before this session began.
    affects_own_session_only: bool,
    /// The used part of the allowance.
    sole_pause: Duration,
}

impl Wait {
    fn is_in_force(&self) -> bool {
        !self.is_ended && !self.affects_own_session_only
    }
}

/// The last wait of each session that has reported one.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_session: BTreeMap<SessionId, Wait>,
    /// The largest used part among sessions that have ended; it is refilled too. A new session
    /// starts with it, so that a worker gains no allowance by registering again.
    sole_pause: Duration,
    /// Time of the last call of [`Waits::advance`].
    counted_until: Option<Instant>,
}

impl Waits {
    /// Records the end of a wait that a session reports. Returns whether the wait is in force.
    /// `is_refused`: the origin has refused a request of this session since its last report.
    /// Without a refusal the report repeats an earlier wait, which is ignored once an admin has
    /// ended it.
    pub(super) fn record(&mut self, id: SessionId, until: Instant, is_refused: bool) -> bool {
        let new = Wait {
            until,
            is_ended: false,
            affects_own_session_only: self.sole_pause >= SOLE_PAUSE_LIMIT,
            sole_pause: self.sole_pause,
        };
        let wait = self.by_session.entry(id).or_insert(new);
        if wait.is_ended && !is_refused && until <= wait.until + JITTER {
            return false;
        }
        let is_longer = wait.is_ended || until > wait.until;
        *wait = Wait {
            until: if is_longer { until } else { wait.until },
            is_ended: false,
            ..*wait
        };
        !wait.affects_own_session_only
    }

    /// Removes the wait of a session that has ended. Returns whether it had reported a wait.
    pub(super) fn session_ended(&mut self, id: SessionId) -> bool {
        let ended = self.by_session.remove(&id);
        self.sole_pause = self
            .sole_pause
            .max(ended.map(|wait| wait.sole_pause).unwrap_or_default());
        ended.is_some()
    }

    /// Ends all waits.
    pub(super) fn end_all(&mut self) {
        self.by_session
            .values_mut()
            .for_each(|wait| wait.is_ended = true);
    }

    /// The end of the longest wait that is in force for all sessions.
    pub(super) fn until(&self) -> Option<Instant> {
        self.by_session
            .values()
            .filter(|wait| wait.is_in_force())
            .map(|wait| wait.until)
            .max()
    }

    /// Uses up the allowance of the sole session by the time since the last call, and refills those
    /// of the others. `are_others`: there are sessions that can be paused.
    pub(super) fn advance(&mut self, are_others: bool, now: Instant) {
        let since = self.counted_until.replace(now).unwrap_or(now);
        let sole = if are_others {
            self.sole_session_waiting(since)
        } else {
            None
        };
        let refilled = now.saturating_duration_since(since) / REFILL_DIVISOR;
        self.sole_pause = self.sole_pause.saturating_sub(refilled);
        for (id, wait) in &mut self.by_session {
            wait.sole_pause = if sole == Some(*id) {
                wait.sole_pause + wait.until.min(now).saturating_duration_since(since)
            } else {
                wait.sole_pause.saturating_sub(refilled)
            };
        }
    }

    /// The sole session, if its allowance is used up.
    pub(super) fn sole_session_over_limit(&self, now: Instant) -> Option<SessionId> {
        self.sole_session_waiting(now)
            .filter(|id| self.by_session[id].sole_pause >= SOLE_PAUSE_LIMIT)
    }

    /// From now on, waits of this session apply to this session only.
    pub(super) fn restrict_to_own_session(&mut self, id: SessionId) {
        if let Some(wait) = self.by_session.get_mut(&id) {
            wait.affects_own_session_only = true;
        }
    }

    /// Whether waits of this session apply to this session only.
    pub(super) fn affects_own_session_only(&self, id: SessionId) -> bool {
        self.by_session
            .get(&id)
            .is_some_and(|wait| wait.affects_own_session_only)
    }

    /// The only session whose wait is in force.
    fn sole_session_waiting(&self, now: Instant) -> Option<SessionId> {
        let mut waiting = self
            .by_session
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
            waits.record(one, at(900), true)
                && waits.record(other, at(600), true)
                && waits.record(one, at(800), false)
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
        waits.record(one, at(900), true);
        waits.end_all();
        assert_eq!(waits.until(), None);
        assert!(
            !waits.record(one, at(900) + JITTER, false),
            "a repeated report of the ended wait"
        );
        assert_eq!(waits.until(), None);
        assert!(waits.record(one, at(300), true), "a new refusal");
        assert_eq!(waits.until(), Some(at(300)));
        waits.end_all();
        assert!(waits.record(one, at(301), false), "a longer wait");
        assert_eq!(waits.until(), Some(at(301)));
    }
}

//! The waits that the origin has asked for with `Retry-After`, by the session that reports them.
//! Pure.
//!
//! Invariants: a reported wait counts until its time has passed, its session ends, or an admin lifts
//! it. A wait that another session reports as well goes on. One session alone holds the others for
//! [`ALONE`] and a tenth of the time; then a [`Trials`] shows whether the origin means all of them.
//!
//! [`Trials`]: super::trial::Trials

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// The instants that two messages give for the end of one wait differ by less: a message gives the
/// time that is left, and may come late. `Retry-After` has whole seconds.
pub(super) const JITTER: Duration = Duration::from_millis(500);
/// For so long one session alone holds the others back without a trial.
pub(super) const ALONE: Duration = Duration::from_mins(1);
/// After so many times as long without it, it may hold them back for as long again.
const RECOVERY: u32 = 10;

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Instant,
    is_lifted: bool,
    /// The origin has answered another session meanwhile, so waits of this one hold no other back.
    is_own: bool,
    /// How long it alone has held the others back, less what has recovered.
    alone: Duration,
}

impl Wait {
    fn counts(&self) -> bool {
        !self.is_lifted && !self.is_own
    }
}

/// The last wait of each session that has reported one.
#[derive(Debug, Default)]
pub(super) struct Waits {
    of: BTreeMap<SessionId, Wait>,
    /// What sessions that have ended had held the others back: a new one begins with it.
    alone: Duration,
    counted: Option<Instant>,
}

impl Waits {
    /// A session reports the end of a wait; says whether the wait counts. `is_refused`: the origin
    /// has refused a request of it since its last report. Without a refusal it repeats an earlier
    /// wait, which does not count once that is lifted.
    pub(super) fn told(&mut self, id: SessionId, until: Instant, is_refused: bool) -> bool {
        let new = Wait { until, is_lifted: false, is_own: self.alone >= ALONE, alone: self.alone };
        let wait = self.of.entry(id).or_insert(new);
        if wait.is_lifted && !is_refused && until <= wait.until + JITTER {
            return false;
        }
        let is_longer = wait.is_lifted || until > wait.until;
        *wait = Wait { until: if is_longer { until } else { wait.until }, is_lifted: false, ..*wait };
        !wait.is_own
    }

    /// A session has ended; says whether it had reported a wait.
    pub(super) fn left(&mut self, id: SessionId) -> bool {
        let left = self.of.remove(&id);
        self.alone = self.alone.max(left.map(|wait| wait.alone).unwrap_or_default());
        left.is_some()
    }

    /// Lifts all waits.
    pub(super) fn lift(&mut self) {
        self.of.values_mut().for_each(|wait| wait.is_lifted = true);
    }

    /// The end of the longest wait that counts.
    pub(super) fn until(&self) -> Option<Instant> {
        self.of.values().filter(|wait| wait.counts()).map(|wait| wait.until).max()
    }

    /// Counts the time since the last call; `are_others`: there are sessions that can be held back.
    pub(super) fn count(&mut self, are_others: bool, now: Instant) {
        let since = self.counted.replace(now).unwrap_or(now);
        let alone = if are_others { self.alone(since) } else { None };
        let recovered = now.saturating_duration_since(since) / RECOVERY;
        self.alone = self.alone.saturating_sub(recovered);
        for (id, wait) in &mut self.of {
            wait.alone = if alone == Some(*id) {
                wait.alone + wait.until.min(now).saturating_duration_since(since)
            } else {
                wait.alone.saturating_sub(recovered)
            };
        }
    }

    /// The session that alone holds the others back now, if it has done so for too long.
    pub(super) fn too_long_alone(&self, now: Instant) -> Option<SessionId> {
        self.alone(now).filter(|id| self.of[id].alone >= ALONE)
    }

    /// Waits of this session are its own from now on.
    pub(super) fn is_its_own(&mut self, id: SessionId) {
        if let Some(wait) = self.of.get_mut(&id) {
            wait.is_own = true;
        }
    }

    /// Whether waits of this session hold no other back.
    pub(super) fn is_own(&self, id: SessionId) -> bool {
        self.of.get(&id).is_some_and(|wait| wait.is_own)
    }

    fn alone(&self, now: Instant) -> Option<SessionId> {
        let mut waiting = self.of.iter().filter(|(_, wait)| wait.counts() && wait.until > now);
        let first = waiting.next().map(|(id, _)| *id);
        first.filter(|_| waiting.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_last_session_that_was_told_it() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        let [one, other] = [1, 2].map(SessionId);
        assert!(waits.told(one, at(900), true) && waits.told(other, at(600), true) && waits.told(one, at(800), false));
        assert_eq!(waits.until(), Some(at(900)));
        assert!(waits.left(one) && !waits.left(one));
        assert_eq!(waits.until(), Some(at(600)));
        assert!(waits.left(other));
        assert_eq!(waits.until(), None);
    }

    #[test]
    fn a_lifted_wait_is_not_told_again_and_a_new_refusal_counts() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        let one = SessionId(1);
        waits.told(one, at(900), true);
        waits.lift();
        assert_eq!(waits.until(), None);
        assert!(!waits.told(one, at(900) + JITTER, false), "the rest of the same wait");
        assert_eq!(waits.until(), None);
        assert!(waits.told(one, at(300), true), "refused again");
        assert_eq!(waits.until(), Some(at(300)));
        waits.lift();
        assert!(waits.told(one, at(301), false), "a longer one");
        assert_eq!(waits.until(), Some(at(301)));
    }
}

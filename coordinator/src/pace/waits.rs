//! The waits that the origin has asked for with `Retry-After`, by the session that reports them.
//! Pure.
//!
//! Invariant: a reported wait counts until its time has passed, its session ends, or an admin lifts
//! it. A wait that another session reports as well goes on.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// The instants that two messages give for the end of one wait differ by less.
pub(super) const JITTER: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Instant,
    is_lifted: bool,
}

/// The last wait of each session that has reported one.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<SessionId, Wait>);

impl Waits {
    /// A session reports the end of a wait; says whether the wait counts. `is_refused`: the origin
    /// has refused a request of it since its last report. Without a refusal it repeats an earlier
    /// wait, which does not count once that is lifted.
    pub(super) fn told(&mut self, id: SessionId, until: Instant, is_refused: bool) -> bool {
        let wait = self.0.entry(id).or_insert(Wait { until, is_lifted: false });
        if wait.is_lifted && !is_refused && until <= wait.until + JITTER {
            return false;
        }
        let is_longer = wait.is_lifted || until > wait.until;
        *wait = Wait { until: if is_longer { until } else { wait.until }, is_lifted: false };
        true
    }

    /// A session has ended; says whether it had reported a wait.
    pub(super) fn left(&mut self, id: SessionId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Lifts all waits.
    pub(super) fn lift(&mut self) {
        self.0.values_mut().for_each(|wait| wait.is_lifted = true);
    }

    /// The end of the longest wait that counts.
    pub(super) fn until(&self) -> Option<Instant> {
        let waits = self.0.values().filter(|wait| !wait.is_lifted);
        waits.map(|wait| wait.until).max()
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

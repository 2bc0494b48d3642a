//! How long the origin wants to be left alone (`Retry-After`), by the session that was told so. Pure.
//!
//! Invariant: what a session has told counts until its time has passed, the session ends, or an admin lifts it. Another
//! session that was told the same keeps it.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// Instants that a worker counts down to differ by the way of the message.
pub(super) const JITTER: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Instant,
    is_lifted: bool,
}

/// The last wait of each session that was told one.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<SessionId, Wait>);

impl Waits {
    /// A session says until when the origin wants to be left alone; whether that counts. `is_refused`: it was refused since
    /// it last said something. Without that it repeats what it said before, which is of no use once that is lifted.
    pub(super) fn told(&mut self, id: SessionId, until: Instant, is_refused: bool) -> bool {
        let wait = self.0.entry(id).or_insert(Wait { until, is_lifted: false });
        if wait.is_lifted && !is_refused && until <= wait.until + JITTER {
            return false;
        }
        let is_longer = wait.is_lifted || until > wait.until;
        *wait = Wait { until: if is_longer { until } else { wait.until }, is_lifted: false };
        true
    }

    /// A session has ended; whether it had told of a wait.
    pub(super) fn left(&mut self, id: SessionId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// No wait counts any more.
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

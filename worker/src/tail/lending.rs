//! When free slots help classes that are under way: once there is nothing to lease for them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often the free slots are dealt out anew.
const INTERVAL: Duration = Duration::from_millis(100);
/// So long a slot is free before it helps, where nothing is left to lease; an answer is on its way otherwise.
const NOTHING_LEFT: Duration = Duration::from_millis(50);
/// The same where there was something left the last time that anybody said.
const UNANSWERED: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Lending {
    /// Nobody has wanted the free slots since.
    since: Instant,
    patience: Duration,
    next: Instant,
}

impl Lending {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { since: now, patience: UNANSWERED, next: now + UNANSWERED }
    }

    /// Says whether classes are left to lease, as far as anybody knows.
    pub(crate) fn left_to_lease(&mut self, some: bool) {
        let patience = if some { UNANSWERED } else { NOTHING_LEFT };
        if self.patience != patience {
            self.patience = patience;
            self.next = self.since + patience;
        }
    }

    /// A slot was taken, or there was none.
    pub(crate) fn put_off(&mut self) {
        self.since = Instant::now();
        self.next = self.since + self.patience;
    }

    /// Whether the free slots help now.
    pub(crate) fn is_due(&self) -> bool {
        self.since.elapsed() >= self.patience
    }

    /// Waits until they are to be dealt out again. Cancel safe.
    pub(crate) async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = Instant::now() + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slots_help_after_a_while_in_which_nobody_wanted_them() {
        let mut lending = Lending::new();
        lending.left_to_lease(false);
        assert!(!lending.is_due());
        lending.tick().await;
        assert!(lending.is_due());
        lending.put_off();
        assert!(!lending.is_due());
        let began = Instant::now();
        lending.left_to_lease(true);
        lending.tick().await;
        assert!(lending.is_due() && began.elapsed() >= UNANSWERED);
    }
}

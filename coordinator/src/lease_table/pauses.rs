//! Pauses: times in which no worker may send a request to the origin. No I/O, no clock.
//!
//! Invariant: a pause moves the time of the last progress of each class and session forward by its
//! length. The timers are not reset, so several pauses delay the timeouts for missing progress by
//! their sum.

use std::time::Duration;

use tokio::time::Instant;

use super::LeaseTable;

impl LeaseTable {
    /// Called once a second. `is_paused`: no worker may send requests to the origin now; the time
    /// since the last call then counts as a pause.
    pub(super) fn note_pause(&mut self, is_paused: bool, now: Instant) {
        let last_call = self.last_pause_check.replace(now).unwrap_or(now);
        if !is_paused {
            return;
        }
        let time = now.saturating_duration_since(last_call);
        for session in self.sessions.by_id.values_mut() {
            session.last_progress = later(session.last_progress, time, now);
            for held in session.leases.values_mut() {
                held.pause(time, now);
            }
        }
        for attempt in self.attempts.of.values_mut() {
            attempt.holding.pause(time, now);
        }
    }
}

/// An instant moved by the length of a pause, but not into the future.
pub(super) fn later(instant: Instant, pause: Duration, now: Instant) -> Instant {
    (instant + pause).min(now.max(instant))
}

//! The time during which this process was running, for the expiry of leases. No I/O, no clock.
//!
//! A process that was stopped (SIGSTOP, a paused container), or blocked by its disk or by CPU
//! contention, has not read what its workers sent meanwhile; it handles these messages after it
//! continues. This time must not count as the workers' silence. The owner reads the clock at each
//! event, and there is one every second; a longer step counts as an absence.

use std::time::Duration;

use tokio::time::Instant;

/// The longest step between two readings that counts in full. The dispatcher has a tick every
/// second.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// The clock minus the absences of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningTime {
    last: Instant,
    absent: Duration,
}

impl RunningTime {
    /// Starts at the real time `now`.
    pub(crate) fn starting_at(now: Instant) -> Self {
        Self {
            last: now,
            absent: Duration::ZERO,
        }
    }

    /// The running time at the current real time `now`.
    pub(crate) fn at(&mut self, now: Instant) -> Instant {
        let step = now.saturating_duration_since(self.last);
        self.last += step;
        self.absent += step.saturating_sub(LONGEST_STEP);
        self.last - self.absent
    }

    /// The sum of all absences.
    pub(crate) fn absent(&self) -> Duration {
        self.absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_gaps_between_readings_are_excluded() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut time = RunningTime::starting_at(start);
        assert_eq!(time.at(start + second), start + second);
        assert_eq!(
            time.at(start + 3 * second),
            start + 3 * second,
            "a tick that is one second late counts in full"
        );
        assert_eq!(
            time.at(start + 93 * second),
            start + 5 * second,
            "an absence of 90 s counts as 2 s"
        );
        assert_eq!(time.absent(), 88 * second);
        assert_eq!(time.at(start + 94 * second), start + 6 * second);
        assert_eq!(
            time.at(start + 93 * second),
            start + 6 * second,
            "the running time never decreases"
        );
        assert_eq!(time.at(start + 95 * second), start + 7 * second);
    }
}

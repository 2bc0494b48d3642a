//! The time during which this process was running, for the expiry of leases. No I/O, no clock.
//!
//! A process that was stopped (SIGSTOP, a paused container), or blocked by its disk or by CPU
//! contention, has not read what its workers sent meanwhile; it handles these messages after it
//! continues. This time must not count as the workers' silence. The owner reads the clock at each
//! event, and there is one every second; a longer step counts as an absence.

use std::time::{Duration, SystemTime};

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

/// Converts the running time to the time of day. The same moment keeps its time of day until the
/// two clocks differ by more than [`MAX_DIFFERENCE`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeOfDay {
    running: Instant,
    time_of_day: SystemTime,
}

/// After a larger difference (an absence of this process, a clock that was set) moments are
/// converted anew.
const MAX_DIFFERENCE: Duration = Duration::from_secs(1);

impl TimeOfDay {
    /// Starts with the present moment on both clocks.
    pub(crate) fn starting_at(running: Instant, time_of_day: SystemTime) -> Self {
        Self {
            running,
            time_of_day,
        }
    }

    /// Compares the clocks at the present moment.
    pub(crate) fn follow(&mut self, running: Instant, time_of_day: SystemTime) {
        let expected = self.of(running);
        let difference = match time_of_day.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if difference > MAX_DIFFERENCE {
            *self = Self::starting_at(running, time_of_day);
        }
    }

    /// The time of day of a moment.
    pub(crate) fn of(&self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.running) {
            Some(after) => self.time_of_day + after,
            None => self.time_of_day - self.running.duration_since(moment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_keeps_its_time_of_day_while_the_clocks_agree() {
        let start = Instant::now();
        let noon = SystemTime::UNIX_EPOCH + Duration::from_hours(12);
        let second = Duration::from_secs(1);
        let mut clock = TimeOfDay::starting_at(start + second, noon);
        assert_eq!(clock.of(start), noon - second);
        assert_eq!(clock.of(start + 3 * second), noon + 2 * second);
        clock.follow(start + 3 * second, noon + 2 * second + second / 2);
        assert_eq!(clock.of(start), noon - second);
        clock.follow(start + 4 * second, noon + 93 * second);
        assert_eq!(clock.of(start + 4 * second), noon + 93 * second);
        clock.follow(start + 5 * second, noon);
        assert_eq!(clock.of(start + 5 * second), noon, "the clock was set back");
    }

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

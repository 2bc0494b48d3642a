//! Time that this process has lived through, on the clock by which leases run out. Pure.
//!
//! A process that was stopped (SIGSTOP, a paused container), or whose disk or processors kept it waiting, has not heard what
//! its workers sent meanwhile: it handles that after it goes on. So the time in which it stood still must not count as their
//! silence. The owner looks at the clock at each event, and there is one every second: a longer step is an absence.

use std::time::Duration;

use tokio::time::Instant;

/// The longest step between two looks that counts in full: the dispatcher has a tick every second.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// The real clock without the absences of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningTime {
    last: Instant,
    absent: Duration,
}

impl RunningTime {
    /// Begins at the real time.
    pub(crate) fn starting_at(now: Instant) -> Self {
        Self { last: now, absent: Duration::ZERO }
    }

    /// The running time at this real time, which is now.
    pub(crate) fn at(&mut self, now: Instant) -> Instant {
        let step = now.saturating_duration_since(self.last);
        self.last += step;
        self.absent += step.saturating_sub(LONGEST_STEP);
        self.last - self.absent
    }

    /// All absences so far.
    pub(crate) fn absent(&self) -> Duration {
        self.absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_between_two_distant_looks_is_left_out() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut time = RunningTime::starting_at(start);
        assert_eq!(time.at(start + second), start + second);
        assert_eq!(time.at(start + 3 * second), start + 3 * second, "a tick that is a second late counts");
        assert_eq!(time.at(start + 93 * second), start + 5 * second, "stood still for a minute and a half");
        assert_eq!(time.absent(), 88 * second);
        assert_eq!(time.at(start + 94 * second), start + 6 * second);
        assert_eq!(time.at(start + 93 * second), start + 6 * second, "never goes back");
        assert_eq!(time.at(start + 95 * second), start + 7 * second);
    }
}

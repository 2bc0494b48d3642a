//! Rate-limited logging: limits log lines that unauthenticated clients can cause, to a few per
//! minute.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum number of lines in each [`PERIOD`].
const MAX_LINES: u32 = 5;
const PERIOD: Duration = Duration::from_mins(1);

/// Counts the lines of the current period.
#[derive(Debug, Default)]
pub(super) struct LogLimiter {
    since: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// Whether a line may be logged now. If so, returns how many were suppressed before it.
    pub(super) fn may_log(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now - since >= PERIOD) {
            (self.since, self.logged) = (Some(now), 0);
        }
        if self.logged == MAX_LINES {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_suppressed_and_counted() {
        let mut limiter = LogLimiter::default();
        let start = Instant::now();
        let logged = (0..1000)
            .filter_map(|_| limiter.may_log(start))
            .collect::<Vec<_>>();
        assert_eq!(logged, [0; 5]);
        assert_eq!(limiter.may_log(start + PERIOD), Some(995));
        assert_eq!(limiter.may_log(start + PERIOD), Some(0));
    }
}

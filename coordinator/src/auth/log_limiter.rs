//! Says when something that strangers can bring about as often as they like may be told: a few times a minute.

use std::time::Duration;

use tokio::time::Instant;

/// Lines in each [`PERIOD`].
const LINES: u32 = 5;
const PERIOD: Duration = Duration::from_mins(1);

/// What was told lately.
#[derive(Debug, Default)]
pub(super) struct Sparing {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Sparing {
    /// Whether this may be told; then, how many before it were not.
    pub(super) fn may_tell(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now - since >= PERIOD) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told == LINES {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_told_a_few_times_a_minute_and_counted() {
        let (mut sparing, start) = (Sparing::default(), Instant::now());
        let told = (0..1000).filter_map(|_| sparing.may_tell(start)).collect::<Vec<_>>();
        assert_eq!(told, [0; 5]);
        assert_eq!(sparing.may_tell(start + PERIOD), Some(995));
        assert_eq!(sparing.may_tell(start + PERIOD), Some(0));
    }
}

//! The uncertainty of the estimated time left: the range of the ends that were predicted lately.
//! Pure.
//!
//! Each estimate predicts an end. Where the throughput is steady, all predict the same one; where
//! it changes, they differ by what the estimate may be wrong. The estimates of the last quarter of
//! the time left count, but of at least a minute and at most half an hour.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Estimates of the same interval count as one range.
const INTERVAL: Duration = Duration::from_secs(15);
const SHORTEST: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_mins(30);

/// The earliest and the latest end that were predicted in an interval.
#[derive(Debug, Clone, Copy)]
struct Range {
    since: Instant,
    earliest: Instant,
    latest: Instant,
}

/// The ends that were predicted lately; at most 121 ranges.
#[derive(Debug, Default)]
pub(super) struct EndRange {
    ranges: VecDeque<Range>,
}

impl EndRange {
    /// Adds an estimate. Without one (no bytes arrive) the earlier ones no longer count.
    pub(super) fn add(&mut self, left: Option<Duration>, now: Instant) {
        let Some(end) = left.and_then(|left| now.checked_add(left)) else {
            self.ranges.clear();
            return;
        };
        match self.ranges.back_mut() {
            Some(last) if now - last.since < INTERVAL => {
                last.earliest = last.earliest.min(end);
                last.latest = last.latest.max(end);
            }
            _ => self.ranges.push_back(Range {
                since: now,
                earliest: end,
                latest: end,
            }),
        }
        while self
            .ranges
            .front()
            .is_some_and(|first| now - first.since > LONGEST)
        {
            self.ranges.pop_front();
        }
    }

    /// The lowest and the highest time left, around an estimate of now.
    pub(super) fn around(&self, left: Duration, now: Instant) -> (Duration, Duration) {
        let window = (left / 4).clamp(SHORTEST, LONGEST);
        let recent = self.ranges.iter().rev();
        let recent = recent.take_while(|range| now - range.since <= window);
        recent.fold((left, left), |(low, high), range| {
            (
                low.min(range.earliest.saturating_duration_since(now)),
                high.max(range.latest.saturating_duration_since(now)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_steady_estimate_has_no_range_and_a_changing_one_has() {
        let start = Instant::now();
        let mut ends = EndRange::default();
        for second in 0..100 {
            let left = Duration::from_secs(1000 - u64::from(second));
            ends.add(Some(left), start + SECOND * second);
        }
        let now = start + SECOND * 100;
        let left = Duration::from_mins(15);
        assert_eq!(ends.around(left, now), (left, left));
        ends.add(Some(Duration::from_mins(20)), now);
        let later = now + SECOND;
        ends.add(Some(Duration::from_mins(10)), later);
        let left = Duration::from_secs(700);
        let range = (Duration::from_mins(10), Duration::from_secs(1199));
        assert_eq!(ends.around(left, later), range);
    }

    #[test]
    fn an_old_estimate_no_longer_counts_and_a_stall_ends_all() {
        let start = Instant::now();
        let mut ends = EndRange::default();
        ends.add(Some(Duration::from_secs(5000)), start);
        let now = start + Duration::from_mins(2);
        let left = Duration::from_secs(100);
        assert_eq!(ends.around(left, now), (left, left), "a minute counts");
        let long = Duration::from_mins(50);
        assert_eq!(ends.around(long, now).1, Duration::from_secs(4880));
        ends.add(None, now);
        assert_eq!(ends.around(long, now), (long, long));
        for second in 0..100_000 {
            ends.add(Some(left), now + SECOND * second);
        }
        assert!(ends.ranges.len() <= 121, "{}", ends.ranges.len());
    }
}

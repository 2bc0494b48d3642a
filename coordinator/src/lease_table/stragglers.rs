//! Which transfers hold up the end of a job: how fast a class usually comes, and how far behind that one is. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::leases::Holding;

/// So many of the last finished classes say how fast classes come.
const REMEMBERED: usize = 101;
/// Fewer say nothing.
const ENOUGH: usize = 5;
/// A transfer straggles when what is left of it takes so many times as long as the whole class elsewhere.
const FACTOR: f64 = 2.0;

/// How fast the last finished classes came, from their grant to their report, in bytes per second.
#[derive(Debug, Default)]
pub(super) struct Speeds(VecDeque<f64>);

impl Speeds {
    /// A class of so many bytes has come within a time.
    pub(super) fn note(&mut self, bytes: u64, took: Duration) {
        if bytes == 0 || took.is_zero() {
            return;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(float(bytes) / took.as_secs_f64());
    }

    /// The middle of them; `None` while there are too few.
    pub(super) fn median(&self) -> Option<f64> {
        let mut speeds: Vec<f64> = self.0.iter().copied().collect();
        speeds.sort_unstable_by(f64::total_cmp);
        (speeds.len() >= ENOUGH).then(|| speeds[speeds.len() / 2])
    }
}

/// How long a transfer takes yet, if it straggles: `Duration::MAX` for one that stands still. `median`: see [`Speeds`];
/// without it only those count that stand still.
///
/// The time to live of a lease is the measure of patience: workers say three times in it where they are.
pub(super) fn time_left(held: &Holding, median: Option<f64>, patience: Duration, now: Instant) -> Option<Duration> {
    if held.length == 0 {
        return None;
    }
    if now - held.since >= patience {
        return Some(Duration::MAX);
    }
    let (began, first) = held.first?;
    let (watched, came) = (held.named - began, held.bytes.saturating_sub(first));
    if watched < patience / 2 || came == 0 {
        return None;
    }
    let speed = float(came) / watched.as_secs_f64();
    let left = float(held.length.saturating_sub(held.bytes)) / speed;
    let elsewhere = float(held.length) / median?;
    let straggles = left >= FACTOR * elsewhere && left > patience.as_secs_f64();
    straggles.then(|| Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn speeds(all: &[u64]) -> Speeds {
        let mut speeds = Speeds::default();
        for bytes in all {
            speeds.note(*bytes, Duration::from_secs(1));
        }
        speeds
    }

    /// A transfer that was seen at these positions, ten seconds apart.
    fn seen(length: u64, positions: &[u64], start: Instant) -> (Holding, Instant) {
        let mut held = Holding::granted(start, true);
        let mut now = start;
        for bytes in positions {
            now += TTL / 3;
            held.name(*bytes, length, now);
        }
        (held, now)
    }

    #[test]
    fn a_few_odd_ones_do_not_move_the_middle() {
        assert_eq!(speeds(&[10, 10, 10, 10]).median(), None, "too few");
        assert_eq!(speeds(&[10, 1_000_000, 11, 1, 12]).median(), Some(11.0));
        let mut many = speeds(&[1; REMEMBERED]);
        for _ in 0..=REMEMBERED / 2 {
            many.note(500, Duration::from_secs(1));
        }
        assert_eq!((many.median(), many.0.len()), (Some(500.0), REMEMBERED), "the latest count");
        many.note(0, Duration::ZERO);
        assert_eq!(many.0.len(), REMEMBERED);
    }

    #[test]
    fn what_takes_twice_as_long_as_a_whole_class_elsewhere_straggles() {
        let start = Instant::now();
        // 10 bytes a second are left with 9,800 bytes.
        let (held, now) = seen(10_000, &[0, 100, 200], start);
        assert_eq!(time_left(&held, Some(1000.0), TTL, now), Some(Duration::from_secs(980)));
        assert_eq!(time_left(&held, Some(21.0), TTL, now), Some(Duration::from_secs(980)));
        assert_eq!(time_left(&held, Some(20.0), TTL, now), None, "a copy would take 500 s");
        assert_eq!(time_left(&held, None, TTL, now), None, "nobody knows how long a copy would take");
        let (held, now) = seen(10_000, &[0, 4000, 8000], start);
        assert_eq!(time_left(&held, Some(1e9), TTL, now), None, "it is done in five seconds");
    }

    #[test]
    fn nobody_is_judged_by_a_moment_or_by_what_was_there_before() {
        let start = Instant::now();
        let (held, now) = seen(1_000_000, &[10], start);
        assert_eq!(time_left(&held, Some(1e6), TTL, now), None, "seen once");
        let (held, now) = seen(1_000_000, &[10, 20], start);
        assert_eq!(time_left(&held, Some(1e6), TTL, now), None, "watched for ten seconds");
        // Went on at a checkpoint: what comes now counts.
        let (held, now) = seen(1_000_000, &[900_000, 900_100, 900_200], start);
        assert_eq!(time_left(&held, Some(1e6), TTL, now), Some(Duration::from_secs(9980)));
        // Began anew, fast: the slow version before it is forgotten.
        let (held, now) = seen(1_000_000, &[10, 20, 30, 0, 400_000, 800_000], start);
        assert_eq!(time_left(&held, Some(1e6), TTL, now), None);
    }

    #[test]
    fn what_stands_still_for_a_whole_lease_straggles_if_its_length_is_known() {
        let start = Instant::now();
        let (held, now) = seen(1000, &[10, 10, 10], start);
        assert_eq!(time_left(&held, None, TTL, now), None, "for twenty seconds");
        let (held, now) = seen(1000, &[10, 10, 10, 10], start);
        assert_eq!(time_left(&held, None, TTL, now), Some(Duration::MAX));
        let (held, now) = seen(0, &[0, 0, 0, 0, 0], start);
        assert_eq!(time_left(&held, Some(1e9), TTL, now), None, "it waits for the origin, or has a result");
    }
}

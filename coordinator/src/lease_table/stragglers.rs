//! Stragglers: finds the transfers that delay the end of a job, by comparing their remaining time
//! with the usual time for a class. No I/O, no clock.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::leases::LeaseProgress;

/// Number of the last completed classes whose speeds are kept.
const MAX_SPEEDS: usize = 101;
/// Minimum number of speeds for a median.
const MIN_SPEEDS: usize = 5;
/// A transfer is a straggler if its remaining time is this many times as long as a whole class
/// takes on another worker.
const FACTOR: f64 = 2.0;

/// Speeds of the last completed classes, from the grant to the report, in bytes per second.
#[derive(Debug, Default)]
pub(super) struct Speeds(VecDeque<f64>);

impl Speeds {
    /// Records a class of so many bytes that was received within a time.
    pub(super) fn note(&mut self, bytes: u64, took: Duration) {
        if bytes == 0 || took.is_zero() {
            return;
        }
        if self.0.len() == MAX_SPEEDS {
            self.0.pop_front();
        }
        self.0.push_back(float(bytes) / took.as_secs_f64());
    }

    /// The median speed; `None` while there are too few.
    pub(super) fn median(&self) -> Option<f64> {
        let mut speeds: Vec<f64> = self.0.iter().copied().collect();
        speeds.sort_unstable_by(f64::total_cmp);
        (speeds.len() >= MIN_SPEEDS).then(|| speeds[speeds.len() / 2])
    }
}

/// Remaining time of a transfer, if it is a straggler; `Duration::MAX` if it makes no progress.
/// `median`: the median of [`Speeds`]. Without it, only transfers without progress are stragglers.
///
/// `patience` is the time to live of a lease: workers report their progress three times within it.
pub(super) fn time_left(
    held: &LeaseProgress,
    median: Option<f64>,
    patience: Duration,
    now: Instant,
) -> Option<Duration> {
    if held.length == 0 {
        return None;
    }
    if now - held.since >= patience {
        return Some(Duration::MAX);
    }
    let (began, first) = held.first?;
    let measured = held.named - began;
    let received = held.bytes.saturating_sub(first);
    if measured < patience / 2 || received == 0 {
        return None;
    }
    let speed = float(received) / measured.as_secs_f64();
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
    use shared::ids::LeaseToken;

    use super::*;
    use crate::lease_table::{Lease, ReportedLease};

    const TTL: Duration = Duration::from_secs(30);

    fn speeds(all: &[u64]) -> Speeds {
        let mut speeds = Speeds::default();
        for bytes in all {
            speeds.note(*bytes, Duration::from_secs(1));
        }
        speeds
    }

    /// A transfer whose heartbeats reported these offsets, ten seconds apart.
    fn seen(length: u64, positions: &[u64], start: Instant) -> (LeaseProgress, Instant) {
        let mut held = LeaseProgress::granted(start, true);
        let mut now = start;
        for bytes in positions {
            now += TTL / 3;
            let reported = ReportedLease {
                lease: Lease {
                    wnid: "n00000001".parse().unwrap(),
                    token: LeaseToken::first(1),
                },
                bytes: *bytes,
                length,
                is_local: false,
            };
            held.name(&reported, now);
        }
        (held, now)
    }

    #[test]
    fn a_few_outliers_do_not_change_the_median() {
        assert_eq!(speeds(&[10, 10, 10, 10]).median(), None, "too few");
        assert_eq!(speeds(&[10, 1_000_000, 11, 1, 12]).median(), Some(11.0));
        let mut many = speeds(&[1; MAX_SPEEDS]);
        for _ in 0..=MAX_SPEEDS / 2 {
            many.note(500, Duration::from_secs(1));
        }
        assert_eq!(
            (many.median(), many.0.len()),
            (Some(500.0), MAX_SPEEDS),
            "only the latest speeds are used"
        );
        many.note(0, Duration::ZERO);
        assert_eq!(many.0.len(), MAX_SPEEDS);
    }

    #[test]
    fn a_transfer_with_twice_the_time_of_a_whole_class_left_is_a_straggler() {
        let start = Instant::now();
        // At 10 bytes a second, 9,800 bytes remain.
        let (held, now) = seen(10_000, &[0, 100, 200], start);
        assert_eq!(
            time_left(&held, Some(1000.0), TTL, now),
            Some(Duration::from_secs(980))
        );
        assert_eq!(
            time_left(&held, Some(21.0), TTL, now),
            Some(Duration::from_secs(980))
        );
        assert_eq!(
            time_left(&held, Some(20.0), TTL, now),
            None,
            "an attempt would take 500 s"
        );
        assert_eq!(
            time_left(&held, None, TTL, now),
            None,
            "the speed of other workers is not known"
        );
        let (held, now) = seen(10_000, &[0, 4000, 8000], start);
        assert_eq!(
            time_left(&held, Some(1e9), TTL, now),
            None,
            "it completes in five seconds"
        );
    }

    #[test]
    fn the_speed_is_measured_over_half_a_lease_and_only_from_newly_received_bytes() {
        let start = Instant::now();
        let (held, now) = seen(1_000_000, &[10], start);
        assert_eq!(time_left(&held, Some(1e6), TTL, now), None, "seen once");
        let (held, now) = seen(1_000_000, &[10, 20], start);
        assert_eq!(
            time_left(&held, Some(1e6), TTL, now),
            None,
            "measured for ten seconds"
        );
        // Resumed at a checkpoint: only bytes received since then are measured.
        let (held, now) = seen(1_000_000, &[900_000, 900_100, 900_200], start);
        assert_eq!(
            time_left(&held, Some(1e6), TTL, now),
            Some(Duration::from_secs(9980))
        );
        // Restarted from the beginning, and fast: the slow progress before is discarded.
        let (held, now) = seen(1_000_000, &[10, 20, 30, 0, 400_000, 800_000], start);
        assert_eq!(time_left(&held, Some(1e6), TTL, now), None);
    }

    #[test]
    fn a_transfer_without_progress_for_a_whole_lease_is_a_straggler_if_its_length_is_known() {
        let start = Instant::now();
        let (held, now) = seen(1000, &[10, 10, 10], start);
        assert_eq!(time_left(&held, None, TTL, now), None, "for twenty seconds");
        let (held, now) = seen(1000, &[10, 10, 10, 10], start);
        assert_eq!(time_left(&held, None, TTL, now), Some(Duration::MAX));
        let (held, now) = seen(0, &[0, 0, 0, 0, 0], start);
        assert_eq!(
            time_left(&held, Some(1e9), TTL, now),
            None,
            "it waits for the origin, or has a result"
        );
    }
}

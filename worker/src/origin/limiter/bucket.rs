//! `TokenBucket`: a token bucket that limits the bytes per second over all transfers of this process.
//! No I/O, no clock.
//!
//! Each transfer that has received bytes gets its position in the total count of received bytes. It
//! continues when the rate has allowed that many bytes.

use std::time::Duration;

use tokio::time::Instant;

/// Unused rate is kept for at most this long, so that timers that fire late do not lower the
/// throughput.
const BURST: Duration = Duration::from_millis(50);

/// The rate limit of one process and the bytes received so far.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Bytes per second; `None`: unlimited.
    rate: Option<u64>,
    /// Bytes received above the rate. A negative value is the number of bytes that may be received
    /// at once.
    debt: f64,
    /// The time at which `debt` was last updated.
    at: Instant,
    /// Total number of bytes received.
    spent: u64,
}

/// A position in the total count of received bytes. The transfer that holds it waits until the rate
/// has allowed all bytes up to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place(u64);

impl TokenBucket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rate: None,
            debt: 0.0,
            at: now,
            spent: 0,
        }
    }

    /// Sets the rate in bytes per second.
    pub(super) fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        self.settle(now);
        if self.rate.is_none() || rate.is_none() {
            self.debt = 0.0;
        }
        self.rate = rate;
    }

    /// The rate in bytes per second; `None`: unlimited.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Whether the rate is limited.
    pub(super) fn has_rate(&self) -> bool {
        self.rate.is_some()
    }

    /// Counts received bytes; returns the position after them.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) -> Place {
        self.settle(now);
        self.spent += bytes;
        if self.rate.is_some() {
            self.debt += number(bytes);
        }
        Place(self.spent)
    }

    /// The position for a transfer that begins now: after all bytes received so far.
    pub(super) fn end(&self) -> Place {
        Place(self.spent)
    }

    /// How long a transfer with this position waits before it may receive more bytes.
    pub(super) fn wait(&mut self, Place(place): Place, now: Instant) -> Duration {
        self.settle(now);
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let debt = self.debt - number(self.spent - place);
        Duration::try_from_secs_f64(debt / number(rate.max(1))).unwrap_or(Duration::ZERO)
    }

    fn settle(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        if let Some(rate) = self.rate.map(number) {
            self.debt = (self.debt - rate * passed.as_secs_f64()).max(-rate * BURST.as_secs_f64());
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of some seconds")]
fn number(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Simulates `transfers` that each receive `chunk` bytes whenever the bucket permits; returns
    /// the bytes received in the time `over`.
    fn received(
        bucket: &mut TokenBucket,
        transfers: usize,
        chunk: u64,
        start: Instant,
        over: Duration,
    ) -> u64 {
        let mut places = vec![Place::default(); transfers];
        let mut now = start;
        let mut bytes = 0;
        while now < start + over {
            for place in &mut places {
                if bucket.wait(*place, now).is_zero() {
                    *place = bucket.spend(chunk, now);
                    bytes += chunk;
                }
            }
            now += Duration::from_millis(1);
        }
        bytes
    }

    #[test]
    fn the_rate_holds_for_any_chunk_size_and_number_of_transfers() {
        for (transfers, chunk) in [(1, 1000), (1, 300_000), (10, 16_384), (100, 64)] {
            let now = Instant::now();
            let mut bucket = TokenBucket::new(now);
            bucket.set_rate(Some(1_000_000), now);
            let bytes = received(&mut bucket, transfers, chunk, now, 10 * SECOND);
            let most = 10_000_000 + 50_000 + transfers as u64 * chunk;
            assert!(
                (9_900_000..=most).contains(&bytes),
                "{transfers} of {chunk}: {bytes}"
            );
        }
    }

    #[test]
    fn unused_rate_is_kept_for_fifty_milliseconds() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(now);
        bucket.set_rate(Some(1_000_000), now);
        let later = now + 60 * SECOND;
        assert_eq!(bucket.wait(Place::default(), later), Duration::ZERO);
        let place = bucket.spend(150_000, later);
        assert_eq!(bucket.wait(place, later).as_millis(), 100);
    }

    #[test]
    fn transfers_continue_in_the_order_in_which_they_received_bytes() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(now);
        bucket.set_rate(Some(1000), now);
        let places = [1000, 1000, 1000].map(|bytes| bucket.spend(bytes, now));
        assert_eq!(
            places.map(|place| bucket.wait(place, now).as_secs()),
            [1, 2, 3]
        );
        let later = now + 2 * SECOND;
        assert_eq!(
            places.map(|place| bucket.wait(place, later).as_secs()),
            [0, 0, 1]
        );
    }

    #[test]
    fn a_changed_rate_applies_to_waiting_transfers_and_no_rate_means_no_wait() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(now);
        let place = bucket.spend(1 << 40, now);
        assert_eq!(bucket.wait(place, now), Duration::ZERO, "no limit");
        bucket.set_rate(Some(1000), now);
        assert_eq!(
            bucket.wait(place, now),
            Duration::ZERO,
            "bytes received before the limit do not count"
        );
        let place = bucket.spend(10_000, now);
        assert_eq!(bucket.wait(place, now).as_secs(), 10);
        bucket.set_rate(Some(10_000), now);
        assert_eq!(bucket.wait(place, now).as_secs(), 1);
        bucket.set_rate(None, now);
        assert_eq!(bucket.wait(place, now), Duration::ZERO);
    }
}

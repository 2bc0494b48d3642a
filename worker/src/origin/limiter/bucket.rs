//! `Bucket`: how fast bytes may come, over all transfers of this process. Pure.
//!
//! Whoever has received bytes is told its place in the order in which they came, and goes on when the bytes up to there had time to come.

use std::time::Duration;

use tokio::time::Instant;

/// What was not used may be made up for by this much, so that late timers cost nothing.
const BURST: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes a second; `None`: as many as come.
    rate: Option<u64>,
    /// Bytes that came faster than they may; below zero: that may come at once.
    debt: f64,
    /// As of then.
    at: Instant,
    /// Bytes that have come.
    spent: u64,
}

/// Up to where bytes must have had time to come before the next may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: None, debt: 0.0, at: now, spent: 0 }
    }

    /// From now on so many bytes a second.
    pub(super) fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        self.settle(now);
        if self.rate.is_none() || rate.is_none() {
            self.debt = 0.0;
        }
        self.rate = rate;
    }

    /// So many bytes have come.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) -> Place {
        self.settle(now);
        self.spent += bytes;
        if self.rate.is_some() {
            self.debt += number(bytes);
        }
        Place(self.spent)
    }

    /// The place of whoever begins now: behind all that has come.
    pub(super) fn end(&self) -> Place {
        Place(self.spent)
    }

    /// For how long to wait at a place before more bytes may come.
    pub(super) fn wait(&mut self, Place(place): Place, now: Instant) -> Duration {
        self.settle(now);
        let Some(rate) = self.rate else { return Duration::ZERO };
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

    /// Receives chunks one after the other, each when it may, over so many transfers; gives the bytes of a time.
    fn received(bucket: &mut Bucket, transfers: usize, chunk: u64, start: Instant, over: Duration) -> u64 {
        let mut places = vec![Place::default(); transfers];
        let (mut now, mut bytes) = (start, 0);
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
    fn the_rate_is_kept_whatever_comes_at_once_and_over_however_many_transfers() {
        for (transfers, chunk) in [(1, 1000), (1, 300_000), (10, 16_384), (100, 64)] {
            let now = Instant::now();
            let mut bucket = Bucket::new(now);
            bucket.set_rate(Some(1_000_000), now);
            let bytes = received(&mut bucket, transfers, chunk, now, 10 * SECOND);
            let most = 10_000_000 + 50_000 + transfers as u64 * chunk;
            assert!((9_900_000..=most).contains(&bytes), "{transfers} of {chunk}: {bytes}");
        }
    }

    #[test]
    fn what_was_not_used_is_made_up_for_by_a_twentieth_of_a_second_only() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        bucket.set_rate(Some(1_000_000), now);
        let later = now + 60 * SECOND;
        assert_eq!(bucket.wait(Place::default(), later), Duration::ZERO);
        let place = bucket.spend(150_000, later);
        assert_eq!(bucket.wait(place, later).as_millis(), 100);
    }

    #[test]
    fn transfers_go_on_in_the_order_in_which_their_bytes_came() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        bucket.set_rate(Some(1000), now);
        let places = [1000, 1000, 1000].map(|bytes| bucket.spend(bytes, now));
        assert_eq!(places.map(|place| bucket.wait(place, now).as_secs()), [1, 2, 3]);
        let later = now + 2 * SECOND;
        assert_eq!(places.map(|place| bucket.wait(place, later).as_secs()), [0, 0, 1]);
    }

    #[test]
    fn another_rate_counts_for_those_who_wait_too_and_none_holds_nobody_back() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        let place = bucket.spend(1 << 40, now);
        assert_eq!(bucket.wait(place, now), Duration::ZERO, "without a limit");
        bucket.set_rate(Some(1000), now);
        assert_eq!(bucket.wait(place, now), Duration::ZERO, "what came before the limit");
        let place = bucket.spend(10_000, now);
        assert_eq!(bucket.wait(place, now).as_secs(), 10);
        bucket.set_rate(Some(10_000), now);
        assert_eq!(bucket.wait(place, now).as_secs(), 1);
        bucket.set_rate(None, now);
        assert_eq!(bucket.wait(place, now), Duration::ZERO);
    }
}

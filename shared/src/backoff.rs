//! Exponential backoff with full jitter: the wait before another attempt. No I/O, no clock.
//!
//! Full jitter, a uniform choice between zero and the exponential bound, spreads clients that
//! failed at the same time best; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
//! Existing crates instead add jitter to the exponential bound and draw the random number
//! themselves.

use std::time::Duration;

/// Bounds of an exponential backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first wait.
    pub base: Duration,
    /// Upper limit for each wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait before retry number `retry` (the first is 0). `random` is drawn by the caller,
    /// uniformly from 0.0 to 1.0.
    pub fn delay(&self, retry: u32, random: f64) -> Duration {
        let bound = self
            .base
            .saturating_mul(2_u32.saturating_pow(retry))
            .min(self.cap);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(500),
        cap: Duration::from_secs(30),
    };

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let bounds: Vec<_> = [0, 1, 2, 5, 6, 31, u32::MAX]
            .map(|retry| BACKOFF.delay(retry, 1.0).as_millis())
            .into();
        assert_eq!(bounds, [500, 1000, 2000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn jitter_is_full_and_a_draw_out_of_range_is_clamped() {
        assert_eq!(BACKOFF.delay(3, 0.0), Duration::ZERO);
        assert_eq!(BACKOFF.delay(3, 0.25), Duration::from_secs(1));
        assert_eq!(BACKOFF.delay(3, 7.0), Duration::from_secs(4));
    }
}

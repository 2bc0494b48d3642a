//! The speed of the main connection, and whether the origin or this process limits it. Pure.

use std::time::Duration;

/// Bytes needed for an estimate of the speed.
const SAMPLE: u64 = 256 << 10;

/// Measurements of the main connection.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    bytes: u64,
    /// Total time waited for the origin.
    waited: Duration,
    /// Total time spent on unpacking.
    busy: Duration,
}

impl Speed {
    /// Records bytes that arrived after a wait.
    pub(crate) fn received(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
    }

    /// Records the time that unpacking the last bytes took.
    pub(crate) fn unpacked(&mut self, busy: Duration) {
        self.busy += busy;
    }

    /// Bytes per second while waiting for the origin only. `None` before enough bytes have arrived,
    /// and if unpacking takes longer than receiving: more connections would then only fill more
    /// buffers.
    pub(crate) fn of_origin(&self) -> Option<u64> {
        if self.bytes < SAMPLE || self.busy > self.waited {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "rough"
        )]
        let per_second = (self.bytes as f64 / self.waited.as_secs_f64().max(1e-6)) as u64;
        Some(per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn fewer_bytes_than_a_sample_give_no_estimate() {
        let mut speed = Speed::default();
        speed.received(SAMPLE - 1, SECOND);
        assert_eq!(speed.of_origin(), None);
        speed.received(1, SECOND);
        assert_eq!(speed.of_origin(), Some(SAMPLE / 2));
    }

    #[test]
    fn the_speed_is_known_only_while_the_origin_is_slower_than_unpacking() {
        let mut speed = Speed::default();
        speed.received(30_000_000, 3 * SECOND);
        speed.unpacked(2 * SECOND);
        assert_eq!(speed.of_origin(), Some(10_000_000));
        speed.unpacked(2 * SECOND);
        assert_eq!(speed.of_origin(), None, "unpacking is the slower side");
        speed.received(10_000_000, 2 * SECOND);
        assert_eq!(speed.of_origin(), Some(8_000_000));
    }
}

//! How fast the main connection is, and what it is that keeps it from being faster: the origin or this end. Pure.

use std::time::Duration;

/// So many bytes tell how fast it is.
const SAMPLE: u64 = 256 << 10;

/// What the main connection has done so far.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    bytes: u64,
    /// For the origin, in sum.
    waited: Duration,
    /// With what came, in sum.
    busy: Duration,
}

impl Speed {
    /// So many bytes have come after a wait.
    pub(crate) fn received(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
    }

    /// What came is unpacked, which took so long.
    pub(crate) fn unpacked(&mut self, busy: Duration) {
        self.busy += busy;
    }

    /// Bytes that come in a second while nobody is waited for but the origin; `None` where nobody can tell yet, and where
    /// this end takes longer than the origin, so that more connections would only fill more buffers.
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
    fn a_few_bytes_tell_nothing() {
        let mut speed = Speed::default();
        speed.received(SAMPLE - 1, SECOND);
        assert_eq!(speed.of_origin(), None);
        speed.received(1, SECOND);
        assert_eq!(speed.of_origin(), Some(SAMPLE / 2));
    }

    #[test]
    fn more_connections_are_for_an_origin_that_is_slower_than_this_end() {
        let mut speed = Speed::default();
        speed.received(30_000_000, 3 * SECOND);
        speed.unpacked(2 * SECOND);
        assert_eq!(speed.of_origin(), Some(10_000_000));
        speed.unpacked(2 * SECOND);
        assert_eq!(speed.of_origin(), None, "it is this end by now");
        speed.received(10_000_000, 2 * SECOND);
        assert_eq!(speed.of_origin(), Some(8_000_000));
    }
}

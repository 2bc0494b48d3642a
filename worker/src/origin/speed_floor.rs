//! The minimum speed of a connection. No I/O, no clock.

use std::time::Duration;

use crate::origin::download_error::DownloadError;

/// Minimum speed, averaged over half of `--timeout`. A slower connection is abandoned.
const SLOWEST_BYTES_PER_SECOND: f64 = 1024.0;

/// Minimum speed of one connection, averaged over the time spent waiting for the origin. The time
/// spent on the local disk is not included.
#[derive(Debug)]
pub(super) struct SpeedFloor {
    window: Duration,
    waited: Duration,
    received: usize,
}

impl SpeedFloor {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// Begins to measure another connection.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.window);
    }

    /// Counts bytes that were received after a wait; an error if they came too slowly.
    pub(super) fn check(&mut self, bytes: usize, waited: Duration) -> Result<(), DownloadError> {
        self.received += bytes;
        self.waited += waited;
        if self.waited < self.window {
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "compared with a rough floor")]
        let rate = self.received as f64 / self.waited.as_secs_f64();
        self.restart();
        if rate < SLOWEST_BYTES_PER_SECOND {
            return Err(DownloadError::TooSlow { over: self.window });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_speed_is_an_average_over_the_window() {
        let mut floor = SpeedFloor::new(Duration::from_mins(1));
        for _ in 0..59 {
            assert!(floor.check(1, Duration::from_secs(1)).is_ok());
        }
        assert_eq!(
            floor.check(1, Duration::from_secs(1)),
            Err(DownloadError::TooSlow {
                over: Duration::from_mins(1)
            })
        );
        assert!(floor.check(61 << 10, Duration::from_mins(1)).is_ok());
    }
}

//! Counts the attempts to download a tar that made no progress, and waits between them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use shared::backoff::Backoff;
use tokio::time::{Instant, sleep_until};
use url::Url;

use crate::{
    origin::{Origin, download_error::DownloadError, limiter::whole_seconds, retry::retry_delay},
    source::shown,
};

const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(30),
};
/// A longer wait is announced on the screen.
const LONG_WAIT: Duration = Duration::from_mins(1);
/// Progress in bytes beyond the furthest position, or a hundredth of the tar if that is less,
/// resets the count.
const PROGRESS: u64 = 64 << 10;

/// Counts attempts without progress. Progress means bytes beyond the furthest position so far, so
/// an origin that always breaks at the same position, or sends very slowly, cannot occupy a slot
/// for ever.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    without_progress: u32,
    furthest: u64,
    progressed: bool,
}

impl Attempts {
    /// Counts from a position up to which all bytes are here.
    pub(crate) fn starting_at(position: u64) -> Self {
        Self {
            furthest: position,
            ..Self::default()
        }
    }

    /// Records the position up to which bytes were received.
    pub(crate) fn received(&mut self, position: u64, length: Option<u64>) {
        let needed = length
            .map_or(PROGRESS, |length| PROGRESS.min(length / 100))
            .max(1);
        if position >= self.furthest + needed {
            self.furthest = position;
            self.progressed = true;
        }
    }

    /// Waits for the next attempt, or returns the error if it is final.
    pub(crate) async fn wait_or_give_up(
        &mut self,
        error: DownloadError,
        url: &Url,
        retries: u32,
        origin: &Origin,
    ) -> Result<(), DownloadError> {
        let retry = self.next_retry(&error, retries);
        let Some((at_least, retry)) = retry_delay(&error).zip(retry) else {
            return Err(error);
        };
        // After a refusal the limiter admits no request for the given time, which may also end
        // earlier.
        let mut wait = BACKOFF.delay(retry, rand::random());
        if !matches!(
            error,
            DownloadError::Status {
                code: 429 | 503,
                ..
            }
        ) {
            wait = wait.max(at_least);
        }
        tracing::info!(url = %shown(url), position = self.furthest, wait_ms = wait.as_millis(), %error, "trying again");
        if wait > LONG_WAIT {
            let end = humantime::format_rfc3339_seconds(SystemTime::now() + wait);
            tracing::warn!(
                "{error}: the origin asks to wait with {} until {end}",
                shown(url)
            );
        }
        origin.limiter.counters.retries.inc();
        let until = Instant::now() + wait;
        let limiter = Arc::clone(&origin.limiter);
        let _wait = origin.waits.begin(move |now| {
            limiter.reason_of_pause(now).unwrap_or_else(|| {
                let left = whole_seconds(until.saturating_duration_since(now));
                format!("next attempt in {left} s: {error}")
            })
        });
        sleep_until(until).await;
        Ok(())
    }

    /// The number of the next retry, starting at 0; `None` if no retry is left.
    fn next_retry(&mut self, error: &DownloadError, retries: u32) -> Option<u32> {
        if self.progressed && !matches!(error, DownloadError::TooSlow { .. }) {
            self.without_progress = 0;
        }
        self.progressed = false;
        self.without_progress += 1;
        (self.without_progress <= retries).then(|| self.without_progress - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: DownloadError = DownloadError::Cut {
        received: 0,
        length: None,
    };

    #[test]
    fn attempts_without_progress_are_limited() {
        let mut attempts = Attempts::default();
        let left: Vec<_> = (0..4).map(|_| attempts.next_retry(&CUT, 2)).collect();
        assert_eq!(left, [Some(0), Some(1), None, None]);
    }

    #[test]
    fn progress_resets_the_count_and_repeated_bytes_do_not() {
        let mut attempts = Attempts::default();
        attempts.next_retry(&CUT, 2);
        attempts.received(500, Some(1000));
        assert_eq!(attempts.next_retry(&CUT, 2), Some(0));
        attempts.received(500, Some(1000));
        assert_eq!(attempts.next_retry(&CUT, 2), Some(1));
        attempts.received(509, Some(1000));
        assert_eq!(
            attempts.next_retry(&CUT, 2),
            None,
            "nine bytes of a thousand are no progress"
        );
    }

    #[test]
    fn a_transfer_below_the_minimum_speed_never_counts_as_progress() {
        let mut attempts = Attempts::default();
        attempts.received(900, Some(1000));
        assert_eq!(
            attempts.next_retry(
                &DownloadError::TooSlow {
                    over: Duration::ZERO
                },
                0
            ),
            None
        );
    }
}

//! The attempts to download a tar that brought nothing new, and the waits between them.

use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use shared::backoff::Backoff;
use url::Url;

use crate::origin::{
    download_error::DownloadError,
    retry::{Verdict, verdict},
};
use crate::source::shown;

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };
/// A wait that is longer is announced on the screen.
const LONG_WAIT: Duration = Duration::from_mins(1);
/// So much more than ever before, or a hundredth of the tar, counts as progress and renews the attempts.
const PROGRESS: u64 = 64 << 10;

/// Counts attempts without progress. Progress is more than was ever received before, so that an origin which breaks at the
/// same place for ever, or drips, does not hold a slot for ever.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    without_progress: u32,
    furthest: u64,
    progressed: bool,
}

impl Attempts {
    /// Counts from a position on, up to which the bytes are here.
    pub(crate) fn beyond(position: u64) -> Self {
        Self { furthest: position, ..Self::default() }
    }

    /// Notes how far the bytes that came reach.
    pub(crate) fn received(&mut self, position: u64, length: Option<u64>) {
        let needed = length.map_or(PROGRESS, |length| PROGRESS.min(length / 100)).max(1);
        if position >= self.furthest + needed {
            self.furthest = position;
            self.progressed = true;
        }
    }

    /// Waits for the next attempt, or gives the error back when it is final.
    pub(crate) async fn wait_or_give_up(
        &mut self,
        error: DownloadError,
        url: &Url,
        retries: u32,
        made: &Counter,
    ) -> Result<(), DownloadError> {
        let Verdict::Retry { at_least } = verdict(&error) else { return Err(error) };
        let Some(retry) = self.broken(&error, retries) else { return Err(error) };
        let is_refusal = matches!(error, DownloadError::Status { code: 429 | 503, .. });
        // A refusal has shut the gate for its time, which may also end earlier.
        let at_least = at_least.filter(|_| !is_refusal).unwrap_or_default();
        let wait = BACKOFF.delay(retry, rand::random()).max(at_least);
        tracing::info!(url = %shown(url), position = self.furthest, wait_ms = wait.as_millis(), %error, "trying again");
        if wait > LONG_WAIT {
            let end = humantime::format_rfc3339_seconds(SystemTime::now() + wait);
            tracing::warn!("{error}: the origin asks to wait with {} until {end}", shown(url));
        }
        made.inc();
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The number of the retry that is left (the first is 0), if one is.
    fn broken(&mut self, error: &DownloadError, retries: u32) -> Option<u32> {
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

    const CUT: DownloadError = DownloadError::Cut { received: 0, length: None };

    #[test]
    fn attempts_without_progress_run_out() {
        let mut attempts = Attempts::default();
        let left: Vec<_> = (0..4).map(|_| attempts.broken(&CUT, 2)).collect();
        assert_eq!(left, [Some(0), Some(1), None, None]);
    }

    #[test]
    fn progress_renews_them_but_the_same_bytes_again_do_not() {
        let mut attempts = Attempts::default();
        attempts.broken(&CUT, 2);
        attempts.received(500, Some(1000));
        assert_eq!(attempts.broken(&CUT, 2), Some(0));
        attempts.received(500, Some(1000));
        assert_eq!(attempts.broken(&CUT, 2), Some(1));
        attempts.received(509, Some(1000));
        assert_eq!(attempts.broken(&CUT, 2), None, "nine bytes of a thousand are no progress");
    }

    #[test]
    fn a_drip_never_counts_as_progress() {
        let mut attempts = Attempts::default();
        attempts.received(900, Some(1000));
        assert_eq!(attempts.broken(&DownloadError::TooSlow { over: Duration::ZERO }, 0), None);
    }
}

//! The limiter of requests to the origin. Every request passes through one [`OriginLimiter`], and
//! the coordinator's budget decides how many it admits.
//!
//! Counters go to the coordinator as an [`Observation`], and a [`Budget`] comes back. The
//! coordinator chooses the budget; the limiter enforces it. A lower budget never interrupts a
//! running transfer: the transfer is not replaced when it ends.

use std::time::Duration;

mod bucket;
mod first_failure;
mod origin_limiter;
mod permits;
mod transfer;

pub(crate) use origin_limiter::{OriginLimiter, Permit};
pub(crate) use permits::Priority;
pub(crate) use transfer::Transfer;

/// A remaining time in seconds, rounded up.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Load that this process puts on the origin. Counters run since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Version of the budget in force; 0: none yet.
    pub(crate) budget_version: u64,
    /// Connections that are in use by a request now.
    pub(crate) open: u32,
    /// Open connections that receive a body now.
    pub(crate) flowing: u32,
    /// Demand: connections that this process could use now, the open ones included.
    pub(crate) wanted: u32,
    /// Bytes of response bodies.
    pub(crate) received: u64,
    pub(crate) requests: u64,
    pub(crate) cuts: u64,
    pub(crate) refusals: u64,
    /// Remaining time of the longest `Retry-After` that has not elapsed; zero: none.
    pub(crate) retry_after: Duration,
}

impl Observation {
    /// Whether it equals `other` in all but the remaining `Retry-After`, which changes with time.
    pub(crate) fn is_unchanged_since(&self, other: &Self) -> bool {
        let same_wait = Self {
            retry_after: other.retry_after,
            ..*self
        };
        same_wait == *other
    }
}

/// Limits that the coordinator sets for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) version: u64,
    /// Largest number of connections in use by a request.
    pub(crate) connections: u32,
    /// Rate limit; `None`: unlimited.
    pub(crate) bytes_per_second: Option<u64>,
    /// No request is sent to the origin for this long.
    pub(crate) pause: Duration,
    /// Interval between observations, if they differ.
    pub(crate) observe_every: Duration,
    /// Number of times that waits were ended through the coordinator. A change ends the
    /// `Retry-After` that the origin has sent this process.
    pub(crate) resumed: u64,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::origin::{download_error::DownloadError, redirect::RefusedRedirect};

    /// The counts of cuts and refusals after one failure, and the wait that it starts.
    type Signal = (u64, u64, Duration);
    const NONE: Signal = (0, 0, Duration::ZERO);
    const CUT: Signal = (1, 0, Duration::ZERO);

    #[tokio::test(start_paused = true)]
    async fn each_error_is_a_cut_a_refusal_or_no_overload_signal() {
        let text = String::new;
        let status = |code, retry_after| DownloadError::Status {
            code,
            url: text(),
            retry_after,
        };
        let soon = Duration::from_secs(5);
        for (error, expected) in [
            (status(429, Some(soon)), (0, 1, soon)),
            (status(503, None), (0, 1, Duration::ZERO)),
            (status(500, Some(soon)), NONE),
            (status(404, None), NONE),
            (
                DownloadError::Timeout {
                    after: Duration::ZERO,
                },
                CUT,
            ),
            (
                DownloadError::TooSlow {
                    over: Duration::ZERO,
                },
                CUT,
            ),
            (DownloadError::Connection { why: text() }, CUT),
            (
                DownloadError::Cut {
                    received: 1,
                    length: None,
                },
                CUT,
            ),
            (DownloadError::Certificate { why: text() }, NONE),
            (DownloadError::Scheme { why: text() }, NONE),
            (RefusedRedirect::TooMany.into(), NONE),
            (DownloadError::NotATar { why: text() }, NONE),
            (DownloadError::TooLong { length: 1 }, NONE),
        ] {
            let limiter = OriginLimiter::new(1, Arc::default());
            limiter.failed(&error);
            let Observation {
                cuts,
                refusals,
                retry_after,
                ..
            } = limiter.observation();
            assert_eq!((cuts, refusals, retry_after), expected, "{error}");
        }
    }
}

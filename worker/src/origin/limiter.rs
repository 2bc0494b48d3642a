//! The limiter of requests to the origin. Every request passes through one [`OriginLimiter`], and the
//! coordinator's budget decides how many it admits.
//!
//! Counters go to the coordinator as an [`Observation`], and a [`Budget`] comes back. The
//! coordinator chooses the budget; the limiter enforces it. A lower budget never interrupts a
//! running transfer: the transfer is not replaced when it ends.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

mod bucket;
mod first_failure;
mod origin_limiter;
mod permits;
mod transfer;

pub(crate) use origin_limiter::{OriginLimiter, Permit};
pub(crate) use permits::Priority;
pub(crate) use transfer::Transfer;

use crate::origin::download_error::DownloadError;

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

/// The overload signal in a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OverloadSignal {
    /// No connection, no answer, or a body that was interrupted or stalled.
    Cut,
    /// Status 429 or 503, with the `Retry-After` if the response has one.
    Refusal(Option<Duration>),
}

/// The overload signal of an error; `None` for an error that does not depend on the load.
fn overload_signal(error: &DownloadError) -> Option<OverloadSignal> {
    match error {
        DownloadError::Status {
            code: 429 | 503,
            retry_after,
            ..
        } => Some(OverloadSignal::Refusal(*retry_after)),
        error => error.is_interruption().then_some(OverloadSignal::Cut),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::redirect::RefusedRedirect;

    #[test]
    fn each_error_is_a_cut_a_refusal_or_no_overload_signal() {
        let text = String::new;
        let status = |code, retry_after| DownloadError::Status {
            code,
            url: text(),
            retry_after,
        };
        let soon = Some(Duration::from_secs(5));
        for (error, expected) in [
            (status(429, soon), Some(OverloadSignal::Refusal(soon))),
            (status(503, None), Some(OverloadSignal::Refusal(None))),
            (status(500, soon), None),
            (status(404, None), None),
            (
                DownloadError::Timeout {
                    after: Duration::ZERO,
                },
                Some(OverloadSignal::Cut),
            ),
            (
                DownloadError::TooSlow {
                    over: Duration::ZERO,
                },
                Some(OverloadSignal::Cut),
            ),
            (
                DownloadError::Connection { why: text() },
                Some(OverloadSignal::Cut),
            ),
            (
                DownloadError::Cut {
                    received: 1,
                    length: None,
                },
                Some(OverloadSignal::Cut),
            ),
            (DownloadError::Certificate { why: text() }, None),
            (DownloadError::Scheme { why: text() }, None),
            (RefusedRedirect::TooMany.into(), None),
            (DownloadError::NotATar { why: text() }, None),
            (DownloadError::TooLong { length: 1 }, None),
        ] {
            assert_eq!(overload_signal(&error), expected, "{error}");
        }
    }
}

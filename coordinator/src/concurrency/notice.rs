//! Announcements of the concurrency controller for log and screen. No I/O, no clock.

use std::time::Duration;

use super::LimitCause;

/// A change of the concurrency controller that is shown to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConcurrencyNotice {
    /// Connections failed at the same time.
    #[error(
        "the origin broke {open} connections together: none for {:.1} s, then at most {limit}",
        rest.as_secs_f64()
    )]
    Overload {
        /// Connections that were open.
        open: u32,
        /// Connections that are allowed from now on.
        limit: u32,
        /// No request is sent for this long.
        rest: Duration,
    },
    /// The origin answered with 429 or 503 and `Retry-After`.
    #[error(
        "the origin refuses requests (429 or 503) and asks to wait: no request for {:.1} s",
        rest.as_secs_f64()
    )]
    Refused {
        /// No request is sent for this long.
        rest: Duration,
    },
    /// A wait that the origin asked for has ended early.
    #[error("the wait that the origin asked for ends {:.1} s early", rest.as_secs_f64())]
    EndedEarly {
        /// Time that was left of the wait.
        rest: Duration,
    },
    /// The origin serves other workers than the one that it has asked to wait.
    #[error("the origin answers other workers: the wait is for one of them alone")]
    OneWorkerOnly,
    /// Connections also fail with a single connection.
    #[error("connections fail even one at a time; not lowering the limit")]
    Independent,
    /// The limit has changed, without an overload.
    #[error("at most {limit} connections to the origin: {cause}")]
    Limit {
        /// Connections that are allowed from now on.
        limit: u32,
        /// Why.
        cause: LimitCause,
    },
}

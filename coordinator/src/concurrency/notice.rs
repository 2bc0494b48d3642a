//! Announcements of the concurrency controller for log and screen. No I/O, no clock.

use std::{fmt, time::Duration};

/// A change of the concurrency controller that is shown to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConcurrencyNotice {
    /// Connections failed at the same time.
    Overload {
        /// Connections that were open.
        open: u32,
        /// Connections that are allowed from now on.
        limit: u32,
        /// No request is sent for this long.
        rest: Duration,
    },
    /// The origin answered with 429 or 503 and `Retry-After`.
    Refused {
        /// No request is sent for this long.
        rest: Duration,
    },
    /// A wait that the origin asked for has ended early.
    EndedEarly {
        /// Time that was left of the wait.
        rest: Duration,
    },
    /// The origin serves other workers than the one that it has asked to wait.
    OneWorkerOnly,
    /// Connections also fail with a single connection.
    Independent,
    /// The limit has changed, because more connections brought no gain.
    Limit(u32),
}

impl fmt::Display for ConcurrencyNotice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overload { open, limit, rest } => write!(
                formatter,
                "the origin broke {open} connections together: none for {:.1} s, then at most {limit}",
                rest.as_secs_f64()
            ),
            Self::Refused { rest } => {
                write!(
                    formatter,
                    "the origin refuses requests (429 or 503) and asks to wait: no request for {:.1} s",
                    rest.as_secs_f64()
                )
            }
            Self::EndedEarly { rest } => {
                write!(
                    formatter,
                    "the wait that the origin asked for ends {:.1} s early",
                    rest.as_secs_f64()
                )
            }
            Self::OneWorkerOnly => formatter
                .write_str("the origin answers other workers: the wait is for one of them alone"),
            Self::Independent => {
                formatter.write_str("connections fail even one at a time; not lowering the limit")
            }
            Self::Limit(limit) => write!(formatter, "at most {limit} connections to the origin"),
        }
    }
}

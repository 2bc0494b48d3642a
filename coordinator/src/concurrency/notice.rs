//! What the pace tells people, in words. Pure.

use std::{fmt, time::Duration};

/// What people should hear of the pace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Connections died together.
    Overload {
        /// So many were open.
        open: u32,
        /// So many are allowed from now on.
        limit: u32,
        /// No request is sent for so long.
        rest: Duration,
    },
    /// 429 or 503.
    Refused {
        /// No request is sent for so long.
        rest: Duration,
    },
    /// A wait that the origin asked for has ended before its time.
    Lifted {
        /// So much before.
        rest: Duration,
    },
    /// The origin answers other workers than the one that it has asked to wait.
    Own,
    /// Cuts go on over a single connection.
    Independent,
    /// Another number of connections is held, because more brought nothing.
    Limit(u32),
}

impl fmt::Display for Notice {
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
            Self::Lifted { rest } => {
                write!(formatter, "the wait that the origin asked for ends {:.1} s early", rest.as_secs_f64())
            }
            Self::Own => formatter.write_str("the origin answers other workers: the wait is for one of them alone"),
            Self::Independent => formatter.write_str("connections fail even one at a time; not lowering the limit"),
            Self::Limit(limit) => write!(formatter, "at most {limit} connections to the origin"),
        }
    }
}

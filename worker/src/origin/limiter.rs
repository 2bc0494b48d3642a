//! The pace: every request to the origin goes through one gate, and the coordinator says how far that is open.
//!
//! What is counted here goes out as an [`Observation`]; a [`Budget`] comes back. The budget is the coordinator's to find; here it is kept
//! to. A transfer that is under way is never broken off for it: it is not replaced when it ends.

use std::time::Duration;

mod bucket;
mod first_trouble;
mod gate;
mod permits;
mod transfer;

pub(crate) use gate::{Gate, Permit};
pub(crate) use permits::Priority;
pub(crate) use transfer::Transfer;

use crate::origin::download_error::DownloadError;

/// What this process does to the origin. Counters since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Version of the budget that is kept to; 0: none yet.
    pub(crate) seen: u64,
    /// Connections with a request on them, now.
    pub(crate) open: u32,
    /// Those of them over which a body comes.
    pub(crate) flowing: u32,
    /// Connections that could be used now, the open ones included.
    pub(crate) wanted: u32,
    /// Bytes of bodies.
    pub(crate) received: u64,
    pub(crate) requests: u64,
    pub(crate) cuts: u64,
    pub(crate) refusals: u64,
    /// The rest of the longest `Retry-After` that was given and has not passed; zero: none.
    pub(crate) retry_after: Duration,
}

impl Observation {
    /// Whether it says the same as another, but for the time that passes.
    pub(crate) fn is_no_news_after(&self, other: &Self) -> bool {
        Self { retry_after: Duration::ZERO, ..*self } == Self { retry_after: Duration::ZERO, ..*other }
    }
}

/// What this process may do to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) version: u64,
    /// Connections with a request on them.
    pub(crate) connections: u32,
    /// `None`: as many as come.
    pub(crate) bytes_per_second: Option<u64>,
    /// Nothing is asked of the origin for so long.
    pub(crate) quiet: Duration,
    /// How often to send an observation, if there is news.
    pub(crate) observe_every: Duration,
    /// Another number than before: what the origin has asked this process for is over.
    pub(crate) resumed: u64,
}

/// What a request that failed says of how the origin bears us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// No connection, no answer, or a body that broke off or dried up.
    Cut,
    /// It is too much for the origin now. With `Retry-After` it has said for how long.
    Refusal(Option<Duration>),
}

/// `None`: the origin would have said the same to a single visitor.
fn trouble(error: &DownloadError) -> Option<Trouble> {
    match error {
        DownloadError::Status { code: 429 | 503, retry_after, .. } => Some(Trouble::Refusal(*retry_after)),
        DownloadError::Timeout { .. }
        | DownloadError::TooSlow { .. }
        | DownloadError::Connection { .. }
        | DownloadError::Cut { .. } => Some(Trouble::Cut),
        DownloadError::Status { .. }
        | DownloadError::Redirect { .. }
        | DownloadError::Certificate { .. }
        | DownloadError::Scheme { .. }
        | DownloadError::NotATar { .. }
        | DownloadError::TooLong { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_cut_or_a_refusal_or_says_nothing_of_the_pace() {
        let text = String::new;
        let status = |code, retry_after| DownloadError::Status { code, url: text(), retry_after };
        let soon = Some(Duration::from_secs(5));
        for (error, expected) in [
            (status(429, soon), Some(Trouble::Refusal(soon))),
            (status(503, None), Some(Trouble::Refusal(None))),
            (status(500, soon), None),
            (status(404, None), None),
            (DownloadError::Timeout { after: Duration::ZERO }, Some(Trouble::Cut)),
            (DownloadError::TooSlow { over: Duration::ZERO }, Some(Trouble::Cut)),
            (DownloadError::Connection { why: text() }, Some(Trouble::Cut)),
            (DownloadError::Cut { received: 1, length: None }, Some(Trouble::Cut)),
            (DownloadError::Certificate { why: text() }, None),
            (DownloadError::Scheme { why: text() }, None),
            (DownloadError::Redirect { why: text() }, None),
            (DownloadError::NotATar { why: text() }, None),
            (DownloadError::TooLong { length: 1 }, None),
        ] {
            assert_eq!(trouble(&error), expected, "{error}");
        }
    }
}

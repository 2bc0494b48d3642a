//! Decides for every download error whether another attempt can help. All retries use this
//! decision. No I/O, no clock.

use std::time::Duration;

use shared::protocol::MAX_RETRY_AFTER;

use crate::origin::download_error::DownloadError;

/// The decision after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// Another attempt cannot help.
    GiveUp,
    /// Try again after a backoff, and not before `at_least` has elapsed.
    Retry {
        /// The duration of `Retry-After`, if the response had one.
        at_least: Option<Duration>,
    },
}

/// Whether another attempt can help after this error.
pub(crate) fn retry_decision(error: &DownloadError) -> RetryDecision {
    match error {
        // Request Timeout, Too Early, Too Many Requests; statuses of a server or gateway that is
        // overloaded, restarts or cannot reach the next server; a CDN uses 520 to 524 for the
        // latter. 501, and 505 and above, are permanent.
        DownloadError::Status {
            code: 408 | 425 | 429 | 500 | 502..=504 | 520..=524,
            retry_after,
            ..
        } => RetryDecision::Retry {
            at_least: retry_after.map(|wait| wait.min(MAX_RETRY_AFTER)),
        },
        error if error.is_interruption() => RetryDecision::Retry { at_least: None },
        // Another attempt at once would get the same certificate, scheme, content or redirect.
        _ => RetryDecision::GiveUp,
    }
}

/// Whether a status that answers a request for the rest of a tar does not apply to the whole tar:
/// the range is beyond the current end, the condition failed, or the origin does not support such
/// requests. If the tar itself is forbidden or gone, the whole tar is not requested.
pub(crate) fn refuses_only_the_range(error: &DownloadError) -> bool {
    matches!(error, DownloadError::Status { code, .. } if !matches!(code, 401 | 404 | 410))
        && retry_decision(error) == RetryDecision::GiveUp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::redirect::RefusedRedirect;

    fn status(code: u16, retry_after: Option<u64>) -> DownloadError {
        DownloadError::Status {
            code,
            url: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn only_transient_statuses_are_retried() {
        let retried: Vec<u16> = (100..600)
            .filter(|code| retry_decision(&status(*code, None)) != RetryDecision::GiveUp)
            .collect();
        assert_eq!(
            retried,
            [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524]
        );
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
        for (asked, granted) in [(0, 0), (30, 30), (900, 900), (86_400, 900)] {
            let expected = RetryDecision::Retry {
                at_least: Some(Duration::from_secs(granted)),
            };
            assert_eq!(retry_decision(&status(503, Some(asked))), expected);
        }
    }

    #[test]
    fn a_broken_connection_is_retried_and_a_wrong_answer_is_not() {
        let text = String::new;
        let retry = RetryDecision::Retry { at_least: None };
        for (error, expected) in [
            (
                DownloadError::Timeout {
                    after: Duration::ZERO,
                },
                retry,
            ),
            (
                DownloadError::TooSlow {
                    over: Duration::ZERO,
                },
                retry,
            ),
            (DownloadError::Connection { why: text() }, retry),
            (
                DownloadError::Cut {
                    received: 1,
                    length: Some(2),
                },
                retry,
            ),
            (
                DownloadError::Certificate { why: text() },
                RetryDecision::GiveUp,
            ),
            (DownloadError::Scheme { why: text() }, RetryDecision::GiveUp),
            (RefusedRedirect::TooMany.into(), RetryDecision::GiveUp),
            (
                DownloadError::NotATar { why: text() },
                RetryDecision::GiveUp,
            ),
            (DownloadError::TooLong { length: 1 }, RetryDecision::GiveUp),
        ] {
            assert_eq!(retry_decision(&error), expected, "{error}");
        }
    }
}

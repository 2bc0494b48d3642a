//! Decides for every download error whether another attempt can help. All retries use this
//! decision. No I/O, no clock.

use std::time::Duration;

use shared::protocol::MAX_RETRY_AFTER;

use crate::origin::download_error::DownloadError;

/// The shortest wait before another attempt after this error: that of `Retry-After`, if the
/// response had one. `None`: another attempt cannot help.
pub(crate) fn retry_delay(error: &DownloadError) -> Option<Duration> {
    match error {
        // Request Timeout, Too Early, Too Many Requests; statuses of a server or gateway that is
        // overloaded, restarts or cannot reach the next server; a CDN uses 520 to 524 for the
        // latter. 501, and 505 and above, are permanent.
        DownloadError::Status {
            code: 408 | 425 | 429 | 500 | 502..=504 | 520..=524,
            retry_after,
            ..
        } => Some(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)),
        // Another attempt at once would get the same status, certificate, scheme, content or
        // redirect.
        error => error.is_interruption().then_some(Duration::ZERO),
    }
}

/// Whether a status that answers a request for the rest of a tar does not apply to the whole tar:
/// the range is beyond the current end, the condition failed, or the origin does not support such
/// requests. If the tar itself is forbidden or gone, the whole tar is not requested.
pub(crate) fn refuses_only_the_range(error: &DownloadError) -> bool {
    matches!(error, DownloadError::Status { code, .. } if !matches!(code, 401 | 404 | 410))
        && retry_delay(error).is_none()
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
            .filter(|code| retry_delay(&status(*code, None)).is_some())
            .collect();
        assert_eq!(
            retried,
            [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524]
        );
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
        for (asked, granted) in [(0, 0), (30, 30), (900, 900), (86_400, 900)] {
            let expected = Some(Duration::from_secs(granted));
            assert_eq!(retry_delay(&status(503, Some(asked))), expected);
        }
    }

    #[test]
    fn a_broken_connection_is_retried_and_a_wrong_answer_is_not() {
        let text = String::new;
        let retry = Some(Duration::ZERO);
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
            (DownloadError::Certificate { why: text() }, None),
            (DownloadError::Scheme { why: text() }, None),
            (RefusedRedirect::TooMany.into(), None),
            (DownloadError::NotATar { why: text() }, None),
            (DownloadError::TooLong { length: 1 }, None),
        ] {
            assert_eq!(retry_delay(&error), expected, "{error}");
        }
    }
}

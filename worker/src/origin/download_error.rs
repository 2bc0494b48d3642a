//! The errors of a download. They keep their identity, so that callers never match text.

use std::time::Duration;

use reqwest::StatusCode;
use shared::{
    outcome::{Failure, FailureKind, Suspect},
    refusal::Refusal,
};

use crate::origin::{redirect::RefusedRedirect, retry::retry_delay};

/// Why an attempt to download ended without success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DownloadError {
    /// The origin answered with a status other than success.
    #[error("{code} {}: {} for url: {url}", status_class(*code), reason(*code))]
    Status {
        /// HTTP status.
        code: u16,
        /// The URL that answered, without credentials.
        url: String,
        /// The `Retry-After` header, as a duration from now.
        retry_after: Option<Duration>,
    },
    /// The origin redirected the request to a URL that is not allowed.
    #[error(transparent)]
    Redirect(#[from] RefusedRedirect),
    /// No byte was received during all of `--timeout`.
    #[error("Request timeout after {}s", after.as_secs_f64())]
    Timeout {
        /// `--timeout`.
        after: Duration,
    },
    /// Bytes were received, but below the minimum speed.
    #[error("too slow: less than 1 KiB/s over {}s", over.as_secs_f64())]
    TooSlow {
        /// The time over which the speed was measured.
        over: Duration,
    },
    /// The connection could not be established, or broke before an answer.
    #[error("{why}")]
    Connection {
        /// A sentence that names host and port.
        why: String,
    },
    /// The origin's certificate is not valid for it.
    #[error("certificate refused: {why}")]
    Certificate {
        /// Host and port, what is wrong with the certificate, and what to do.
        why: String,
    },
    /// The URL's scheme is `https`, and the origin answers without TLS.
    #[error("{why}")]
    Scheme {
        /// A sentence that names host and port.
        why: String,
    },
    /// The body ended early.
    #[error("connection cut after {received} of {} bytes", length.map_or("an unknown number of".to_owned(), |bytes| bytes.to_string()))]
    Cut {
        /// Bytes received, from the start of the tar.
        received: u64,
        /// Length of the tar, if the origin announced it.
        length: Option<u64>,
    },
    /// The response headers show that the body is no tar.
    #[error("{why}")]
    NotATar {
        /// What the body is instead.
        why: String,
    },
    /// Longer than any class can be.
    #[error("limit exceeded: {length} bytes announced")]
    TooLong {
        /// The announced length.
        length: u64,
    },
}

impl DownloadError {
    /// Whether there was no connection, no answer, or a body that was interrupted or stalled.
    pub(crate) fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::TooSlow { .. }
                | Self::Connection { .. }
                | Self::Cut { .. }
        )
    }

    /// The kind of the failure; and how the origin refused the class, if the error is permanent and
    /// an answer of the origin.
    pub(super) fn kind(&self) -> (FailureKind, Option<Refusal>) {
        match self {
            Self::Status { code, .. } => (FailureKind::HttpError, Some(Refusal::Status(*code))),
            Self::Redirect(_) => (FailureKind::HttpError, Some(Refusal::Redirect)),
            Self::Timeout { .. } | Self::TooSlow { .. } => (FailureKind::Timeout, None),
            Self::Connection { .. } | Self::Cut { .. } => (FailureKind::ConnectionError, None),
            Self::Certificate { .. } => (FailureKind::ConnectionError, Some(Refusal::Certificate)),
            Self::Scheme { .. } => (FailureKind::ConnectionError, Some(Refusal::Scheme)),
            Self::NotATar { .. } => (FailureKind::NotATar, Some(Refusal::NotATar)),
            Self::TooLong { .. } => (FailureKind::TarError, None),
        }
    }
}

impl From<DownloadError> for Failure {
    fn from(error: DownloadError) -> Self {
        let (kind, refusal) = error.kind();
        let failure = Self::new(kind, &error);
        // Errors that a retry could resolve are attributed to the origin, all others to the class.
        if retry_delay(&error).is_some() {
            return failure.suspecting(Suspect::Origin);
        }
        Self {
            suspect: Suspect::Class,
            refusal,
            ..failure
        }
    }
}

/// The wording of Python's `requests`, which scripts of users search for.
fn status_class(code: u16) -> &'static str {
    match code {
        400..500 => "Client Error",
        500..600 => "Server Error",
        _ => "Unexpected Status",
    }
}

fn reason(code: u16) -> &'static str {
    StatusCode::from_u16(code)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(error: DownloadError) -> String {
        Failure::from(error).to_string()
    }

    #[test]
    fn transient_errors_are_attributed_to_the_origin_and_permanent_ones_to_the_class() {
        let status = |code| DownloadError::Status {
            code,
            url: String::new(),
            retry_after: None,
        };
        let why = String::new;
        for (error, suspect) in [
            (status(503), Suspect::Origin),
            (status(429), Suspect::Origin),
            (status(404), Suspect::Class),
            (
                DownloadError::Timeout {
                    after: Duration::ZERO,
                },
                Suspect::Origin,
            ),
            (
                DownloadError::TooSlow {
                    over: Duration::ZERO,
                },
                Suspect::Origin,
            ),
            (
                DownloadError::Cut {
                    received: 1,
                    length: None,
                },
                Suspect::Origin,
            ),
            (DownloadError::Connection { why: why() }, Suspect::Origin),
            (DownloadError::Certificate { why: why() }, Suspect::Class),
            (DownloadError::Scheme { why: why() }, Suspect::Class),
            (DownloadError::NotATar { why: why() }, Suspect::Class),
            (RefusedRedirect::TooMany.into(), Suspect::Class),
        ] {
            assert_eq!(Failure::from(error.clone()).suspect, suspect, "{error}");
        }
    }

    #[test]
    fn a_permanent_error_is_a_refusal_and_a_transient_one_is_not() {
        let status = |code| DownloadError::Status {
            code,
            url: String::new(),
            retry_after: None,
        };
        let why = String::new;
        for (error, refusal) in [
            (status(404), Some(Refusal::Status(404))),
            (status(401), Some(Refusal::Status(401))),
            (status(503), None),
            (RefusedRedirect::TooMany.into(), Some(Refusal::Redirect)),
            (
                DownloadError::NotATar { why: why() },
                Some(Refusal::NotATar),
            ),
            (
                DownloadError::Certificate { why: why() },
                Some(Refusal::Certificate),
            ),
            (DownloadError::Scheme { why: why() }, Some(Refusal::Scheme)),
            (DownloadError::Connection { why: why() }, None),
            (
                DownloadError::Timeout {
                    after: Duration::ZERO,
                },
                None,
            ),
            (DownloadError::TooLong { length: 1 }, None),
        ] {
            assert_eq!(Failure::from(error.clone()).refusal, refusal, "{error}");
        }
    }

    #[test]
    fn the_messages_are_those_that_scripts_of_users_parse() {
        let status = |code| DownloadError::Status {
            code,
            url: "http://h/n1.tar".to_owned(),
            retry_after: None,
        };
        assert_eq!(
            line(status(404)),
            "HTTPError: 404 Client Error: Not Found for url: http://h/n1.tar"
        );
        assert_eq!(
            line(status(503)),
            "HTTPError: 503 Server Error: Service Unavailable for url: http://h/n1.tar"
        );
        assert_eq!(
            line(DownloadError::Timeout {
                after: Duration::from_mins(2)
            }),
            "Timeout: Request timeout after 120s"
        );
        assert_eq!(
            line(DownloadError::Timeout {
                after: Duration::from_millis(1500)
            }),
            "Timeout: Request timeout after 1.5s"
        );
        assert_eq!(
            line(DownloadError::Cut {
                received: 300,
                length: Some(1000)
            }),
            "ConnectionError: connection cut after 300 of 1000 bytes"
        );
    }
}

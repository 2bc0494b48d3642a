//! The errors of a download. They keep their identity, so that callers never match text.

use std::time::Duration;

use reqwest::StatusCode;
use shared::{
    outcome::{Failure, FailureKind, Suspect},
    refusal::Refusal,
};

use crate::origin::{
    redirect::RefusedRedirect,
    retry::{RetryDecision, retry_decision},
};

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
    #[error("{why}")]
    Redirect {
        /// The URL, and why it is not allowed.
        why: String,
    },
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
    /// How the origin refused the class, if another attempt would be refused in the same way.
    fn refusal(&self) -> Option<Refusal> {
        if !matches!(retry_decision(self), RetryDecision::GiveUp) {
            return None;
        }
        match self {
            Self::Status { code, .. } => Some(Refusal::Status(*code)),
            Self::Redirect { .. } => Some(Refusal::Redirect),
            Self::Certificate { .. } => Some(Refusal::Certificate),
            Self::Scheme { .. } => Some(Refusal::Scheme),
            Self::NotATar { .. } => Some(Refusal::NotATar),
            Self::Timeout { .. }
            | Self::TooSlow { .. }
            | Self::Connection { .. }
            | Self::Cut { .. }
            | Self::TooLong { .. } => None,
        }
    }

    fn kind(&self) -> FailureKind {
        match self {
            Self::Status { .. } | Self::Redirect { .. } => FailureKind::HttpError,
            Self::Timeout { .. } | Self::TooSlow { .. } => FailureKind::Timeout,
            Self::Connection { .. }
            | Self::Certificate { .. }
            | Self::Scheme { .. }
            | Self::Cut { .. } => FailureKind::ConnectionError,
            Self::NotATar { .. } => FailureKind::NotATar,
            Self::TooLong { .. } => FailureKind::TarError,
        }
    }
}

impl From<RefusedRedirect> for DownloadError {
    fn from(refused: RefusedRedirect) -> Self {
        Self::Redirect {
            why: refused.to_string(),
        }
    }
}

impl From<DownloadError> for Failure {
    fn from(error: DownloadError) -> Self {
        // Errors that a retry could resolve are attributed to the origin, all others to the class.
        let suspect = match retry_decision(&error) {
            RetryDecision::Retry { .. } => Suspect::Origin,
            RetryDecision::GiveUp => Suspect::Class,
        };
        let failure = Self::new(error.kind(), &error).suspecting(suspect);
        match error.refusal() {
            Some(refusal) => failure.refused(refusal),
            None => failure,
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
            (DownloadError::Redirect { why: why() }, Suspect::Class),
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
            (
                DownloadError::Redirect { why: why() },
                Some(Refusal::Redirect),
            ),
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

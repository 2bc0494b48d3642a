//! Why the origin has not answered yet. Each distinct cause is reported once, in this program's log
//! and to the coordinator. After the first answer nothing is reported here: single failed requests
//! are normal then, and the coordinator detects and reports an outage.

use std::sync::Mutex;

use shared::lock::lock;

use crate::origin::download_error::DownloadError;

/// Limit for the number of distinct causes that are reported.
const MAX_CAUSES: usize = 8;

/// The causes reported before the origin's first answer, in order; `None` after it.
#[derive(Debug)]
pub(crate) struct FirstFailures(Mutex<Option<Vec<String>>>);

impl Default for FirstFailures {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl FirstFailures {
    /// Records that the origin has answered, with any status.
    pub(crate) fn answered(&self) {
        *lock(&self.0) = None;
    }

    /// Records a request that failed. If it received no answer and its cause is new, the message is
    /// logged and returned.
    pub(crate) fn note(&self, error: &DownloadError, address: &str) -> Option<String> {
        let sentence = match error {
            DownloadError::Connection { why } => format!("{why}; is --url right? Trying again"),
            DownloadError::Timeout { .. } => {
                format!("no answer of {address}: {error}; trying again")
            }
            _ => return None,
        };
        let mut reported = lock(&self.0);
        let reported = reported.as_mut()?;
        if reported.len() >= MAX_CAUSES || reported.contains(&sentence) {
            return None;
        }
        tracing::warn!("{sentence}");
        reported.push(sentence.clone());
        Some(sentence)
    }

    /// The latest message while the origin has not answered; empty if it has, or if there is none.
    pub(crate) fn last(&self) -> String {
        let reported = lock(&self.0);
        reported
            .iter()
            .flatten()
            .last()
            .cloned()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused() -> DownloadError {
        DownloadError::Connection {
            why: "no connection to http://h:9: refused".to_owned(),
        }
    }

    #[test]
    fn a_cause_is_reported_once_until_the_origin_has_answered() {
        let first = FirstFailures::default();
        let message =
            Some("no connection to http://h:9: refused; is --url right? Trying again".to_owned());
        assert_eq!(first.note(&refused(), "http://h:9"), message);
        assert_eq!(first.note(&refused(), "http://h:9"), None);
        let silent = DownloadError::Timeout {
            after: Duration::from_secs(2),
        };
        let message = first.note(&silent, "http://h:9").unwrap();
        assert_eq!(
            message,
            "no answer of http://h:9: Request timeout after 2s; trying again"
        );
        assert_eq!(first.last(), message);
        assert_eq!(
            first.note(&DownloadError::NotATar { why: String::new() }, "http://h:9"),
            None,
            "the origin has answered"
        );
        first.answered();
        assert_eq!(first.last(), "");
        let other = DownloadError::Connection {
            why: "reset".to_owned(),
        };
        assert_eq!(first.note(&other, "http://h:9"), None);
    }

    #[test]
    fn the_number_of_causes_is_bounded() {
        let first = FirstFailures::default();
        let cause = |number| DownloadError::Connection {
            why: format!("cause {number}"),
        };
        assert_eq!(
            (0..100)
                .filter_map(|number| first.note(&cause(number), ""))
                .count(),
            MAX_CAUSES
        );
    }
}

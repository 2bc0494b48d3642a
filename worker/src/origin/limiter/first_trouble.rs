//! Why the origin has not answered yet, told once per cause: on this program's screen, and to the
//! coordinator. After the first answer nothing is told: then a request that breaks is nothing
//! unusual, and the coordinator says when the origin is away.

use std::sync::{Mutex, PoisonError};

use crate::origin::download_error::DownloadError;

/// Different causes that are told.
const MOST_CAUSES: usize = 8;

/// What is known of an origin before its first answer.
#[derive(Debug, Default)]
pub(super) struct FirstTrouble(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    has_answered: bool,
    /// Causes that were told, the last one at the end.
    told: Vec<String>,
}

impl FirstTrouble {
    /// The origin has answered, whatever it said.
    pub(super) fn answered(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.has_answered {
            *state = State { has_answered: true, told: Vec::new() };
        }
    }

    /// Notes a request that had no answer; gives the sentence if it is the first of its cause.
    pub(super) fn note(&self, error: &DownloadError, address: &str) -> Option<String> {
        let sentence = match error {
            DownloadError::Connection { why } => format!("{why}; is --url right? Trying again"),
            DownloadError::Timeout { .. } => format!("no answer of {address}: {error}; trying again"),
            _ => return None,
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_answered || state.told.len() >= MOST_CAUSES || state.told.contains(&sentence) {
            return None;
        }
        state.told.push(sentence.clone());
        Some(sentence)
    }

    /// The last sentence, while the origin has not answered; empty without one.
    pub(super) fn last(&self) -> String {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.told.last().cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused() -> DownloadError {
        DownloadError::Connection { why: "no connection to http://h:9: refused".to_owned() }
    }

    #[test]
    fn a_cause_is_told_once_until_the_origin_has_answered() {
        let first = FirstTrouble::default();
        let said = Some("no connection to http://h:9: refused; is --url right? Trying again".to_owned());
        assert_eq!(first.note(&refused(), "http://h:9"), said);
        assert_eq!(first.note(&refused(), "http://h:9"), None);
        let silent = DownloadError::Timeout { after: Duration::from_secs(2) };
        let said = first.note(&silent, "http://h:9").unwrap();
        assert_eq!(said, "no answer of http://h:9: Request timeout after 2s; trying again");
        assert_eq!(first.last(), said);
        assert_eq!(first.note(&DownloadError::NotATar { why: String::new() }, "http://h:9"), None, "that is an answer");
        first.answered();
        assert_eq!(first.last(), "");
        let other = DownloadError::Connection { why: "reset".to_owned() };
        assert_eq!(first.note(&other, "http://h:9"), None);
    }

    #[test]
    fn the_number_of_causes_is_bounded() {
        let first = FirstTrouble::default();
        let cause = |number| DownloadError::Connection { why: format!("cause {number}") };
        assert_eq!((0..100).filter_map(|number| first.note(&cause(number), "")).count(), MOST_CAUSES);
    }
}

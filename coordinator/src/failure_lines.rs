//! Which failures of classes are lines on the screen: the first of each cause, and from time to time
//! how many more there were. The log has a line for each class. Pure.
//!
//! Bounded: at most [`MOST_CAUSES`] causes are told apart; further ones count by their kind.

use std::{collections::HashMap, mem, time::Duration};

use shared::outcome::Failure;
use tokio::time::Instant;

/// Different causes that have a line of their own.
const MOST_CAUSES: usize = 20;
/// Between two lines about the number of failures of a cause.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// What stands for the class's id in a cause.
const ANY_CLASS: &str = "<wnid>";

/// Failures of a cause since the last line about it.
#[derive(Debug)]
struct Cause {
    told_at: Instant,
    untold: u64,
}

/// The causes of this process so far.
#[derive(Debug, Default)]
pub(crate) struct FailureLines {
    causes: HashMap<String, Cause>,
}

impl FailureLines {
    /// Whether this failure is told on the screen: it is the first of its cause. `class`: the
    /// text of its row.
    pub(crate) fn is_first(&mut self, class: &str, failure: &Failure, now: Instant) -> bool {
        let mut text = failure.to_string();
        if !class.is_empty() {
            text = text.replace(class, ANY_CLASS);
        }
        if self.causes.len() >= MOST_CAUSES && !self.causes.contains_key(&text) {
            text = format!("{} (of various causes)", failure.kind);
        }
        if let Some(cause) = self.causes.get_mut(&text) {
            cause.untold += 1;
            return false;
        }
        self.causes.insert(text, Cause { told_at: now, untold: 0 });
        true
    }

    /// Writes the line of a failure: a warning, which the screen shows, if it is the first of its
    /// cause, otherwise for the log alone.
    pub(crate) fn tell(&mut self, class: &str, failure: &Failure, now: Instant) {
        if self.is_first(class, failure, now) {
            tracing::warn!("{class} failed: {failure}");
        } else {
            tracing::info!("{class} failed: {failure}");
        }
    }

    /// Lines about failures that were not told, where it is time for one.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<String> {
        self.lines(|cause| now - cause.told_at >= REPORT_EVERY, now)
    }

    /// Lines about all failures that were not told.
    pub(crate) fn rest(&mut self, now: Instant) -> Vec<String> {
        self.lines(|_| true, now)
    }

    fn lines(&mut self, is_due: impl Fn(&Cause) -> bool, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for (text, cause) in self.causes.iter_mut().filter(|(_, cause)| cause.untold > 0 && is_due(cause)) {
            cause.told_at = now;
            let count = mem::take(&mut cause.untold);
            let classes = if count == 1 { "class" } else { "classes" };
            lines.push(format!("{count} more {classes} failed: {text}"));
        }
        lines.sort_unstable();
        lines
    }
}

#[cfg(test)]
mod tests {
    use shared::outcome::FailureKind;

    use super::*;

    fn wnid(number: u32) -> String {
        format!("n{number:08}")
    }

    fn missing(number: u32) -> Failure {
        Failure::new(
            FailureKind::HttpError,
            format!("404 Client Error: Not Found for url: http://h/{}.tar", wnid(number)),
        )
    }

    #[test]
    fn a_cause_is_told_once_and_then_counted() {
        let (mut lines, start) = (FailureLines::default(), Instant::now());
        let told: Vec<u32> =
            (1..=1000).filter(|number| lines.is_first(&wnid(*number), &missing(*number), start)).collect();
        assert_eq!(told, [1]);
        assert_eq!(lines.due(start), [] as [String; 0]);
        let said = "999 more classes failed: HTTPError: 404 Client Error: Not Found for url: http://h/<wnid>.tar";
        assert_eq!(lines.due(start + REPORT_EVERY), [said]);
        assert_eq!(lines.rest(start + REPORT_EVERY), [] as [String; 0], "each is counted once");
        assert!(!lines.is_first(&wnid(7), &missing(7), start + REPORT_EVERY));
        assert_eq!(lines.rest(start + REPORT_EVERY).len(), 1);
    }

    #[test]
    fn the_number_of_lines_is_bounded_whatever_the_failures_say() {
        let (mut lines, now) = (FailureLines::default(), Instant::now());
        let odd = |number| Failure::new(FailureKind::TarError, format!("truncated archive: it ends at byte {number}"));
        let told = (1..=1000).filter(|number| lines.is_first(&wnid(*number), &odd(*number), now)).count();
        assert_eq!(told, MOST_CAUSES + 1);
        assert_eq!(lines.rest(now), ["979 more classes failed: TarError (of various causes)"]);
    }
}

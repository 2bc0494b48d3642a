//! Selects which failures of classes are shown on the screen: the first failure of each cause, and
//! periodically the number of further ones. The log has a line for each class. No I/O, no clock.
//!
//! Bounded: at most 20 causes are distinguished; the failures of further causes are
//! counted by their kind.

use std::{collections::HashMap, mem, time::Duration};

use tokio::time::Instant;

use crate::outcome::Failure;

/// Number of causes that are counted separately.
const MOST_CAUSES: usize = 20;
/// Interval between two lines about the number of failures of a cause.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Replaces the class's id in the text of a cause.
const ANY_CLASS: &str = "<wnid>";

/// Time of the last line about a cause, and the number of its failures since then.
#[derive(Debug)]
struct Cause {
    shown_at: Instant,
    not_shown: u64,
}

/// The causes of this process so far, by their text.
#[derive(Debug, Default)]
pub struct FailureLines {
    causes: HashMap<String, Cause>,
}

impl FailureLines {
    /// Whether this failure is shown on the screen, because it is the first of its cause. `class`:
    /// the text of the class's row.
    pub fn is_first(&mut self, class: &str, failure: &Failure, now: Instant) -> bool {
        let mut text = failure.to_string();
        if !class.is_empty() {
            text = text.replace(class, ANY_CLASS);
        }
        if self.causes.len() >= MOST_CAUSES && !self.causes.contains_key(&text) {
            text = format!("{} (of various causes)", failure.kind);
        }
        let mut is_first = false;
        let cause = self.causes.entry(text).or_insert_with(|| {
            is_first = true;
            Cause {
                shown_at: now,
                not_shown: 0,
            }
        });
        cause.not_shown += u64::from(!is_first);
        is_first
    }

    /// Logs a failure: as a warning, which the screen shows, if it is the first of its cause,
    /// otherwise at a level that only the log file records.
    pub fn tell(&mut self, class: &str, failure: &Failure, now: Instant) {
        if self.is_first(class, failure, now) {
            tracing::warn!("{class} failed: {failure}");
        } else {
            tracing::info!("{class} failed: {failure}");
        }
    }

    /// Lines about failures that were not shown, for each cause whose last line is half a minute
    /// ago.
    pub fn due(&mut self, now: Instant) -> Vec<String> {
        self.lines(|cause| now - cause.shown_at >= REPORT_EVERY, now)
    }

    /// Lines about all failures that were not shown.
    pub fn rest(&mut self, now: Instant) -> Vec<String> {
        self.lines(|_| true, now)
    }

    fn lines(&mut self, is_due: impl Fn(&Cause) -> bool, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for (text, cause) in &mut self.causes {
            if cause.not_shown == 0 || !is_due(cause) {
                continue;
            }
            cause.shown_at = now;
            let count = mem::take(&mut cause.not_shown);
            let classes = if count == 1 { "class" } else { "classes" };
            lines.push(format!("{count} more {classes} failed: {text}"));
        }
        lines.sort_unstable();
        lines
    }
}

/// Logs lines that the screen shows.
pub fn warn_each(lines: Vec<String>) {
    for line in lines {
        tracing::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::FailureKind;

    fn wnid(number: u32) -> String {
        format!("n{number:08}")
    }

    fn missing(number: u32) -> Failure {
        Failure::new(
            FailureKind::HttpError,
            format!(
                "404 Client Error: Not Found for url: http://h/{}.tar",
                wnid(number)
            ),
        )
    }

    #[test]
    fn a_cause_is_shown_once_and_then_counted() {
        let mut lines = FailureLines::default();
        let start = Instant::now();
        let shown: Vec<u32> = (1..=1000)
            .filter(|number| lines.is_first(&wnid(*number), &missing(*number), start))
            .collect();
        assert_eq!(shown, [1]);
        assert_eq!(lines.due(start), [] as [String; 0]);
        let said = "999 more classes failed: HTTPError: 404 Client Error: Not Found for url: http://h/<wnid>.tar";
        assert_eq!(lines.due(start + REPORT_EVERY), [said]);
        assert_eq!(
            lines.rest(start + REPORT_EVERY),
            [] as [String; 0],
            "each is counted once"
        );
        assert!(!lines.is_first(&wnid(7), &missing(7), start + REPORT_EVERY));
        assert_eq!(lines.rest(start + REPORT_EVERY).len(), 1);
    }

    #[test]
    fn the_number_of_lines_is_bounded_for_any_failures() {
        let mut lines = FailureLines::default();
        let now = Instant::now();
        let odd = |number| {
            Failure::new(
                FailureKind::TarError,
                format!("truncated archive: it ends at byte {number}"),
            )
        };
        let shown = (1..=1000)
            .filter(|number| lines.is_first(&wnid(*number), &odd(*number), now))
            .count();
        assert_eq!(shown, MOST_CAUSES + 1);
        assert_eq!(
            lines.rest(now),
            ["979 more classes failed: TarError (of various causes)"]
        );
    }
}

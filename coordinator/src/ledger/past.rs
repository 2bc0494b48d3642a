//! What the ledger knows about the time before this process: when the run began, and how many bytes
//! and classes it settled when. Only reads.

use rusqlite::params;

use super::{Ledger, LedgerError, Run};

/// Seconds of a span.
pub const SPAN: u64 = 15;

/// The past of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Begin of the run, in seconds since 1970.
    pub started: Option<u64>,
    /// End of the run, if it is finished.
    pub finished: Option<u64>,
    /// The spans of [`SPAN`] seconds in which classes were settled, the oldest first.
    pub spans: Vec<PastSpan>,
}

/// What was settled within [`SPAN`] seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastSpan {
    /// Start of the span, in seconds since 1970.
    pub at: u64,
    /// Bytes of the tars of the classes that were completed.
    pub bytes: u64,
    /// Number of classes that were settled.
    pub classes: u64,
}

impl Ledger {
    /// The past of a run. Classes that were settled again count when they were settled last.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn past(&self, run: &Run) -> Result<Past, LedgerError> {
        let select = "SELECT unixepoch(started_at), unixepoch(finished_at) FROM run WHERE id = ?1";
        let seconds = |seconds: Option<i64>| seconds.and_then(|seconds| seconds.try_into().ok());
        let times = self.rows(select, [run.row], |row| {
            Ok((seconds(row.get(0)?), seconds(row.get(1)?)))
        })?;
        let (started, finished) = times.into_iter().next().unwrap_or_default();
        // `total` adds as floating point, so that absurd sizes are no error.
        let select = "SELECT unixepoch(settled_at) / ?2 * ?2 AS at, count(*),
                total(iif(outcome = 'success', max(bytes, 0), 0))
            FROM result WHERE run = ?1 GROUP BY at HAVING at > 0 ORDER BY at";
        let spans = self.rows(select, params![run.row, SPAN.cast_signed()], |row| {
            Ok(PastSpan {
                at: row.get::<_, i64>(0)?.cast_unsigned(),
                classes: row.get::<_, i64>(1)?.cast_unsigned(),
                bytes: whole(row.get(2)?),
            })
        })?;
        Ok(Past {
            started,
            finished,
            spans,
        })
    }
}

/// A sum of bytes as an integer; a conversion from floating point is saturating.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the sum is a whole number and not negative"
)]
fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::outcome::{Outcome, Published};

    use super::*;
    use crate::ledger::{Entry, Record};

    #[test]
    fn the_past_has_the_bytes_and_classes_of_each_span() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let record = |number: u32| {
            let published = Published {
                files: 1,
                bytes: if number == 5 { u64::MAX } else { 100 },
            };
            Record {
                wnid: format!("n{number:08}").parse().unwrap(),
                outcome: if number == 4 {
                    Outcome::Skipped(published)
                } else {
                    Outcome::Success(published)
                },
                worker: None,
            }
        };
        let entry = Entry {
            records: (1..=5).map(record).collect(),
            ..Entry::default()
        };
        ledger
            .write(&run, Duration::from_secs(30), &[entry])
            .unwrap();
        let times = "UPDATE result SET settled_at = CASE
                WHEN wnid < 'n00000003' THEN '2026-01-01 00:00:16' ELSE '2026-01-01 01:00:00' END;
            UPDATE run SET started_at = '2026-01-01 00:00:01';";
        ledger.connection.execute_batch(times).unwrap();
        let new_year = 1_767_225_600;
        let span = |seconds, bytes, classes| PastSpan {
            at: new_year + seconds,
            bytes,
            classes,
        };
        let expected = Past {
            started: Some(new_year + 1),
            finished: None,
            spans: vec![span(15, 200, 2), span(3600, 100, 3)],
        };
        assert_eq!(ledger.past(&run).unwrap(), expected);
    }
}

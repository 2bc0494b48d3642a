//! The failed classes of a run in the ledger. Only reads.

use rusqlite::params;
use shared::{Wnid, outcome::FailureKind};

use super::{Ledger, LedgerError, Record, Run};

/// Maximum number of distinct causes. For kinds with variable texts (paths, sizes) only the kind
/// counts.
const MAX_CAUSES: i64 = 1000;

/// A cause of failures, with the number of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Number of failed classes.
    pub classes: u64,
    /// The kind of the failure; for an HTTP error also the status.
    pub text: String,
}

impl Ledger {
    /// Causes of the failures of a run, the most frequent first.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn causes(&self, run: &Run) -> Result<Vec<Cause>, LedgerError> {
        // The message of an HTTP error ends with the URL, which differs for each class.
        let select = "SELECT count(*), CASE WHEN kind = ?2 THEN kind || ': ' ||
                          substr(message, 1, instr(message || ' for url: ', ' for url: ') - 1)
                      ELSE kind END AS text
                      FROM result WHERE run = ?1 AND outcome = 'failed' GROUP BY text ORDER BY 1 DESC LIMIT ?3";
        let about = params![run.row, FailureKind::HttpError.to_string(), MAX_CAUSES];
        self.rows(select, about, |row| {
            Ok(Cause {
                classes: row.get::<_, i64>(0)?.cast_unsigned(),
                text: row.get(1)?,
            })
        })
    }

    /// Failed classes of a run with ids after `after`, ordered by id, at most `most`.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn failed_after(
        &self,
        run: &Run,
        after: Option<Wnid>,
        most: u32,
    ) -> Result<Vec<Record>, LedgerError> {
        let select = "SELECT wnid, outcome, kind, message, files, bytes, worker FROM result
                      WHERE run = ?1 AND wnid > ?2 AND outcome = 'failed' ORDER BY wnid LIMIT ?3";
        let after = after.map(|wnid| wnid.to_string()).unwrap_or_default();
        let failed = self.rows(select, params![run.row, after, most], Record::of_row)?;
        Ok(failed.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::outcome::{Failure, Outcome, Published};

    use super::*;
    use crate::ledger::Entry;

    fn wnid(number: u32) -> Wnid {
        format!("n{number:08}").parse().unwrap()
    }

    #[test]
    fn failures_are_counted_by_cause_and_listed_by_page() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let failed = |kind, message: &str| Outcome::Failed(Failure::new(kind, message));
        let outcomes = [
            failed(
                FailureKind::HttpError,
                "404 Client Error: Not Found for url: http://h/n00000001.tar",
            ),
            failed(
                FailureKind::HttpError,
                "403 Client Error: Forbidden for url: http://h/n00000002.tar",
            ),
            failed(FailureKind::NotATar, "a page: one"),
            failed(FailureKind::NotATar, "a page: two"),
            Outcome::Success(Published { files: 1, bytes: 1 }),
            failed(
                FailureKind::HttpError,
                "404 Client Error: Not Found for url: http://h/n00000006.tar",
            ),
            failed(FailureKind::HttpError, "404 Client Error: Not Found"),
        ];
        let record = |(number, outcome)| Record {
            wnid: wnid(number),
            outcome,
            worker: Some("w".to_owned()),
        };
        let records: Vec<Record> = (1..).zip(outcomes).map(record).collect();
        let entry = Entry {
            records: records.clone(),
            ..Entry::default()
        };
        ledger
            .write(&run, Duration::from_secs(30), &[entry])
            .unwrap();
        let causes = ledger.causes(&run).unwrap();
        let counted: Vec<_> = causes
            .iter()
            .map(|cause| (cause.classes, cause.text.as_str()))
            .collect();
        assert_eq!(
            counted,
            [
                (3, "HTTPError: 404 Client Error: Not Found"),
                (2, "NotATar"),
                (1, "HTTPError: 403 Client Error: Forbidden")
            ]
        );
        let page = ledger.failed_after(&run, None, 4).unwrap();
        assert_eq!(page, records[..4]);
        assert_eq!(
            ledger.failed_after(&run, Some(page[3].wnid), 4).unwrap(),
            records[5..]
        );
    }
}

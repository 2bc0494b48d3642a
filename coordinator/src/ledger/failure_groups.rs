//! The failed classes of a run, grouped by cause for the live page. Only reads.

use rusqlite::params;
use shared::{Wnid, outcome::FailureKind};

use super::{Ledger, LedgerError, Run};

/// Maximum number of groups.
const GROUPS: i64 = 20;
/// Maximum number of classes that a group names.
const NAMED: i64 = 20;

/// Classes that failed for the same cause: the kind, and of an HTTP error also the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// The kind of failure.
    pub kind: FailureKind,
    /// Of an HTTP error the status and its text; of another kind the message, if all classes of the
    /// group have the same, and otherwise nothing.
    pub message: String,
    /// Number of classes.
    pub classes: u64,
    /// The first classes by id, at most 20.
    pub first: Vec<Wnid>,
    /// The worker, if all of them failed on one.
    pub worker: Option<String>,
}

impl FailureGroup {
    /// Whether the same request may succeed later: the cause is not the class itself. Statuses as in
    /// the worker's `origin/retry`.
    pub fn is_retryable(&self) -> bool {
        let status = self.message.get(..3).and_then(|status| status.parse().ok());
        match (self.kind, status) {
            (FailureKind::HttpError, Some(status)) => {
                matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..=524)
            }
            (
                FailureKind::Timeout | FailureKind::ConnectionError | FailureKind::StorageError,
                _,
            ) => true,
            _ => false,
        }
    }
}

impl Ledger {
    /// The most frequent causes of the failures of a run, at most 20, the most frequent first.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn failure_groups(&self, run: &Run) -> Result<Vec<FailureGroup>, LedgerError> {
        // The message of an HTTP error ends with the URL, which differs for each class.
        let select = "
            SELECT kind, iif(kind = ?2, status, iif(min(message) = max(message), min(message), '')),
                count(*),
                iif(min(worker) = max(worker) AND count(worker) = count(*), min(worker), NULL),
                group_concat(iif(place <= ?3, wnid, NULL) ORDER BY wnid)
            FROM (
                SELECT *, row_number() OVER (PARTITION BY kind, status ORDER BY wnid) AS place
                FROM (
                    SELECT wnid, kind, message, worker, iif(kind = ?2,
                        substr(message, 1, instr(message || ' for url: ', ' for url: ') - 1), '')
                        AS status
                    FROM result WHERE run = ?1 AND outcome = 'failed'
                )
            )
            GROUP BY kind, status ORDER BY 3 DESC, kind, status LIMIT ?4";
        let http = FailureKind::HttpError.to_string();
        let groups = self.rows(select, params![run.row, http, NAMED, GROUPS], |row| {
            let Ok(kind) = row.get::<_, String>(0)?.parse() else {
                return Ok(None);
            };
            let first: String = row.get(4)?;
            Ok(Some(FailureGroup {
                kind,
                message: row.get(1)?,
                classes: row.get::<_, i64>(2)?.cast_unsigned(),
                worker: row.get(3)?,
                first: first
                    .split(',')
                    .filter_map(|wnid| wnid.parse().ok())
                    .collect(),
            }))
        })?;
        Ok(groups.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::outcome::{Failure, Outcome};

    use super::*;
    use crate::ledger::{Entry, Record};

    fn record(number: u32, kind: FailureKind, message: &str, worker: &str) -> Record {
        Record {
            wnid: format!("n{number:08}").parse().unwrap(),
            outcome: Outcome::Failed(Failure::new(kind, message)),
            worker: (!worker.is_empty()).then(|| worker.to_owned()),
        }
    }

    #[test]
    fn failures_are_grouped_by_cause_with_their_first_classes_and_their_worker() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        assert_eq!(ledger.failure_groups(&run).unwrap(), []);
        let missing = |number: u32| {
            let text = format!("404 Client Error: Not Found for url: http://h/{number}.tar");
            record(
                number,
                FailureKind::HttpError,
                &text,
                ["a", "b"][number as usize % 2],
            )
        };
        let mut records: Vec<Record> = (1..=30).rev().map(missing).collect();
        let busy = "503 Server Error: Busy for url: http://h/40.tar";
        records.push(record(40, FailureKind::HttpError, busy, "a"));
        let full = "no space left on device";
        records.push(record(50, FailureKind::StorageError, full, "b"));
        records.push(record(51, FailureKind::StorageError, full, "b"));
        records.push(record(60, FailureKind::NotATar, "a page: one", "a"));
        records.push(record(61, FailureKind::NotATar, "a page: two", ""));
        records.push(record(62, FailureKind::NotATar, "a page: two", "a"));
        let entry = Entry {
            records,
            ..Entry::default()
        };
        let ttl = Duration::from_secs(30);
        ledger.write(&run, ttl, &[entry]).unwrap();
        let groups = ledger.failure_groups(&run).unwrap();
        let seen: Vec<_> = groups
            .iter()
            .map(|group| {
                let text = format!("{}: {}", group.kind, group.message);
                (
                    text,
                    group.classes,
                    group.worker.as_deref(),
                    group.is_retryable(),
                )
            })
            .collect();
        let expected = [
            ("HTTPError: 404 Client Error: Not Found", 30, None, false),
            ("NotATar: ", 3, None, false),
            ("StorageError: no space left on device", 2, Some("b"), true),
            ("HTTPError: 503 Server Error: Busy", 1, Some("a"), true),
        ];
        let expected =
            expected.map(|(text, count, worker, again)| (text.to_owned(), count, worker, again));
        assert_eq!(seen, expected);
        let first: Vec<String> = groups[0].first.iter().map(ToString::to_string).collect();
        let named: Vec<String> = (1..=20).map(|number| format!("n{number:08}")).collect();
        assert_eq!(first, named);
    }
}

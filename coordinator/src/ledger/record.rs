//! Settled classes as rows of the ledger.

use rusqlite::{Row, Transaction, params};
use shared::{
    Wnid,
    outcome::{Failure, FailureKind, Outcome, Published},
};

use super::{Ledger, LedgerError, Run, execute};

/// A class that is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The class.
    pub wnid: Wnid,
    /// The outcome.
    pub outcome: Outcome,
    /// The worker that reported it; `None` if it is not known.
    pub worker: Option<String>,
}

impl Record {
    /// Writes the record, also over an earlier one of the class.
    pub(super) fn insert(&self, transaction: &Transaction<'_>, run: i64) -> rusqlite::Result<()> {
        let (outcome, published, failure) = match &self.outcome {
            Outcome::Success(published) => ("success", Some(published), None),
            Outcome::Skipped(published) => ("skipped", Some(published), None),
            Outcome::Failed(failure) => ("failed", None, Some(failure)),
        };
        let insert = "INSERT OR REPLACE INTO result
                      (run, wnid, outcome, kind, message, files, bytes, worker)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let values = params![
            run,
            self.wnid.to_string(),
            outcome,
            failure.map(|failure| failure.kind.to_string()),
            failure.map(|failure| &failure.message),
            published.map(|published| published.files.cast_signed()),
            published.map(|published| published.bytes.cast_signed()),
            self.worker,
        ];
        execute(transaction, insert, values)
    }

    /// Converts the columns `wnid, outcome, kind, message, files, bytes, worker`; `None` if this
    /// version does not know their values.
    pub(super) fn of_row(row: &Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Ok(wnid) = row.get::<_, String>(0)?.parse() else {
            return Ok(None);
        };
        let outcome: String = row.get(1)?;
        let count = |column| {
            row.get::<_, Option<i64>>(column)
                .map(|count| count.unwrap_or_default().cast_unsigned())
        };
        let published = Published {
            files: count(4)?,
            bytes: count(5)?,
        };
        let outcome = match outcome.as_str() {
            "success" => Outcome::Success(published),
            "skipped" => Outcome::Skipped(published),
            _ => {
                let Ok(kind) = row.get::<_, String>(2)?.parse::<FailureKind>() else {
                    return Ok(None);
                };
                Outcome::Failed(Failure::new(kind, row.get::<_, String>(3)?))
            }
        };
        Ok(Some(Self {
            wnid,
            outcome,
            worker: row.get(6)?,
        }))
    }
}

impl Ledger {
    /// Calls `each` with every settled class of a run, in the order of settlement.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn settled(&self, run: &Run, mut each: impl FnMut(Record)) -> Result<(), LedgerError> {
        let select = "SELECT wnid, outcome, kind, message, files, bytes, worker FROM result
                      WHERE run = ?1 ORDER BY settled_at";
        let mut unknown = 0_u64;
        self.each_row(select, [run.row], |row| {
            match Record::of_row(row)? {
                Some(record) => each(record),
                None => unknown += 1,
            }
            Ok(())
        })?;
        if unknown > 0 {
            tracing::warn!(
                "passed over {unknown} rows of the ledger that make no sense; their classes are looked at again"
            );
        }
        Ok(())
    }
}

//! Settled classes with the time and the worker, for lists of the live page. Only reads.

use rusqlite::{Row, params};
use shared::{Wnid, outcome::Outcome};

use super::{Ledger, LedgerError, Record, Run};

const COLUMNS: &str = "wnid, outcome, kind, message, files, bytes, worker, unixepoch(settled_at)";

/// A settled class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledClass {
    /// Its outcome and its worker.
    pub record: Record,
    /// Time of the outcome, in seconds since 1970.
    pub at: Option<u64>,
}

/// Which outcomes a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcomes {
    /// Classes completed by this run.
    pub success: bool,
    /// Classes that were complete before.
    pub skipped: bool,
    /// Failed classes.
    pub failed: bool,
}

impl Outcomes {
    /// Whether the list has any.
    pub fn any(self) -> bool {
        self.success || self.skipped || self.failed
    }

    fn contains(self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Success(_) => self.success,
            Outcome::Skipped(_) => self.skipped,
            Outcome::Failed(_) => self.failed,
        }
    }
}

impl Ledger {
    /// The rows of these classes, those that are not settled left out.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn settled_of(&self, run: &Run, wnids: &[Wnid]) -> Result<Vec<SettledClass>, LedgerError> {
        let select = format!("SELECT {COLUMNS} FROM result WHERE run = ?1 AND wnid = ?2");
        let mut found = Vec::with_capacity(wnids.len());
        for wnid in wnids {
            let about = params![run.row, wnid.to_string()];
            found.extend(
                self.rows(&select, about, settled_class)?
                    .into_iter()
                    .flatten(),
            );
        }
        Ok(found)
    }

    /// The classes that a worker has settled with these outcomes, ordered by id.
    ///
    /// # Errors
    /// [`LedgerError`] of a read.
    pub fn settled_by(
        &self,
        run: &Run,
        worker: &str,
        outcomes: Outcomes,
    ) -> Result<Vec<Wnid>, LedgerError> {
        let select =
            format!("SELECT {COLUMNS} FROM result WHERE run = ?1 AND worker = ?2 ORDER BY wnid");
        let found = self.rows(&select, params![run.row, worker], settled_class)?;
        let records = found.into_iter().flatten().map(|class| class.record);
        let wanted = records.filter(|record| outcomes.contains(&record.outcome));
        Ok(wanted.map(|record| record.wnid).collect())
    }
}

fn settled_class(row: &Row<'_>) -> rusqlite::Result<Option<SettledClass>> {
    let Some(record) = Record::of_row(row)? else {
        return Ok(None);
    };
    let at: Option<i64> = row.get(7)?;
    Ok(Some(SettledClass {
        record,
        at: at.and_then(|at| at.try_into().ok()),
    }))
}

//! What is known before a job begins goes into its table and its failure log.

use shared::{
    InvalidWnid,
    class_list::InvalidRow,
    outcome::{Failure, FailureKind, Outcome},
};

use crate::{
    failure_log::{self, FailureLog},
    lease_table::LeaseTable,
    ledger::{Ledger, LedgerError, Record, Run},
};

/// What an earlier process of the run has settled stays so. Its failures are written to the new failure log; `aloud` (with
/// `--stay`) to the screen as well, because the output of a former container is lost and its files are often hard to reach.
pub(super) fn restore(
    ledger: &Ledger,
    run: &Run,
    table: &mut LeaseTable,
    log: &mut FailureLog,
    aloud: bool,
) -> Result<(), LedgerError> {
    ledger.settled(run, |Record { wnid, outcome, .. }| {
        table.restore(wnid, &outcome);
        if let Outcome::Failed(failure) = &outcome {
            if aloud {
                tracing::warn!("{wnid} failed: {failure}");
            }
            if let Err(error) = log.note(wnid, failure) {
                tracing::warn!("failed to {error}");
            }
        }
    })?;
    if run.resumed {
        tracing::info!(run = run.run_id, settled = table.status().settled(), "going on with the run");
    }
    Ok(())
}

/// Notes the rows that hold no class id, which the table counts as failed from the start, and
/// writes the log.
pub(super) fn log_invalid(rows: &[InvalidRow], log: &mut FailureLog) {
    for row in rows {
        let failure = Failure::new(FailureKind::InvalidWnid, format!("line {}: {InvalidWnid}", row.line));
        tracing::warn!("{} failed: {failure}", failure_log::shown(row));
        if let Err(error) = log.note_invalid(row, &failure) {
            tracing::warn!("failed to {error}");
        }
    }
    if let Err(error) = log.catch_up() {
        tracing::warn!("failed to {error}");
    }
}

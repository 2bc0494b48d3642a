//! Restores the state that is known before a job begins into its lease table and its failure log.

use std::time::SystemTime;

use shared::{
    InvalidWnid,
    class_list::{ClassList, InvalidRow},
    job_line::Screen,
    outcome::{Failure, FailureKind, Outcome},
};
use tokio::time::Instant;

use super::retry_failed::JobClasses;
use crate::{
    config::Plan,
    failure_lines::FailureLines,
    failure_log::{self, FailureLog},
    lease_table::{Expected, LeaseTable},
    ledger::{Ledger, LedgerError, Record, Run},
    rpc::service::LeaseTerms,
};

/// Maximum number of workers that a log line names.
const MAX_NAMES: usize = 20;

/// The lease table of a job with the known states of its classes. Writes the failures to the
/// failure log too.
pub(super) fn restored_table(
    plan: &Plan,
    classes: &ClassList,
    job_classes: &JobClasses<'_>,
    ledger: &Ledger,
    run: &Run,
    terms: LeaseTerms,
    log: &mut FailureLog,
) -> Result<LeaseTable, LedgerError> {
    let mut table = LeaseTable::new(
        &job_classes.wnids,
        classes.invalid.len() as u64,
        terms.epoch,
        terms.ttl,
    )
    .expecting_progress_within(plan.job.longest_silence())
    .expecting_bytes_within(plan.job.timeout.saturating_add(terms.ttl))
    .checking_first_answers(ledger.failed_before(run, &plan.job.url.to_string())?);
    job_classes
        .there
        .iter()
        .for_each(|Record { wnid, outcome, .. }| table.restore(*wnid, outcome));
    restore(ledger, run, &mut table, log, plan.stay)?;
    restore_elsewhere(ledger, run, &mut table, &plan.expect)?;
    log_invalid(&classes.invalid, log);
    Ok(table)
}

/// Restores the settled classes of an earlier process of the run and writes the failures to the new
/// failure log. With `aloud` (`--stay`) they are also printed, because the output of a former
/// container is lost and its files are often hard to reach.
fn restore(
    ledger: &Ledger,
    run: &Run,
    table: &mut LeaseTable,
    log: &mut FailureLog,
    aloud: bool,
) -> Result<(), LedgerError> {
    let mut lines = FailureLines::default();
    ledger.settled(run, |Record { wnid, outcome, .. }| {
        table.restore(wnid, &outcome);
        log.begin();
        if let Outcome::Failed(failure) = &outcome {
            if aloud {
                lines.tell(&wnid.to_string(), failure, Instant::now());
            }
            if let Err(error) = log.note(wnid, failure) {
                tracing::warn!("failed to {error}");
            }
        }
    })?;
    lines
        .rest(Instant::now())
        .iter()
        .for_each(|line| tracing::warn!("{line}"));
    if run.resumed {
        tracing::info!(
            run = run.run_id,
            settled = table.status().settled(),
            "going on with the run"
        );
    }
    Ok(())
}

/// Restores what an earlier process of the run has promised to workers: the owners of names, the
/// processes that are drained, and the classes that may be leased. If workers may return, prints
/// which are waited for.
pub(super) fn restore_workers(
    ledger: &Ledger,
    run: &Run,
    mut table: LeaseTable,
    may_come_back: bool,
    screen: &Screen,
) -> Result<LeaseTable, LedgerError> {
    if let Some(mark) = ledger.granted(run)? {
        table = table.granted_before(mark);
    }
    table.restore_names(ledger.names()?);
    table.restore_drains(ledger.drains()?);
    let now = Instant::now();
    if run.resumed && may_come_back {
        table.recover(ledger.workers()?, now);
    }
    if let Some(expected) = table.expected().filter(|_| !table.status().is_done()) {
        let line = waiting_for(expected, now, SystemTime::now());
        tracing::info!("{line}");
        screen.say(&line);
    }
    Ok(table)
}

/// The message about the workers that a restarted coordinator waits for, and until when.
fn waiting_for(expected: &Expected, now: Instant, time: SystemTime) -> String {
    let workers = match expected.workers.as_slice() {
        [worker] => format!("worker {worker}"),
        workers => format!("workers {}", named(workers)),
    };
    let until = time + expected.until.saturating_duration_since(now);
    let until = humantime::format_rfc3339_seconds(until).to_string();
    let until = until
        .get("2026-01-01T".len()..)
        .unwrap_or(&until)
        .trim_end_matches('Z');
    format!(
        "started again: classes that were granted before the restart wait for {workers}, until {until} UTC at the latest; \
         all others are granted now"
    )
}

/// The first names, and the number of the others.
fn named(workers: &[String]) -> String {
    let names = workers
        .iter()
        .take(MAX_NAMES)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match workers.len().saturating_sub(MAX_NAMES) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// Restores the classes that a previous run left complete, with their workers, and the workers that
/// are waited for.
fn restore_elsewhere(
    ledger: &Ledger,
    run: &Run,
    table: &mut LeaseTable,
    expected: &[String],
) -> Result<(), LedgerError> {
    ledger.complete_before(run, |wnid, worker| {
        table.was_complete_on(wnid, worker, run.resumed);
    })?;
    table.expect(expected, Instant::now());
    Ok(())
}

/// Notes the rows without a class id, which the table counts as failed from the start, and writes
/// the log.
fn log_invalid(rows: &[InvalidRow], log: &mut FailureLog) {
    let mut lines = FailureLines::default();
    for row in rows {
        let failure = Failure::new(
            FailureKind::InvalidWnid,
            format!("line {}: {InvalidWnid}", row.line),
        );
        lines.tell(failure_log::shown(row), &failure, Instant::now());
        if let Err(error) = log.note_invalid(row, &failure) {
            tracing::warn!("failed to {error}");
        }
    }
    lines
        .rest(Instant::now())
        .iter()
        .for_each(|line| tracing::warn!("{line}"));
    if let Err(error) = log.catch_up() {
        tracing::warn!("failed to {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_line_names_the_workers_that_are_waited_for_and_the_deadline() {
        let now = Instant::now();
        let time = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let said = |count: usize| {
            let workers = (1..=count).map(|number| format!("w{number}")).collect();
            waiting_for(
                &Expected {
                    workers,
                    until: now + Duration::from_secs(40),
                },
                now,
                time,
            )
        };
        assert_eq!(
            said(1),
            "started again: classes that were granted before the restart wait for worker w1, until 01:00:40 UTC at the \
             latest; all others are granted now"
        );
        assert!(
            said(2).contains("wait for workers w1, w2, until"),
            "{}",
            said(2)
        );
        assert!(said(23).contains(", w20 and 3 more, until"), "{}", said(23));
    }
}

//! Restores the state that is known before a job begins into its lease table and its failure log.

use std::time::SystemTime;

use shared::{
    InvalidWnid,
    class_list::{ClassList, InvalidRow},
    failure_lines::{FailureLines, warn_each},
    job_line::Screen,
    outcome::{Failure, FailureKind, Outcome},
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    CoordinatorError, digest,
    retry_failed::{self, JobClasses},
};
use crate::{
    config::Plan,
    failure_log::{self, FailureLog, warn_if_failed},
    lease_table::{Expected, LeaseTable},
    ledger::{Ledger, LedgerError, Record, Run, Writer},
    rpc::service::LeaseTerms,
    wording::first_names,
};

/// A job with everything that the ledger knows about it.
pub(super) struct RestoredJob {
    pub(super) table: LeaseTable,
    pub(super) terms: LeaseTerms,
    pub(super) writer: Writer,
    /// The ledger's thread.
    pub(super) writers: JoinSet<Result<(), LedgerError>>,
}

impl RestoredJob {
    /// Opens the ledger and begins or continues a run, whose id the plan gets. `None` if there is
    /// nothing to do; then no run begins. `may_come_back`: whether workers of an earlier process of
    /// the run may return.
    pub(super) async fn open(
        plan: &mut Plan,
        classes: &ClassList,
        may_come_back: bool,
        screen: &Screen,
    ) -> Result<Option<Self>, CoordinatorError> {
        let mut ledger = retry_failed::open_ledger(plan)?;
        let digest = digest(classes, &plan.job.url, plan.retry_failed);
        let url = plan.job.url.to_string();
        let job_classes = JobClasses::of(plan, classes, &ledger, &digest, screen).await?;
        let Some(job_classes) = job_classes else {
            return Ok(None);
        };
        let terms = LeaseTerms {
            epoch: ledger.next_epoch()?,
            ttl: plan.lease_ttl,
        };
        let run = ledger.run(&digest, &url, plan.stay)?;
        plan.job.run_id.clone_from(&run.run_id);
        let mut log = FailureLog::open(&plan.target)?;
        let table = restored_table(plan, classes, &job_classes, &ledger, &run, terms, &mut log)?;
        let job_classes = job_classes.still_skipped(&table);
        let table = restore_workers(&ledger, &run, table, may_come_back, screen)?;
        let mut writers = JoinSet::new();
        let writer = ledger.start_writer(run, terms.ttl, log, &mut writers)?;
        job_classes.keep(&writer).await;
        Ok(Some(Self {
            table,
            terms,
            writer,
            writers,
        }))
    }
}

/// The lease table of a job with the known states of its classes, also of those that a previous run
/// left complete, and with the workers that are waited for. Writes the failures to the failure log
/// too.
fn restored_table(
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
    for Record { wnid, outcome, .. } in &job_classes.there {
        table.restore(*wnid, outcome);
    }
    restore(ledger, run, &mut table, log, plan.stay)?;
    ledger.complete_before(run, |wnid, worker| {
        table.was_complete_on(wnid, worker, run.resumed);
    })?;
    table.expect(&plan.expect, Instant::now());
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
            warn_if_failed(log.note(wnid, failure));
        }
    })?;
    warn_each(lines.rest(Instant::now()));
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
fn restore_workers(
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
        screen.write_line(&line);
    }
    Ok(table)
}

/// The message about the workers that a restarted coordinator waits for, and until when.
fn waiting_for(expected: &Expected, now: Instant, time: SystemTime) -> String {
    let workers = match expected.workers.as_slice() {
        [worker] => format!("worker {worker}"),
        workers => format!(
            "workers {}",
            first_names(workers.iter().map(String::as_str))
        ),
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
        warn_if_failed(log.note_invalid(row, &failure));
    }
    warn_each(lines.rest(Instant::now()));
    warn_if_failed(log.catch_up());
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
                    at_first: count,
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

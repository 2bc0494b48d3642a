//! The last words of a finished job: why classes failed, and the table.

use std::{io::Write, path::PathBuf, time::Duration};

use shared::{class_list::ClassList, exit_code::Exit, job::JobStatus, job_line::Screen, outcome::FailureKind};

use tokio::time::timeout;

use super::Job;
use crate::{
    failure_log,
    ledger::{Cause, Ledger},
    summary,
};

/// The end of a job does not wait for longer for a ledger whose disk hangs.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// What is told of a finished job beside its counts.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Rows of the list that repeat a class.
    pub(super) duplicates: u64,
    pub(super) causes: Vec<Cause>,
    /// The failure log.
    pub(super) log: PathBuf,
    /// What the user can do.
    pub(super) advice: Option<&'static str>,
}

impl Job {
    /// Collects what the end of the job tells, while the ledger can be asked.
    pub(super) async fn closing(&self, classes: &ClassList) -> Closing {
        let log = self.target.join(failure_log::NAME);
        let mut closing = Closing { duplicates: classes.duplicates, log, ..Closing::default() };
        let status = self.handle.status();
        if status.is_done() && status.failed > 0 {
            let causes = timeout(READ_LIMIT, self.writer.read(Ledger::causes)).await;
            closing.causes = causes.ok().flatten().unwrap_or_default();
            let invalid = classes.invalid.len() as u64;
            let rows = Cause { classes: invalid, text: FailureKind::InvalidWnid.to_string() };
            closing.advice = self.handle.advice().await.ok().flatten();
            closing.causes.extend((invalid > 0).then_some(rows));
        }
        closing
    }
}

/// The table of a finished job, below all that the screen shows, and before it the causes of the
/// failures. The log has both, too, for when standard output does not take them.
pub(super) fn summed_up(out: impl Write, screen: &Screen, status: &JobStatus, closing: Closing) -> Exit {
    let JobStatus { total, success, skipped, failed, .. } = *status;
    let duplicates = closing.duplicates;
    if let Some(failures) = summary::failures_in_words(closing.causes, &closing.log, closing.advice) {
        tracing::info!("{failures}");
        screen.say(&failures);
    }
    tracing::info!(success, skipped, failed, total, duplicates, "the job is done");
    screen.flush();
    if let Err(error) = summary::write(out, status, duplicates) {
        tracing::warn!("failed to write the summary to standard output: {error}");
    }
    summary::exit(status)
}

//! The closing report of a finished job: the causes of failures, and the table.

use std::{io::Write, path::PathBuf, time::Duration};

use shared::{
    class_list::ClassList, exit_code::Exit, job::JobStatus, job_line::Screen, outcome::FailureKind,
};

use tokio::time::timeout;

use super::Job;
use crate::{
    failure_log,
    ledger::{Cause, Ledger},
    summary,
};

/// Maximum wait for the ledger at the end of a job, in case its disk hangs.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The closing report, without the counts.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Rows of the list that repeat a class.
    pub(super) duplicates: u64,
    pub(super) causes: Vec<Cause>,
    /// The path of the failure log.
    pub(super) log: PathBuf,
    /// A remedy for the user.
    pub(super) advice: Option<&'static str>,
}

impl Job {
    /// Collects the closing report while the ledger can still be read.
    pub(super) async fn closing(&self, classes: &ClassList) -> Closing {
        let mut closing = Closing {
            duplicates: classes.duplicates,
            log: self.target.join(failure_log::NAME),
            ..Closing::default()
        };
        let status = self.status();
        if status.is_done() && status.failed > 0 {
            let causes = timeout(READ_LIMIT, self.writer.read(Ledger::causes)).await;
            closing.causes = causes.ok().flatten().unwrap_or_default();
            if !classes.invalid.is_empty() {
                closing.causes.push(Cause {
                    classes: classes.invalid.len() as u64,
                    text: FailureKind::InvalidWnid.to_string(),
                });
            }
            let advice = self.service.dispatcher.advice().await;
            closing.advice = advice.ok().flatten();
        }
        closing
    }
}

/// Writes the table of a finished job below all other output of the screen, and before it the
/// causes of the failures. The log receives both too, in case standard output fails.
pub(super) fn summed_up(
    out: impl Write,
    screen: &Screen,
    status: &JobStatus,
    closing: Closing,
) -> Exit {
    let JobStatus {
        total,
        success,
        skipped,
        failed,
        ..
    } = *status;
    let duplicates = closing.duplicates;
    if let Some(failures) = summary::failures_in_words(closing.causes, &closing.log, closing.advice)
    {
        tracing::info!("{failures}");
        screen.write_warning(&failures);
    }
    tracing::info!(
        success,
        skipped,
        failed,
        total,
        duplicates,
        "the job is done"
    );
    screen.flush();
    if let Err(error) = summary::write(out, status, duplicates) {
        tracing::warn!("failed to write the summary to standard output: {error}");
    }
    summary::exit(status)
}

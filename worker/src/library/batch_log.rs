//! The log lines of a batch, with the words and levels of the programs.

use std::path::Path;

use shared::{
    Wnid,
    failure_lines::{FailureLines, warn_each},
    job::JobOptions,
    outcome::Outcome,
};
use tokio::time::Instant;

use super::Stats;

/// What was logged of a batch so far.
#[derive(Debug, Default)]
pub(super) struct BatchLog(FailureLines);

impl BatchLog {
    /// The batch begins with these classes. `stats` has the ids that are none.
    pub(super) fn begins(
        &mut self,
        classes: &[Wnid],
        stats: &Stats,
        target: &Path,
        job: &JobOptions,
    ) {
        tracing::info!(
            url = %job.url,
            target = %target.display(),
            classes = classes.len(),
            invalid = stats.failed,
            duplicates = stats.duplicates,
            "starting"
        );
        for failed in &stats.failures {
            self.0
                .tell(&failed.part_id, &failed.failure, Instant::now());
        }
    }

    /// A class has ended.
    pub(super) fn ended(&mut self, part_id: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Success(published) => {
                tracing::info!(wnid = part_id, files = published.files, "complete");
            }
            Outcome::Skipped(_) => tracing::info!(wnid = part_id, "was complete before"),
            Outcome::Failed(failure) => self.0.tell(part_id, failure, Instant::now()),
        }
        warn_each(self.0.due(Instant::now()));
    }

    /// The batch has ended with these counts, or was stopped.
    pub(super) fn ends(&mut self, stats: &Stats) {
        warn_each(self.0.rest(Instant::now()));
        let Stats {
            success,
            skipped,
            failed,
            ..
        } = *stats;
        tracing::info!(success, skipped, failed, "finished");
    }
}

//! The job's counts as a stream.

use futures_util::{Stream, stream};
use shared::job::JobStatus;
use tokio::sync::watch;

/// The current counts, then each change, up to the counts of the finished job.
pub(super) fn changes(watch: watch::Receiver<JobStatus>) -> impl Stream<Item = JobStatus> {
    stream::unfold(Some((watch, true)), |state| async move {
        let (mut watch, first) = state?;
        if !first {
            watch.changed().await.ok()?;
        }
        let status = *watch.borrow_and_update();
        Some((status, (!status.is_done()).then_some((watch, false))))
    })
}

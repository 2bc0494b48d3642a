//! The job's counts as a stream.

use std::time::Duration;

use futures_util::{Stream, stream};
use shared::job::JobStatus;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Minimum interval of messages between which only the bytes or the time left have changed. They
/// change with each observation of each worker.
const BYTES_INTERVAL: Duration = Duration::from_secs(1);

/// The current counts, then each change, up to the counts of the finished job.
pub(super) fn changes(watch: watch::Receiver<JobStatus>) -> impl Stream<Item = JobStatus> {
    stream::unfold(Some((watch, None)), |state| async move {
        let (mut watch, last) = state?;
        if let Some((last, at)) = last {
            let differs = |status: &JobStatus| counts(status) != counts(&last);
            let changed = timeout_at(at + BYTES_INTERVAL, watch.wait_for(differs));
            let is_open = match changed.await.map(|changed| changed.is_ok()) {
                Ok(is_open) => is_open,
                Err(_) => watch.wait_for(|status| *status != last).await.is_ok(),
            };
            if !is_open {
                return None;
            }
        }
        let status = *watch.borrow_and_update();
        let next = (!status.is_done()).then(|| (watch, Some((status, Instant::now()))));
        Some((status, next))
    })
}

/// The counts without the bytes and the time left.
fn counts(status: &JobStatus) -> JobStatus {
    JobStatus {
        received_bytes: 0,
        time_left: None,
        ..*status
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_sent_once_a_second_and_counts_at_once() {
        let start = Instant::now();
        let mut status = JobStatus {
            total: 2,
            pending: 2,
            ..JobStatus::default()
        };
        let sender = watch::Sender::new(status);
        let mut changes = pin!(changes(sender.subscribe()));
        assert_eq!(changes.next().await, Some(status));
        status.received_bytes = 1;
        sender.send_replace(status);
        assert_eq!(changes.next().await, Some(status));
        assert_eq!(start.elapsed(), BYTES_INTERVAL);
        status.pending = 1;
        status.leased = 1;
        sender.send_replace(status);
        assert_eq!(changes.next().await, Some(status));
        assert_eq!(start.elapsed(), BYTES_INTERVAL);
        status.pending = 0;
        status.leased = 0;
        status.success = 2;
        sender.send_replace(status);
        assert_eq!(changes.next().await, Some(status));
        assert_eq!(changes.next().await, None);
    }
}

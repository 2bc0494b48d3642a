//! The end of a job: waits for the workers to leave, then stops the tasks in phases, each with a
//! deadline.

use std::time::Duration;

use shared::job::JobStatus;
use shared::protocol::RENEWALS_PER_TTL;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Job;
use crate::{
    dispatcher::DispatcherHandle,
    ledger::{Entry, LedgerError},
    running_time::RunningTime,
};

/// Remote workers have this long to receive the end of the job and to leave.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(15);
/// A worker whose heartbeat is late by more than this is not waited for.
const HEARTBEAT_TOLERANCE: Duration = Duration::from_secs(5);
/// Interval at which the remaining workers are checked.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The worker in this process has this long to return its leases when the job is stopped.
pub(super) const RETURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for remote workers to receive the stop directive. They keep their leases and wait for the
/// next coordinator.
pub(super) const STOP_NOTICE: Duration = Duration::from_secs(1);
/// Time for connections to close after that.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for workers that stop.
pub(super) enum Grace {
    /// For the worker in this process, until it has cleaned up; for remote workers, as long as they
    /// can be expected to send another request.
    Finished,
    /// This long for all workers.
    Limited(Duration),
}

impl Job {
    /// Waits for the workers to leave, closes the connections and the ledger, and returns the last
    /// counts.
    pub(super) async fn stop(
        mut self,
        grace: Grace,
        abort: &CancellationToken,
    ) -> Result<JobStatus, LedgerError> {
        let dispatcher = &self.service.dispatcher;
        let mut status = dispatcher.watch();
        let all_left = async {
            match grace {
                Grace::Finished => {
                    let elsewhere = all_have_been_told(dispatcher.clone(), self.service.terms.ttl);
                    let cleaned_up = async { while self.worker.join_next().await.is_some() {} };
                    tokio::join!(elsewhere, cleaned_up).0
                }
                Grace::Limited(limit) => {
                    let all_left = async {
                        drop(status.wait_for(|status| status.workers == 0).await);
                        while self.worker.join_next().await.is_some() {}
                    };
                    timeout(limit, all_left).await.is_ok()
                }
            }
        };
        tokio::select! {
            all_left = all_left => if !all_left {
                tracing::info!(workers = dispatcher.status().workers, "workers did not leave in time");
            },
            () = abort.cancelled() => {}
        }
        self.service.shutdown.abort.cancel();
        let closed = async { while self.servers.join_next().await.is_some() {} };
        if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::info!("connections did not close in time");
        }
        self.servers.shutdown().await;
        // The worker's tasks must end first: the end of the runtime would cancel them at any point.
        drop(timeout(CLOSE_TIMEOUT, self.worker.shutdown()).await);
        self.dashboard.finish().await;
        // After the last message, for which the dispatcher has handled each earlier retry.
        let status = self.status();
        drop(self.service);
        self.dispatcher.shutdown().await;
        self.writer
            .write(Entry {
                finished: status.is_done(),
                ..Entry::default()
            })
            .await;
        drop(self.writer);
        while let Some(written) = self.writers.join_next().await {
            written.expect("the ledger's thread does not panic")?;
        }
        self.endpoints.shutdown().await;
        drop(self.socket);
        Ok(status)
    }
}

/// Waits until every remaining worker has received the end of the job, at most [`LEAVE_TIMEOUT`].
/// Returns whether all have. A worker in backoff asks again soon. A worker without a heartbeat for
/// longer than its interval and [`HEARTBEAT_TOLERANCE`] is disconnected or gone. Time in which this
/// process was suspended does not count.
pub(super) async fn all_have_been_told(handle: DispatcherHandle, lease_ttl: Duration) -> bool {
    let mut status = handle.watch();
    let begun = Instant::now();
    let mut time = RunningTime::starting_at(begun);
    loop {
        status.mark_unchanged();
        if handle
            .heard_of(lease_ttl / RENEWALS_PER_TTL + HEARTBEAT_TOLERANCE)
            .await
            .map_or(true, |workers| workers == 0)
        {
            return true;
        }
        if time.at(Instant::now()) - begun >= LEAVE_TIMEOUT {
            return false;
        }
        // A worker that leaves changes the counts. For one that is silent only the time since its
        // last message grows.
        tokio::select! {
            Ok(()) = status.changed() => {}
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}

//! The job's counts, and their conversion to and from the wire.

use std::time::Duration;

use crate::protocol::milliseconds;

/// The job's counts. `success + skipped + failed + leased + pending = total`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// Rows of the CSV, duplicates counted once.
    pub total: u64,
    /// Classes completed by this run.
    pub success: u64,
    /// Classes that were complete before this run.
    pub skipped: u64,
    /// Classes that failed in this run.
    pub failed: u64,
    /// Classes that a worker holds.
    pub leased: u64,
    /// Classes that are neither leased nor settled.
    pub pending: u64,
    /// Number of workers with a session.
    pub workers: u32,
    /// Bytes received from the origin in this run.
    pub received_bytes: u64,
    /// Estimated time until the last class is settled, in whole seconds. `None` if it is not known
    /// or no bytes are received.
    pub time_left: Option<Duration>,
}

impl JobStatus {
    /// Number of settled classes.
    pub fn settled(&self) -> u64 {
        self.success
            .saturating_add(self.skipped)
            .saturating_add(self.failed)
    }

    /// Whether every class is settled.
    pub fn is_done(&self) -> bool {
        self.settled() == self.total
    }
}

impl From<JobStatus> for proto::JobStatus {
    fn from(status: JobStatus) -> Self {
        Self {
            total: status.total,
            success: status.success,
            skipped: status.skipped,
            failed: status.failed,
            leased: status.leased,
            pending: status.pending,
            workers: status.workers,
            received_bytes: status.received_bytes,
            done: status.is_done(),
            time_left_ms: status.time_left.map(milliseconds),
        }
    }
}

impl From<proto::JobStatus> for JobStatus {
    fn from(wire: proto::JobStatus) -> Self {
        Self {
            total: wire.total,
            success: wire.success,
            skipped: wire.skipped,
            failed: wire.failed,
            leased: wire.leased,
            pending: wire.pending,
            workers: wire.workers,
            received_bytes: wire.received_bytes,
            time_left: wire.time_left_ms.map(Duration::from_millis),
        }
    }
}

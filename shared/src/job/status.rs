//! The job's counts, and how they go over the wire.

use std::time::Duration;

/// The job's counts. `success + skipped + failed + leased + pending = total`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobStatus {
    /// Rows of the CSV, duplicates counted once.
    pub total: u64,
    /// Completed by this run.
    pub success: u64,
    /// Complete before this run.
    pub skipped: u64,
    /// Failed in this run.
    pub failed: u64,
    /// With a worker now.
    pub leased: u64,
    /// Not leased.
    pub pending: u64,
    /// Workers with a session.
    pub workers: u32,
    /// Bytes received from the origin in this run.
    pub received_bytes: u64,
    /// Estimated time until the last class has ended, in whole seconds. `None`: not known, or no
    /// bytes come.
    pub time_left: Option<Duration>,
}

impl JobStatus {
    /// Classes that have ended.
    pub fn settled(&self) -> u64 {
        self.success.saturating_add(self.skipped).saturating_add(self.failed)
    }

    /// Every class has ended.
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

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

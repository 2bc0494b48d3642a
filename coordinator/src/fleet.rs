//! The state of the whole fleet as plain values, for status commands and other tools.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use shared::{Wnid, job::JobStatus, job_line::short, outcome::Failure};

pub use crate::concurrency::WaitsFor;
use crate::concurrency::{ConcurrencyStatus, as_milliseconds};

mod live_view;

#[cfg(test)]
pub(crate) use live_view::CHANGES;
pub use live_view::{HeldClass, JobList, LimitChange, LimitChanges, LiveView, Recovery};

/// The fleet at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The job's counts.
    pub job: JobStatus,
    /// What the coordinator is doing.
    pub phase: Phase,
    /// The state of the concurrency controller.
    pub origin: ConcurrencyStatus,
    /// The workers with a session and those that were lost, by name.
    pub workers: Vec<WorkerView>,
}

/// What the coordinator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Workers get leases.
    Running,
    /// The coordinator was restarted. Classes that a worker may still hold are not granted until
    /// that worker has reconnected or its lease has expired.
    Recovering,
    /// Classes are pending, and no worker has a session.
    WaitingForWorkers,
    /// The origin fails for all workers. One class at a time is retried until it responds.
    OriginPaused,
    /// Every class is settled.
    Done,
    /// A shutdown was requested. The service sets this phase; the lease table does not know it.
    Stopping,
}

impl Phase {
    /// The phase as a line for people.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Recovering => {
                "started again: classes that were granted before the restart wait for their workers"
            }
            Self::WaitingForWorkers => "waiting for workers",
            Self::OriginPaused => {
                "paused: no class can be had from the origin; one class tries again every 30 s"
            }
            Self::Done => "done",
            Self::Stopping => "stopping",
        }
    }
}

/// A worker as the coordinator sees it. Its JSON form is that of `coordinator status --json`, whose
/// help documents the names of the fields, so they are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// Whether it gets leases, and whether it is heard of.
    pub state: WorkerState,
    /// Parallel downloads.
    pub slots: u32,
    /// Classes that it holds, including speculative attempts. The sum over all workers may
    /// therefore exceed the job's leased classes.
    pub leased: u32,
    /// Classes that it has settled as success in this session.
    pub success: u64,
    /// Classes that it has settled as skipped in this session.
    pub skipped: u64,
    /// Classes that it has settled as failed in this session.
    pub failed: u64,
    /// Bytes received from the origin since its process started.
    pub received_bytes: u64,
    /// Time since its last call or observation.
    #[serde(rename = "silent_ms", serialize_with = "as_milliseconds")]
    pub silent: Duration,
    /// Id of its storage; empty if unknown.
    #[serde(rename = "storage_id")]
    pub storage: String,
    /// Version of its program.
    pub build: String,
    /// Since when it is in that state; a silent one since it was last heard of.
    #[serde(rename = "since_at_ms", serialize_with = "as_unix_milliseconds")]
    pub since: SystemTime,
    /// Bytes that it receives each second, smoothed over about 5 s; 0 if it is not heard of.
    pub bytes_per_second: u64,
    /// Free bytes on the storage of its target; `None` if unknown.
    pub disk_free: Option<u64>,
    /// What keeps it from sending more requests to the origin, if something does.
    pub waits_for: Option<WaitsFor>,
    /// Name of its host; empty if unknown.
    pub host: String,
}

/// Filter for a list of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListedState {
    /// Classes that a worker holds.
    Leased,
    /// Classes that have failed in this run.
    Failed,
}

/// A class that is leased or has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassView {
    /// The class.
    pub wnid: Wnid,
    /// Name of its worker; empty if unknown.
    pub worker: String,
    /// Offset in the tar from the worker's last progress report.
    pub bytes: u64,
    /// Length of the tar; 0 if unknown.
    pub length: u64,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// One page of a list of classes, ordered by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassPage {
    /// The classes.
    pub classes: Vec<ClassView>,
    /// Whether classes may follow after the last one.
    pub more: bool,
}

/// Whether a worker gets leases, and whether it is heard of. The later in this order, the more it
/// needs attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Gets leases.
    Active,
    /// Finishes its leases and exits.
    Draining,
    /// Failed classes that other workers can download, and gets no lease for a while.
    Quarantined,
    /// Neither a call nor an observation for three intervals of observations. For display only: its leases last as long
    /// as those of any other worker.
    Silent,
    /// Its session has expired, and it has not registered again.
    Lost,
}

impl WorkerState {
    /// All states, in their order.
    pub const ALL: [Self; 5] = [
        Self::Active,
        Self::Draining,
        Self::Quarantined,
        Self::Silent,
        Self::Lost,
    ];

    /// The word for tables, labels of metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
            Self::Silent => "silent",
            Self::Lost => "lost",
        }
    }
}

/// The classes that workers hold, the longest-held first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfers {
    /// The number of all.
    pub total: u64,
    /// The longest-held of them.
    pub first: Vec<TransferView>,
}

/// A class that a worker holds, as of its last observation or heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferView {
    /// The class.
    pub wnid: Wnid,
    /// The name of its worker.
    pub worker: String,
    /// Offset in the tar.
    pub bytes: u64,
    /// Length of the tar; 0 if unknown.
    pub length: u64,
    /// What the worker does with the class.
    pub step: TransferStep,
    /// 1, or 2 for a speculative attempt.
    pub attempt: u8,
}

/// What a worker does with a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferStep {
    /// Downloads it, or waits for a connection.
    Download,
    /// Reads a local tar, or verifies a folder.
    Local,
    /// The tar is received; the folder is published or its result is reported.
    Publish,
}

/// Serializes a time as whole milliseconds since the Unix epoch; 0 for earlier times.
fn as_unix_milliseconds<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(unix_milliseconds(*time))
}

/// Whole milliseconds since the Unix epoch; 0 for earlier times.
pub(crate) fn unix_milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The state of the concurrency controller as one line.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn in_words(origin: &ConcurrencyStatus) -> String {
    let line = format!(
        "origin: {} of at most {} connections, {}B/s",
        origin.open,
        origin.limit,
        short(origin.bytes_per_second as f64)
    );
    if origin.pause.is_zero() {
        return line;
    }
    let seconds = origin.pause.as_secs_f64().ceil();
    format!("{line}, no requests for {seconds}s")
}

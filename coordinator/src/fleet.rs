//! The state of the whole fleet as plain values, for status commands and other tools.

use std::time::Duration;

use serde::Serialize;
use shared::{Wnid, job::JobStatus, job_line::short, outcome::Failure};

use crate::concurrency::{ConcurrencyStatus, as_milliseconds};

/// The fleet at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The job's counts.
    pub job: JobStatus,
    /// What the coordinator is doing.
    pub phase: Phase,
    /// The state of the concurrency controller.
    pub origin: ConcurrencyStatus,
    /// The workers with a session, by name.
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

/// A worker as the coordinator sees it. Its JSON form is that of `coordinator status --json`, whose
/// help documents the names of the fields, so they are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// Whether it gets leases.
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
    /// Time since its last call.
    #[serde(rename = "silent_ms", serialize_with = "as_milliseconds")]
    pub silent: Duration,
    /// Id of its storage; empty if unknown.
    #[serde(rename = "storage_id")]
    pub storage: String,
    /// Version of its program.
    pub build: String,
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

/// Whether a worker gets leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Gets leases.
    Active,
    /// Finishes its leases and exits.
    Draining,
    /// Failed classes that other workers can download, and gets no lease for a while.
    Quarantined,
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
    format!("{line}, left alone for {seconds}s")
}

//! The messages of version 1 of the HTTP API, `deploy/http-api.md`: the whole state of the job, and
//! the changes between two states.
//!
//! Times are Unix milliseconds (`_at_ms`) or durations in milliseconds (`_ms`), sizes bytes, rates
//! bytes per second. An unknown figure is `null`.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    history::{Mark, Point},
    runs::runs,
};
use crate::fleet::{Phase, TransferStep, WorkerState};

/// Version of the API.
pub(super) const API: u32 = 1;

/// The whole state of the job at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Snapshot {
    /// [`API`].
    pub(super) api: u32,
    /// Version of the coordinator.
    pub(super) version: &'static str,
    /// Id of the run.
    #[serde(serialize_with = "as_text")]
    pub(super) run_id: Arc<str>,
    /// Number of the coordinator's start.
    pub(super) epoch: u32,
    /// Number of the snapshot in this epoch.
    pub(super) seq: u64,
    /// The coordinator's clock.
    pub(super) at_ms: u64,
    /// The counts and times of the job.
    pub(super) job: Job,
    /// What the coordinator does.
    pub(super) state: State,
    /// The connections to the origin.
    pub(super) origin: Origin,
    /// The workers, summarized.
    pub(super) workers: Workers,
    /// The running transfers, summarized.
    pub(super) transfers: Transfers,
    /// The failures by cause.
    pub(super) failures: Failures,
    /// The state of each class.
    pub(super) classes: Classes,
    /// Throughput and connections since the run began.
    pub(super) history: History,
    /// The command that retries failed classes, up to their ids.
    #[serde(serialize_with = "as_text")]
    pub(super) command: Arc<str>,
}

/// The counts and times of the job. `success + skipped + failed + leased + pending = total`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Job {
    pub(super) total: u64,
    pub(super) success: u64,
    pub(super) skipped: u64,
    pub(super) failed: u64,
    pub(super) leased: u64,
    pub(super) pending: u64,
    pub(super) received_bytes: u64,
    pub(super) time_left_ms: Option<u64>,
    pub(super) time_left_low_ms: Option<u64>,
    pub(super) time_left_high_ms: Option<u64>,
    pub(super) done: bool,
    pub(super) started_at_ms: u64,
    pub(super) ended_at_ms: Option<u64>,
}

/// What the coordinator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct State {
    /// The phase of the job.
    pub(super) phase: Phase,
    /// Why nothing moves; empty if the phase says it. `{until}` is the place of `until_ms`, which a
    /// viewer writes in its own time zone.
    pub(super) sentence: String,
    /// The end of the wait, if there is one.
    pub(super) until_ms: Option<u64>,
    /// The run only tests: it downloads nothing. Such a run has no HTTP port, so this is false.
    pub(super) dry: bool,
}

/// The connections to the origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Origin {
    pub(super) limit: u32,
    pub(super) open: u32,
    pub(super) wanted: u32,
    pub(super) bytes_per_second: u64,
    pub(super) upper_bound: Option<u32>,
    pub(super) requests: u64,
    pub(super) cuts: u64,
    pub(super) refusals: u64,
    pub(super) overloads: u64,
    pub(super) quiet_until_ms: Option<u64>,
    pub(super) first_failure: Option<String>,
}

/// The workers, summarized.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Workers {
    /// Number of workers, also of lost ones.
    pub(super) total: u64,
    /// Number of workers in each state that occurs.
    #[serde(serialize_with = "as_map")]
    pub(super) states: Vec<(WorkerState, u64)>,
    /// The worst ones, the worst first.
    pub(super) first: Vec<Worker>,
    /// Lowest rate, quartiles and highest rate of the active workers.
    pub(super) bytes_per_second: Option<[u64; 5]>,
}

/// One worker.
#[expect(
    missing_docs,
    reason = "the names are those of the API's documentation"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Worker {
    pub name: String,
    pub state: WorkerState,
    pub since_ms: Option<u64>,
    pub slots: u32,
    pub leased: u32,
    pub success: u64,
    pub skipped: u64,
    pub failed: u64,
    pub bytes_per_second: u64,
    pub received_bytes: u64,
    pub disk_free: Option<u64>,
    pub build: String,
    pub host: Option<String>,
    pub waits_for: String,
}

/// The running transfers, summarized.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Transfers {
    /// Number of transfers, including speculative attempts.
    pub(super) total: u64,
    /// The longest-running ones, the longest first.
    pub(super) first: Vec<Transfer>,
}

/// One transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Transfer {
    /// The class.
    pub(super) wnid: String,
    /// Name of the worker.
    pub(super) worker: String,
    /// Offset in the tar.
    pub(super) bytes: u64,
    /// Length of the tar; 0 if unknown.
    pub(super) length: u64,
    /// What the worker does with the class.
    pub(super) step: TransferStep,
    /// 2: a speculative attempt.
    pub(super) attempt: u32,
}

/// The failures by cause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Failures {
    /// Number of failed classes, without rows that have no class id.
    pub(super) total: u64,
    /// The most frequent causes.
    #[serde(serialize_with = "as_list")]
    pub(super) groups: Arc<[FailureGroup]>,
    /// Rows of the list that have no class id.
    pub(super) invalid_rows: u64,
}

/// Classes that failed for the same cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FailureGroup {
    /// The kind of failure.
    pub(super) kind: String,
    /// The reason, as far as all classes of the group have the same.
    pub(super) message: String,
    /// Number of classes.
    pub(super) count: u64,
    /// The first class ids.
    pub(super) classes: Vec<String>,
    /// The worker, if all have failed on one.
    pub(super) worker: Option<String>,
    /// Whether another attempt may succeed.
    pub(super) retryable: bool,
}

/// The state of each class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Classes {
    /// The class ids, see [`super::wnids`].
    #[serde(serialize_with = "as_text")]
    pub(super) wnids: Arc<str>,
    /// One letter for each row of the list; as JSON in runs, see [`super::runs`].
    #[serde(serialize_with = "as_runs")]
    pub(super) states: String,
}

/// Throughput and connections, and the changes of the limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct History {
    /// In a snapshot relative to the point before, see [`super::history`].
    #[serde(serialize_with = "super::history::as_differences")]
    pub(super) points: Vec<Point>,
    /// The last changes of the limit.
    pub(super) marks: Vec<Mark>,
}

/// What has changed between two snapshots. A part that has not changed is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Update {
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<Job>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workers: Option<Workers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transfers: Option<Transfers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failures: Option<Failures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) classes: Option<ClassChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) history: Option<NewHistory>,
}

/// The classes whose state has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct ClassChanges {
    /// Row and new letter.
    pub(super) changes: Vec<(usize, char)>,
}

/// What is new in the history.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct NewHistory {
    /// Points with absolute times and counts.
    pub(super) points: Vec<Point>,
    /// Changes of the limit.
    pub(super) marks: Vec<Mark>,
}

fn as_map<S: Serializer>(states: &[(WorkerState, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(states.iter().copied())
}

fn as_list<S: Serializer>(groups: &[FailureGroup], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(groups)
}

fn as_runs<S: Serializer>(states: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&runs(states))
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

//! What the coordinator tells of the whole fleet: plain values, for people and their tools.

use std::time::Duration;

use shared::{Wnid, job::JobStatus, job_line::short, outcome::Failure};

use crate::concurrency::PaceStatus;

/// The fleet at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The job's counts.
    pub job: JobStatus,
    /// What the coordinator is doing.
    pub phase: Phase,
    /// How gently the origin is treated.
    pub origin: PaceStatus,
    /// The workers with a session, by name.
    pub workers: Vec<WorkerView>,
}

/// What the coordinator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Leasing.
    Running,
    /// Started again: classes that a worker of its predecessor may hold are not granted before that is back, or its
    /// lease has run out.
    Recovering,
    /// There is work, and no worker.
    WaitingForWorkers,
    /// The origin fails everybody: one class at a time finds out whether it is back.
    OriginPaused,
    /// Every class is settled.
    Done,
    /// It was told to stop, which the service knows and the lease table does not.
    Stopping,
}

/// A worker as the coordinator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub state: WorkerState,
    /// Parallel downloads.
    pub slots: u32,
    /// Classes that it has now, second copies included: all workers together may have more than the job has leased.
    pub leased: u32,
    /// Classes that it has settled in this session, by outcome.
    pub success: u64,
    /// As `success`.
    pub skipped: u64,
    /// As `success`.
    pub failed: u64,
    /// Bytes received from the origin since its process started.
    pub received_bytes: u64,
    /// How long ago it was heard of.
    pub silent: Duration,
    /// Names its storage; empty where it is not known.
    pub storage: String,
    /// Its version.
    pub build: String,
}

/// Which classes are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListedState {
    /// Those with a worker.
    Leased,
    /// Those that have failed in this run.
    Failed,
}

/// A class with a worker, or one that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassView {
    /// The class.
    pub wnid: Wnid,
    /// Its worker; empty where that is not known.
    pub worker: String,
    /// Where in the tar the worker was when it last said so.
    pub bytes: u64,
    /// Length of the tar; 0 where it is not known.
    pub length: u64,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// A part of a list of classes, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassPage {
    /// The classes.
    pub classes: Vec<ClassView>,
    /// There may be others after the last.
    pub more: bool,
}

/// What a worker may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Gets leases.
    Active,
    /// Finishes what it holds and ends.
    Draining,
    /// Failed what others can do, and gets nothing for a while.
    Quarantined,
}

/// One line of how the origin is treated.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn in_words(origin: &PaceStatus) -> String {
    let PaceStatus { open, limit, quiet, bytes_per_second, .. } = *origin;
    let line = format!("origin: {open} of at most {limit} connections, {}B/s", short(bytes_per_second as f64));
    if quiet.is_zero() { line } else { format!("{line}, left alone for {}s", quiet.as_secs_f64().ceil()) }
}

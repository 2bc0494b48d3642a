//! Errors that end a worker.

use std::io;

use shared::threads::NoThread;

use crate::{fetch::context::JobContextError, storage::target::TargetError};

/// Why a worker could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator refused the worker permanently.
    #[error("work for the coordinator: {0}")]
    Refused(String),
    /// The target folder or the HTTP client could not be set up.
    #[error(transparent)]
    Context(#[from] JobContextError),
    /// The thread of the renewal task could not be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The runtime of the renewal task could not be created.
    #[error("renew leases: {0}; allow the process more open files")]
    Renewal(io::Error),
    /// The target failed during the run, e.g. because the disk is full.
    #[error(transparent)]
    Target(#[from] TargetError),
}

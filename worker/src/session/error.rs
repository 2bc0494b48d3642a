//! Errors that end a worker.

use crate::{
    fetch::context::JobContextError, session::heartbeat::RenewalError, storage::target::TargetError,
};

/// Why a worker could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator refused the worker permanently.
    #[error("work for the coordinator: {0}")]
    Refused(String),
    /// The target folder or the HTTP client could not be set up.
    #[error(transparent)]
    Context(#[from] JobContextError),
    /// The renewal task could not be started.
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    /// The target failed during the run, e.g. because the disk is full.
    #[error(transparent)]
    Target(#[from] TargetError),
}

//! Why a worker could not run, or not go on.

use crate::{fetch::context::SiteError, session::heartbeat::RenewalError, storage::target::TargetError};

/// Why a worker could not run, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator answered that it never will.
    #[error("work for the coordinator: {0}")]
    Refused(String),
    /// The target folder, or the HTTP client.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The thread of the renewals.
    #[error(transparent)]
    Renewal(#[from] RenewalError),
    /// The target failed on the way, e.g. because it is full.
    #[error(transparent)]
    Target(#[from] TargetError),
}

//! Options of [`download_batch`](super::download_batch), and the progress that it reports.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

pub use shared::protocol::DEFAULT_URL;

use shared::{
    job::{Durability, Existing, InvalidUrl, JobOptions, SecretHeader, UrlTemplate},
    job_line::Screen,
};
use tokio_util::sync::CancellationToken;

use super::{BatchError, Stats};
use crate::origin::limiter::Budget;

/// Options of [`download_batch`](super::download_batch). The defaults are those of the programs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URL, or a template that contains `{wnid}`.
    pub url: String,
    /// Parallel downloads, at least 1. Each has its own thread.
    pub workers: usize,
    /// Largest number of simultaneous connections to the origin, at least 1; `None`: one for each
    /// of `workers`.
    pub max_connections: Option<u32>,
    /// Limit in bytes per second from the origin, at least 1, as a mean over some seconds; `None`:
    /// no limit.
    pub max_rate: Option<u64>,
    /// Whether the tar is discarded (`false`: it is kept as `<wnid>.tar` beside the class folder).
    pub delete_tar: bool,
    /// Number of further attempts without progress after the first one.
    pub retries: u32,
    /// Longest time without a received byte.
    pub timeout: Duration,
    /// How a class folder without a manifest is treated.
    pub existing: Existing,
    /// The failures that a published class survives.
    pub durability: Durability,
    /// Folder on the target's file system in which classes are assembled; `None`: beside the
    /// target.
    pub staging: Option<PathBuf>,
    /// Additional certificate authorities for the origin, in PEM format.
    pub ca_pem: Vec<u8>,
    /// Additional request headers for the origin. They are never logged.
    pub headers: Vec<SecretHeader>,
    /// Called repeatedly while the batch runs.
    pub on_progress: Option<ProgressCallback>,
    /// How often `on_progress` is called while no class ends, at least a millisecond.
    pub progress_interval: Duration,
    /// Where the downloads are drawn as the programs draw them; [`Screen::Silent`]: nowhere.
    pub screen: Screen,
    /// Cancelling it stops the batch at checkpoints, see [`BatchError::Cancelled`].
    pub cancellation: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            workers: 10,
            max_connections: None,
            max_rate: None,
            delete_tar: false,
            retries: 5,
            timeout: Duration::from_mins(2),
            existing: Existing::default(),
            durability: Durability::default(),
            staging: None,
            ca_pem: Vec::new(),
            headers: Vec::new(),
            on_progress: None,
            progress_interval: Duration::from_millis(500),
            screen: Screen::Silent,
            cancellation: CancellationToken::new(),
        }
    }
}

impl Options {
    /// Refuses limits of zero, with which nothing could be downloaded.
    pub(super) fn check(&self) -> Result<(), BatchError> {
        let limits = [
            ("workers", self.workers == 0),
            ("max_connections", self.max_connections == Some(0)),
            ("max_rate", self.max_rate == Some(0)),
        ];
        match limits.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((option, _)) => Err(BatchError::Zero { option }),
            None => Ok(()),
        }
    }

    /// The fixed limits for requests to the origin. There is no coordinator that would adapt them.
    pub(super) fn budget(&self) -> Budget {
        let workers = u32::try_from(self.workers).unwrap_or(u32::MAX);
        Budget {
            version: 0,
            connections: self.max_connections.unwrap_or(workers),
            bytes_per_second: self.max_rate,
            pause: Duration::ZERO,
            observe_every: Duration::MAX,
            resumed: 0,
        }
    }

    pub(super) fn job(&self) -> Result<JobOptions, InvalidUrl> {
        Ok(JobOptions {
            run_id: format!("{:032x}", rand::random::<u128>()),
            url: UrlTemplate::parse(&self.url)?,
            delete_tar: self.delete_tar,
            retries: self.retries,
            timeout: self.timeout,
            existing: self.existing,
            durability: self.durability,
            ca_pem: self.ca_pem.clone(),
            headers: self.headers.clone(),
        })
    }
}

/// A callback for the progress of a batch: called at its start, whenever a class ends, and every
/// [`Options::progress_interval`]. It is called from the task that runs the batch and must not
/// block.
#[derive(Clone)]
pub struct ProgressCallback(Arc<dyn Fn(&BatchProgress<'_>) + Send + Sync>);

impl ProgressCallback {
    /// Wraps the function.
    pub fn new(callback: impl Fn(&BatchProgress<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(callback))
    }

    pub(super) fn call(&self, progress: &BatchProgress<'_>) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ProgressCallback")
            .finish_non_exhaustive()
    }
}

/// The progress of a batch.
#[derive(Debug, Clone)]
pub struct BatchProgress<'batch> {
    /// Number of distinct ids in the batch.
    pub total: u64,
    /// Results of the classes that have ended.
    pub stats: &'batch Stats,
    /// Bytes received from the origin by this call.
    pub received_bytes: u64,
    /// The classes that are being downloaded or unpacked.
    pub classes: Vec<ClassUnderWay>,
}

/// A class that is being downloaded or unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassUnderWay {
    /// Its id.
    pub part_id: String,
    /// Bytes of its tar that were received, in earlier calls too.
    pub position: u64,
    /// Length of its tar in bytes, once the origin has announced it.
    pub length: Option<u64>,
}

//! Options of [`download_batch`](super::download_batch), and what it tells while it runs.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use shared::job::{Durability, Existing, InvalidUrl, JobOptions, SecretHeader, UrlTemplate};
use tokio_util::sync::CancellationToken;

use super::{BatchError, Stats};
use crate::origin::limiter::Budget;

/// Where ImageNet's tars are.
pub const DEFAULT_URL: &str = "https://image-net.org/data/winter21_whole";

/// Options of [`download_batch`](super::download_batch); the defaults are those of the programs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URL, or a template that holds `{wnid}`.
    pub url: String,
    /// Parallel downloads, at least 1; each has a thread of its own.
    pub workers: usize,
    /// Connections to the origin at the same time, at least 1; `None`: one for each of `workers`.
    pub max_connections: Option<u32>,
    /// Bytes a second from the origin, at least 1, as a mean over some seconds; `None`: no limit.
    pub max_rate: Option<u64>,
    /// No tar is left behind (`false`: `<wnid>.tar` stands beside the class folder).
    pub delete_tar: bool,
    /// Attempts without progress, after the first.
    pub retries: u32,
    /// Longest time without a byte.
    pub timeout: Duration,
    /// What becomes of a class folder that has no manifest.
    pub existing: Existing,
    /// What a published class survives.
    pub durability: Durability,
    /// Folder in which classes are put together, on the target's file system; beside the target
    /// where it is not given.
    pub staging: Option<PathBuf>,
    /// Extra certificate authorities for the origin, PEM.
    pub ca_pem: Vec<u8>,
    /// Extra request headers for the origin; never logged.
    pub headers: Vec<SecretHeader>,
    /// Called while the batch runs.
    pub on_progress: Option<ProgressCallback>,
    /// Stops the batch at checkpoints when it is cancelled, see [`BatchError::Cancelled`].
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
            cancellation: CancellationToken::new(),
        }
    }
}

impl Options {
    /// Refuses limits of which nothing can be downloaded.
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

    /// What the origin may be asked for at once; there is no coordinator that would adapt it.
    pub(super) fn budget(&self) -> Budget {
        let workers = u32::try_from(self.workers).unwrap_or(u32::MAX);
        Budget {
            version: 0,
            connections: self.max_connections.unwrap_or(workers),
            bytes_per_second: self.max_rate,
            quiet: Duration::ZERO,
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

/// A function that is told of the progress of a batch: at its begin, when a class has ended, and
/// twice a second. It is called from the task that runs the batch and must not block.
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
        formatter.debug_tuple("ProgressCallback").finish_non_exhaustive()
    }
}

/// How far a batch is.
#[derive(Debug, Clone)]
pub struct BatchProgress<'batch> {
    /// Different ids of the batch.
    pub total: u64,
    /// What has become of those that have ended.
    pub stats: &'batch Stats,
    /// Bytes received from the origin by this call.
    pub received_bytes: u64,
    /// The classes that are being worked on.
    pub classes: Vec<ClassUnderWay>,
}

/// A class that is being worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassUnderWay {
    /// Its id.
    pub part_id: String,
    /// Bytes of its tar that are here, of former calls too.
    pub position: u64,
    /// Bytes of its tar, when the origin has told.
    pub length: Option<u64>,
}

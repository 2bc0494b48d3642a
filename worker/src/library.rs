//! The library for one program on one machine: a list of classes, a folder, and the counts at the end.

use std::{
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shared::{
    Wnid,
    class_list::{ClassList, ClassListError},
    ids::LeaseToken,
    job::{Durability, Existing, InvalidUrl, JobOptions, SecretHeader, UrlTemplate},
    job_line::Screen,
    outcome::{Failure, FailureKind, Outcome},
    telemetry::trace::TraceParent,
    threads,
};
use tokio::task::{JoinError, JoinSet};

use crate::{
    allowed_addresses::PrivateOrigin,
    lease_clock::LeaseClock,
    origin::Origin,
    pace::Gate,
    progress::Progress,
    site::{Site, SiteError},
    slots::{Lease, Slots},
    target::{Target, TargetError},
    unfinished::Unfinished,
};

/// Where ImageNet's tars are.
pub const DEFAULT_URL: &str = "https://image-net.org/data/winter21_whole";

/// Options of [`download_batch`]; the defaults are those of the programs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URL, or a template that holds `{wnid}`.
    pub url: String,
    /// Parallel downloads, at least 1; each has a thread of its own.
    pub workers: usize,
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            workers: 10,
            delete_tar: false,
            retries: 5,
            timeout: Duration::from_mins(2),
            existing: Existing::default(),
            durability: Durability::default(),
            staging: None,
            ca_pem: Vec::new(),
            headers: Vec::new(),
        }
    }
}

/// What became of a batch. `success + skipped + failed` is the number of different ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Completed by this call.
    pub success: u64,
    /// Complete before it.
    pub skipped: u64,
    /// Not there; `failures` says why.
    pub failed: u64,
    /// Images in the classes that were completed or skipped.
    pub files: u64,
    /// Each failed id with its reason, in the order in which they failed.
    pub failures: Vec<(String, Failure)>,
}

/// Why a batch could not run, or not go on. What was completed stays, and the same call goes on with the rest.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The URL.
    #[error("use the URL: {0}")]
    Url(#[from] InvalidUrl),
    /// No workers.
    #[error("download with 0 workers: give at least 1")]
    NoWorkers,
    /// The target folder, or the HTTP client.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The target failed on the way, e.g. because it is full.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Reads the ids of a CSV with a `wnid` column, each once, in their order; rows that hold no WordNet id are among them, so
/// that [`download_batch`] can report them.
///
/// # Errors
/// When the file cannot be read, has no `wnid` column, or no good row at all.
pub fn load_part_ids_from_csv(path: impl AsRef<Path>) -> Result<Vec<String>, ClassListError> {
    Ok(ClassList::read(path.as_ref())?.part_ids().collect())
}

/// Downloads the classes into `<target_path>/<wnid>/`, each published whole or not at all, and says what became of them.
///
/// Runs on the tokio runtime of the caller (multi-threaded or not) and draws nothing; log lines go to `tracing`. One class
/// that fails does not stop the rest. Dropping the future stops the downloads; the next call goes on where they were.
///
/// # Errors
/// [`BatchError`] when the options make no sense or the target cannot be used.
pub async fn download_batch<Id: AsRef<str>>(
    part_ids: impl IntoIterator<Item = Id>,
    target_path: impl AsRef<Path>,
    options: &Options,
) -> Result<Stats, BatchError> {
    if options.workers == 0 {
        return Err(BatchError::NoWorkers);
    }
    let mut stats = Stats::default();
    let mut wnids: Vec<Wnid> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for id in part_ids {
        match id.as_ref().trim().parse() {
            Ok(wnid) if known.insert(wnid) => wnids.push(wnid),
            Ok(_) => {}
            Err(error) => stats.count(id.as_ref(), Outcome::Failed(Failure::new(FailureKind::InvalidWnid, error))),
        }
    }
    let target: PathBuf = target_path.as_ref().to_owned();
    let opened = open(options.job()?, target, options.staging.clone(), options.workers);
    let (mut slots, threads) = opened.await?;
    if let Err(refused) = slots.site().check_origin().await {
        drop(slots);
        threads.join_all().await;
        return Err(refused.into());
    }
    let mut waiting = wnids.into_iter();
    let mut fault = None;
    loop {
        while fault.is_none()
            && slots.free() > 0
            && let Some(wnid) = waiting.next()
        {
            // Nobody else leases these classes: the token is of no account.
            slots
                .start(Lease { wnid, token: LeaseToken(0), probe: false, trace: TraceParent::default() })
                .expect("a slot is free");
        }
        match slots.next(fault.is_none() && waiting.len() > 0).await {
            None => break,
            Some((lease, Ok(outcome))) => stats.count(&lease.wnid.to_string(), outcome),
            Some((lease, Err(Unfinished::Failed(failure)))) => {
                stats.count(&lease.wnid.to_string(), Outcome::Failed(failure));
            }
            Some((_, Err(Unfinished::Stopped))) if fault.is_some() => {}
            Some((lease, Err(Unfinished::Stopped))) => {
                let taken = Failure::new(FailureKind::LeaseLost, "another process took the class over");
                stats.count(&lease.wnid.to_string(), Outcome::Failed(taken));
            }
            Some((_, Err(Unfinished::Target(error)))) => {
                slots.stop_all();
                fault.get_or_insert(error);
            }
        }
    }
    let target = Arc::clone(slots.site().target());
    drop(slots);
    threads.join_all().await;
    if fault.is_none() {
        target.remove_staging();
    }
    fault.map_or(Ok(stats), |fault| Err(fault.into()))
}

/// Opens the target and the slots, on a thread of its own: that is file work.
async fn open(
    job: JobOptions,
    target: PathBuf,
    staging: Option<PathBuf>,
    slots: usize,
) -> Result<(Slots, JoinSet<()>), SiteError> {
    let mut threads = JoinSet::new();
    let progress = Progress::new(Screen::Silent, Arc::default());
    let tally = Arc::clone(progress.tally());
    let open = move || {
        let target = Arc::new(Target::open(&target, staging.as_deref())?);
        let clock = Arc::new(LeaseClock::of_this_host());
        let gate = Gate::open(slots, Arc::clone(&tally));
        let origin = Origin::new(&job, PrivateOrigin::Allowed, gate, tally.retries.clone())?;
        let site = Arc::new(Site::open(job, origin, target, clock, slots, tally, &mut threads)?);
        Slots::open(site, progress, slots, &mut threads).map(|slots| (slots, threads))
    };
    let mut opening = JoinSet::new();
    threads::start(&mut opening, "open", open)?;
    match opening.join_next().await.expect("it was started").map_err(JoinError::try_into_panic) {
        Ok(opened) => opened,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime is at its end, and this call with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

impl Options {
    fn job(&self) -> Result<JobOptions, InvalidUrl> {
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

impl Stats {
    fn count(&mut self, id: &str, outcome: Outcome) {
        match outcome {
            Outcome::Success(published) => {
                self.success += 1;
                self.files += published.files;
            }
            Outcome::Skipped(published) => {
                self.skipped += 1;
                self.files += published.files;
            }
            Outcome::Failed(failure) => {
                self.failed += 1;
                self.failures.push((id.to_owned(), failure));
            }
        }
    }
}

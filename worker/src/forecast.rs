//! What a job would do, for `--dry-run`: reads the target and asks the origin for the lengths of a few
//! classes. Nothing is written and nothing is downloaded.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::statvfs, process::geteuid};
use shared::{
    Wnid,
    job::{Existing, JobOptions},
    outcome::Failure,
};
use tokio::task::JoinSet;

use crate::{
    observe::counters::WorkerCounters,
    origin::{
        Origin, Question, allowed_addresses::PrivateOrigin, client::OriginError, download_error::DownloadError,
        limiter::OriginLimiter,
    },
    storage::{
        existing::{self, ExistingFolder},
        target_users::TargetUsers,
    },
};

/// Requests at once, or fewer where the job allows fewer connections.
const CONNECTIONS: usize = 4;
/// Folders whose first difference is told.
const DIFFERENCES: usize = 20;
/// When so many first requests were refused, no more are made.
const REFUSED: usize = 5;

/// What a job would do.
#[derive(Debug, Default)]
pub struct Forecast {
    /// Classes that would be skipped.
    pub complete: Vec<Wnid>,
    /// Classes whose folder would be compared with the origin's tar.
    pub unproved: Vec<Wnid>,
    /// Classes that would fail, because of what stands under their names.
    pub conflicts: Vec<Wnid>,
    /// Classes that would be downloaded: those that are missing, differ from their manifests, or are
    /// marked.
    pub missing: Vec<Wnid>,
    /// How many of `missing` have a folder that differs from its manifest.
    pub differing: u64,
    /// The first difference of each of these folders, as sentences; of the first few folders.
    pub differences: Vec<String>,
    /// Bytes that this user may still write; `None` where the file system does not say.
    pub free: Option<u64>,
}

/// What the origin said of some classes.
#[derive(Debug, Default)]
pub struct Sample {
    /// Classes that were asked for.
    pub asked: usize,
    /// The lengths of their tars, where the origin says them.
    pub lengths: Vec<u64>,
    /// What it said instead.
    pub failures: Vec<Failure>,
}

impl Sample {
    /// The mean length of a class, those that the origin does not have included; `None` if no length
    /// is known.
    pub fn mean_length(&self) -> Option<u64> {
        let classes = self.lengths.len() + self.failures.len();
        let bytes = self.lengths.iter().fold(0_u64, |sum, length| sum.saturating_add(*length));
        (!self.lengths.is_empty()).then(|| bytes / classes as u64)
    }

    fn is_hopeless(&self) -> bool {
        self.lengths.is_empty() && self.failures.len() >= REFUSED
    }
}

/// Looks at what a target has of these classes, as a job does. It may be missing. Reads files: not
/// for an asynchronous task.
///
/// # Errors
/// As the file system says.
pub fn look(target: &Path, wnids: &[Wnid], job: &JobOptions) -> io::Result<Forecast> {
    let mut forecast = Forecast { free: free(target), ..Forecast::default() };
    for wnid in wnids {
        let users = || Ok(TargetUsers::new(target.metadata()?, geteuid().as_raw()));
        let found = existing::look_in(target, *wnid, job, users)?;
        let place = match (found, job.existing) {
            (ExistingFolder::Complete(_), _)
            | (ExistingFolder::Unproved(_) | ExistingFolder::Damaged, Existing::Trust) => &mut forecast.complete,
            (ExistingFolder::Unproved(_), Existing::Adopt) => &mut forecast.unproved,
            (ExistingFolder::InTheWay(_), _) | (ExistingFolder::Damaged, Existing::Adopt) => &mut forecast.conflicts,
            (ExistingFolder::Differs(first), _) => {
                if forecast.differences.len() < DIFFERENCES {
                    forecast.differences.push(format!("{wnid}/{first}"));
                }
                forecast.differing += 1;
                &mut forecast.missing
            }
            (ExistingFolder::Nothing, _)
            | (ExistingFolder::Unproved(_) | ExistingFolder::Damaged, Existing::Replace) => &mut forecast.missing,
        };
        place.push(*wnid);
    }
    Ok(forecast)
}

/// Of the target, or of the first folder above it that is there.
fn free(target: &Path) -> Option<u64> {
    let absolute = std::path::absolute(target).ok()?;
    let there: PathBuf = absolute.ancestors().find(|path| path.exists())?.to_owned();
    let found = statvfs(&there).ok()?;
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

/// Asks the origin for the lengths of at most `most` of these classes, spread over the list, with
/// `HEAD`, a few at once, each once. It stops when all of the first ones were refused.
///
/// # Errors
/// [`OriginError`], e.g. for an address that may not be asked.
pub async fn sample(
    job: &JobOptions,
    wnids: &[Wnid],
    most: usize,
    connections: Option<u32>,
) -> Result<Sample, OriginError> {
    let at_once = connections.map_or(CONNECTIONS, |limit| CONNECTIONS.min(limit as usize));
    let counters = Arc::new(WorkerCounters::default());
    let origin = Origin::new(
        job,
        PrivateOrigin::Allowed,
        OriginLimiter::open(at_once, Arc::clone(&counters)),
        counters.retries.clone(),
    )?;
    origin.check_address().await?;
    let count = most.min(wnids.len());
    let mut chosen = (0..count).map(|number| wnids[number * wnids.len() / count]);
    let (mut sample, mut requests) = (Sample::default(), JoinSet::new());
    loop {
        while requests.len() < at_once
            && !sample.is_hopeless()
            && let Some(wnid) = chosen.next()
        {
            let (origin, url) = (origin.clone(), job.url.for_class(wnid));
            requests.spawn(async move { origin.describe(&url, Question::Head).await });
            sample.asked += 1;
        }
        let Some(answered) = requests.join_next().await else { return Ok(sample) };
        match answered {
            Ok(Ok(source)) => sample.lengths.extend(source.length),
            Ok(Err(error)) => sample.failures.push(failure(error)),
            Err(error) => tracing::debug!(%error, "a request of the sample ended early"),
        }
    }
}

fn failure(error: DownloadError) -> Failure {
    error.into()
}

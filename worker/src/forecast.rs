//! The forecast of `--dry-run`: reads the target and requests the lengths of a few classes from the
//! origin. Writes and downloads nothing.

use std::{io, path::Path, sync::Arc};

use rustix::process::geteuid;
use shared::{Wnid, job::JobOptions, outcome::Failure};
use tokio::task::JoinSet;

use crate::{
    origin::{
        Origin, Question, allowed_addresses::PrivateOrigin, client::OriginError,
        limiter::OriginLimiter,
    },
    storage::{
        disk_space::free_bytes,
        existing::{self, ExistingFolder},
        target_users::TargetUsers,
    },
};

/// Maximum number of concurrent requests; fewer if the job allows fewer connections.
const CONNECTIONS: usize = 4;
/// Number of folders whose first difference is reported.
const DIFFERENCES: usize = 20;
/// If this number of first requests is refused, no more are sent.
const REFUSED: usize = 5;

/// What a job would do.
#[derive(Debug, Default)]
pub struct Forecast {
    /// Classes that would be skipped.
    pub complete: Vec<Wnid>,
    /// Classes whose folder would be compared with the origin's tar.
    pub unproved: Vec<Wnid>,
    /// Classes that would fail, because of what is under their final names.
    pub conflicts: Vec<Wnid>,
    /// Classes that would be downloaded: those that are missing, differ from their manifests, or
    /// are marked.
    pub missing: Vec<Wnid>,
    /// How many of `missing` have a folder that differs from its manifest.
    pub differing: u64,
    /// The first difference of each of these folders, as sentences; only for the first
    /// `DIFFERENCES` folders.
    pub differences: Vec<String>,
    /// Bytes that this user may still write; `None` if the file system does not report it.
    pub free: Option<u64>,
}

/// What the origin announced for some classes.
#[derive(Debug, Default)]
pub struct Sample {
    /// Number of requested classes.
    pub asked: usize,
    /// The lengths of their tars, if announced.
    pub lengths: Vec<u64>,
    /// The failures of the other requests.
    pub failures: Vec<Failure>,
}

impl Sample {
    /// The mean length of a class, including those that the origin does not have; `None` if no
    /// length is known.
    pub fn mean_length(&self) -> Option<u64> {
        let classes = self.lengths.len() + self.failures.len();
        let bytes = self
            .lengths
            .iter()
            .fold(0_u64, |sum, length| sum.saturating_add(*length));
        (!self.lengths.is_empty()).then(|| bytes / classes as u64)
    }

    fn is_hopeless(&self) -> bool {
        self.lengths.is_empty() && self.failures.len() >= REFUSED
    }
}

/// Inspects what a target has of these classes, as a job does. The target may be missing. Reads
/// files, so it must not run in an asynchronous task.
///
/// # Errors
/// The error of the file system.
pub fn estimate(target: &Path, wnids: &[Wnid], job: &JobOptions) -> io::Result<Forecast> {
    let mut forecast = Forecast {
        free: free(target),
        ..Forecast::default()
    };
    let users = match target.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            forecast.missing = wnids.to_vec();
            return Ok(forecast);
        }
        found => TargetUsers::new(found?, geteuid().as_raw()),
    };
    for wnid in wnids {
        let place = match existing::inspect_in(target, &users, *wnid, job)? {
            ExistingFolder::Complete(_) | ExistingFolder::Trusted => &mut forecast.complete,
            ExistingFolder::Unproved(_) => &mut forecast.unproved,
            ExistingFolder::InTheWay(_) => &mut forecast.conflicts,
            ExistingFolder::Differs(first) => {
                if forecast.differences.len() < DIFFERENCES {
                    forecast.differences.push(format!("{wnid}/{first}"));
                }
                forecast.differing += 1;
                &mut forecast.missing
            }
            ExistingFolder::NothingToKeep => &mut forecast.missing,
        };
        place.push(*wnid);
    }
    Ok(forecast)
}

/// The free space of the target, or of its nearest existing parent folder.
fn free(target: &Path) -> Option<u64> {
    let absolute = std::path::absolute(target).ok()?;
    free_bytes(absolute.ancestors().find(|path| path.exists())?)
}

/// Requests the lengths of at most `most` of these classes, spread over the list, with `HEAD`. A
/// few requests run at the same time, and none is repeated. Stops if all of the first ones were
/// refused.
///
/// # Errors
/// [`OriginError`], for example for an address that is not allowed.
pub async fn sample(
    job: &JobOptions,
    wnids: &[Wnid],
    most: usize,
    connections: Option<u32>,
) -> Result<Sample, OriginError> {
    let at_once = connections.map_or(CONNECTIONS, |limit| CONNECTIONS.min(limit as usize));
    let origin = Origin::new(
        job,
        PrivateOrigin::Allowed,
        OriginLimiter::without_budget(at_once, Arc::default()),
    )?;
    origin.check_address().await?;
    let count = most.min(wnids.len());
    let mut chosen = (0..count).map(|number| wnids[number * wnids.len() / count]);
    let mut sample = Sample::default();
    let mut requests = JoinSet::new();
    loop {
        while requests.len() < at_once
            && !sample.is_hopeless()
            && let Some(wnid) = chosen.next()
        {
            let origin = origin.clone();
            let url = job.url.for_class(wnid);
            requests.spawn(async move { origin.describe(&url, Question::Head).await });
            sample.asked += 1;
        }
        let Some(answered) = requests.join_next().await else {
            return Ok(sample);
        };
        match answered {
            Ok(Ok(source)) => sample.lengths.extend(source.length),
            Ok(Err(error)) => sample.failures.push(error.into()),
            Err(error) => tracing::debug!(%error, "a request of the sample ended early"),
        }
    }
}

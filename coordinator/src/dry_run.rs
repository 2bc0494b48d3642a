//! `--dry-run`: prints what the job would do, and changes nothing.

use std::{collections::BTreeMap, io::Write, path::Path};

use shared::{
    class_list::ClassList,
    exit_code::Exit,
    job::JobOptions,
    outcome::Failure,
    threads::{self, NoThread},
};
use tokio::task::JoinSet;
use worker::{
    OriginError,
    forecast::{self, Forecast, Sample},
};

use crate::{
    config::Plan,
    wording::{bytes, counted},
};

/// Maximum number of classes whose lengths are requested from the origin.
const SAMPLE: usize = 40;

/// Why there is no forecast. Each message is fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// The target cannot be inspected.
    #[error("look at the target {path}: {source}")]
    Target {
        /// The folder.
        path: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The origin's address or the settings of its client cannot be used.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The thread that inspects the target cannot be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// Each of the requested classes failed, so the job would download nothing.
    #[error(
        "download anything: each of the {asked} classes that were asked for failed: {cause}; look at --url and --header-file"
    )]
    Hopeless {
        /// The number of requested classes.
        asked: usize,
        /// The failure of the first one.
        cause: String,
    },
    /// Standard output is closed.
    #[error("write to standard output: {0}")]
    Output(std::io::Error),
}

/// Prints what the job would do.
///
/// # Errors
/// [`DryRunError`]; also if all requested classes have failed.
pub(crate) async fn run(
    plan: &Plan,
    classes: &ClassList,
    mut out: impl Write,
) -> Result<Exit, DryRunError> {
    let forecast = inspect(&plan.target, classes, &plan.job).await?;
    let to_ask = [&forecast.missing[..], &forecast.unproved].concat();
    let sample = forecast::sample(&plan.job, &to_ask, SAMPLE, plan.ceilings.connections).await?;
    let text = describe(&plan.target, classes, &forecast, &sample);
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(DryRunError::Output)?;
    match sample.failures.first() {
        Some(failure) if sample.failures.len() == sample.asked => Err(DryRunError::Hopeless {
            asked: sample.asked,
            cause: cause(failure),
        }),
        _ => Ok(Exit::Done),
    }
}

/// Runs on a separate thread, because it does file I/O.
async fn inspect(
    target: &Path,
    classes: &ClassList,
    job: &JobOptions,
) -> Result<Forecast, DryRunError> {
    let path = target.to_owned();
    let wnids = classes.wnids.clone();
    let job = job.clone();
    let mut looking = JoinSet::new();
    threads::start(&mut looking, "look", move || {
        forecast::estimate(&path, &wnids, &job)
    })?;
    let looked = looking.join_next().await.expect("it was started");
    let looked = looked.expect("it does not panic");
    looked.map_err(|source| DryRunError::Target {
        path: target.display().to_string(),
        source,
    })
}

fn describe(target: &Path, classes: &ClassList, forecast: &Forecast, sample: &Sample) -> String {
    let target = target.display();
    let mut lines = vec!["dry run: nothing is downloaded or changed".to_owned()];
    let listed = format!(
        "{} in the list",
        counted(classes.wnids.len() as u64, "class", "classes")
    );
    let invalid = classes.invalid.len() as u64;
    let invalid =
        (invalid > 0).then(|| format!("{} without a class id", counted(invalid, "row", "rows")));
    let left_out = classes.bare_prefixes;
    let left_out = (left_out > 0).then(|| {
        format!(
            "{} of only \"n\" left out",
            counted(left_out, "row", "rows")
        )
    });
    let twice = classes.duplicates;
    let twice = (twice > 0).then(|| counted(twice, "duplicate row", "duplicate rows"));
    let rows: Vec<String> = [Some(listed), invalid, left_out, twice]
        .into_iter()
        .flatten()
        .collect();
    lines.push(rows.join(", "));
    lines.push(format!(
        "{} complete in {target}: skipped",
        forecast.complete.len()
    ));
    if !forecast.unproved.is_empty() {
        let folders = counted(forecast.unproved.len() as u64, "folder", "folders");
        lines.push(format!(
            "{folders} without a manifest in {target}: compared with the tar (see --existing)"
        ));
    }
    if !forecast.conflicts.is_empty() {
        let classes = counted(forecast.conflicts.len() as u64, "class", "classes");
        lines.push(format!(
            "{classes} to fail with Conflict: something that is not a complete class stands under the name in {target}"
        ));
    }
    lines.push(to_download(forecast, sample));
    lines.extend(differing(forecast));
    let mut causes: BTreeMap<String, u64> = BTreeMap::new();
    for failure in &sample.failures {
        *causes.entry(cause(failure)).or_default() += 1;
    }
    lines.extend(
        causes
            .iter()
            .map(|(cause, times)| format!("  {times} of those asked for: {cause}")),
    );
    if let Some(free) = forecast.free {
        lines.push(format!("{} free in {target}", bytes(free)));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The classes to download that have a folder, each with the reason why it does not count as
/// complete.
fn differing(forecast: &Forecast) -> Vec<String> {
    let Forecast {
        differing,
        differences,
        ..
    } = forecast;
    if *differing == 0 {
        return Vec::new();
    }
    let folders = counted(*differing, "class folder differs", "class folders differ");
    let manifests = if *differing == 1 {
        "its manifest"
    } else {
        "their manifests"
    };
    let said = format!(
        "  {folders} from {manifests} and will be replaced; files that are not in {manifests} will be kept beside the target"
    );
    let untold = differing - differences.len() as u64;
    let untold = (untold > 0).then(|| format!("    and {untold} more"));
    let differences = differences.iter().map(|line| format!("    {line}"));
    [said]
        .into_iter()
        .chain(differences)
        .chain(untold)
        .collect()
}

fn to_download(forecast: &Forecast, sample: &Sample) -> String {
    let count = forecast.missing.len() as u64;
    let asked = format!(
        "{} of {} asked for with HEAD, {} said a length",
        sample.asked,
        forecast.missing.len() + forecast.unproved.len(),
        sample.lengths.len()
    );
    match sample.mean_length() {
        _ if count == 0 => "0 to download".to_owned(),
        None => format!("{count} to download ({asked})"),
        Some(mean) => format!(
            "{count} to download, about {} ({asked})",
            bytes(mean.saturating_mul(count))
        ),
    }
}

/// The failure's message without the URL, which differs for each class.
fn cause(failure: &Failure) -> String {
    let text = failure.to_string();
    let message = text.split_once(" for url: ");
    message
        .map_or(text.as_str(), |(message, _)| message)
        .to_owned()
}

//! `--dry-run`: says what the job would do, and does nothing.

use std::{collections::BTreeMap, io::Write, path::Path};

use shared::{
    class_list::ClassList,
    exit_code::Exit,
    job::JobOptions,
    job_line::short,
    outcome::Failure,
    threads::{self, NoThread},
};
use tokio::task::JoinSet;
use worker::{
    OriginError,
    forecast::{self, Forecast, Sample},
};

use crate::config::Plan;

/// Classes that the origin is asked for.
const SAMPLE: usize = 40;

/// Why there is no forecast; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// The target.
    #[error("look at the target {path}: {source}")]
    Target {
        /// The folder.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The origin's address or the settings of its client.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The thread that looks at the target.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// No class would come.
    #[error(
        "download anything: each of the {asked} classes that were asked for failed: {cause}; look at --url and --header-file"
    )]
    Hopeless {
        /// So many.
        asked: usize,
        /// What the first of them got.
        cause: String,
    },
    /// Standard output is closed.
    #[error("write to standard output: {0}")]
    Say(std::io::Error),
}

/// Says what the job would do.
///
/// # Errors
/// [`DryRunError`]; also when all classes that were asked for have failed.
pub(crate) async fn run(plan: &Plan, classes: &ClassList, mut out: impl Write) -> Result<Exit, DryRunError> {
    let forecast = look(&plan.target, classes, &plan.job).await?;
    let to_ask: Vec<_> = forecast.missing.iter().chain(&forecast.unproved).copied().collect();
    let sample = forecast::sample(&plan.job, &to_ask, SAMPLE, plan.ceilings.connections).await?;
    let text = in_words(&plan.target, classes, &forecast, &sample);
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(DryRunError::Say)?;
    match sample.failures.first() {
        Some(failure) if sample.failures.len() == sample.asked => {
            Err(DryRunError::Hopeless { asked: sample.asked, cause: cause(failure) })
        }
        _ => Ok(Exit::Done),
    }
}

/// On a thread of its own: that is file work.
async fn look(target: &Path, classes: &ClassList, job: &JobOptions) -> Result<Forecast, DryRunError> {
    let (path, wnids, job) = (target.to_owned(), classes.wnids.clone(), job.clone());
    let mut looking = JoinSet::new();
    threads::start(&mut looking, "look", move || forecast::look(&path, &wnids, &job))?;
    let looked = looking.join_next().await.expect("it was started").expect("it does not panic");
    looked.map_err(|source| DryRunError::Target { path: target.display().to_string(), source })
}

fn in_words(target: &Path, classes: &ClassList, forecast: &Forecast, sample: &Sample) -> String {
    let target = target.display();
    let mut lines = vec!["dry run: nothing is downloaded or changed".to_owned()];
    let listed = format!("{} in the list", counted(classes.wnids.len() as u64, "class", "classes"));
    let invalid = classes.invalid.len() as u64;
    let invalid = (invalid > 0).then(|| format!("{} without a class id", counted(invalid, "row", "rows")));
    let twice = classes.duplicates;
    let twice = (twice > 0).then(|| counted(twice, "duplicate row", "duplicate rows"));
    lines.push([Some(listed), invalid, twice].into_iter().flatten().collect::<Vec<_>>().join(", "));
    lines.push(format!("{} complete in {target}: skipped", forecast.complete.len()));
    if !forecast.unproved.is_empty() {
        let folders = counted(forecast.unproved.len() as u64, "folder", "folders");
        lines.push(format!("{folders} without a manifest in {target}: compared with the tar (see --existing)"));
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
    lines.extend(causes.iter().map(|(cause, times)| format!("  {times} of those asked for: {cause}")));
    if let Some(free) = forecast.free {
        lines.push(format!("{} free in {target}", bytes(free)));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Which of the classes to download have a folder, and why it is not taken as complete.
fn differing(forecast: &Forecast) -> Vec<String> {
    let Forecast { differing, differences, .. } = forecast;
    if *differing == 0 {
        return Vec::new();
    }
    let (folders, manifests) = match differing {
        1 => ("1 class folder differs".to_owned(), "its manifest"),
        count => (format!("{count} class folders differ"), "their manifests"),
    };
    let said = format!(
        "  {folders} from {manifests} and will be replaced; files that are not in {manifests} will be kept beside the target"
    );
    let untold = differing - differences.len() as u64;
    let untold = (untold > 0).then(|| format!("    and {untold} more"));
    [said].into_iter().chain(differences.iter().map(|line| format!("    {line}"))).chain(untold).collect()
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
        Some(mean) => format!("{count} to download, about {} ({asked})", bytes(mean.saturating_mul(count))),
    }
}

/// What was said, without the URL, which is another one for each class.
fn cause(failure: &Failure) -> String {
    let text = failure.to_string();
    text.split(" for url: ").next().unwrap_or_default().to_owned()
}

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn bytes(bytes: u64) -> String {
    format!("{}B", short(bytes as f64))
}

//! The coordinator's commands, as used by users and scripts.

mod demo_origin;
mod drain;
mod live_figures;
mod resume;
mod retry;
mod retry_failed;
mod socket;
mod status;
mod verify;

use serde_json::Value;
use tests::{
    archives::images,
    cluster::{Coordinator, Job},
    origin::Origin,
    running::Finished,
};

/// Bytes per second: slow enough that a class is still in progress when a command runs.
const SLOW: u64 = 5_000;

/// An origin with `count` classes of a few images each.
fn origin_of(count: u64) -> (Origin, Vec<String>) {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=count).map(|number| format!("n{number:08}")).collect();
    for (wnid, seed) in wnids.iter().zip(1..) {
        origin.class(wnid, images(wnid, 5, 10_000..20_000, seed));
    }
    (origin, wnids)
}

/// Runs a command of the coordinator in the job's target.
#[track_caller]
fn command<'word>(job: &Job, words: impl IntoIterator<Item = &'word str>) -> Finished {
    job.start_with(words).wait()
}

/// Runs a command against a running coordinator.
#[track_caller]
fn ask(job: &Job, coordinator: &Coordinator, words: &[&str]) -> Finished {
    let address = format!("http://{}", coordinator.address);
    command(job, words.iter().copied().chain(["--connect", &address]))
}

/// The output of `status --json`.
#[track_caller]
fn status(job: &Job, coordinator: &Coordinator) -> Value {
    let output = ask(job, coordinator, &["status", "--json"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&output.stdout).expect("one JSON object")
}

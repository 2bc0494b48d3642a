//! The coordinator's own commands, as people and their scripts use them.

mod demo_origin;
mod drain;
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

/// Slow enough that a class is still under way when somebody looks.
const SLOW: u64 = 5_000;

/// An origin with so many classes of a few images each.
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

/// Runs a command for a running coordinator.
#[track_caller]
fn ask(job: &Job, coordinator: &Coordinator, words: &[&str]) -> Finished {
    let address = format!("http://{}", coordinator.address);
    command(job, words.iter().copied().chain(["--connect", &address]))
}

/// What `status --json` says.
#[track_caller]
fn status(job: &Job, coordinator: &Coordinator) -> Value {
    let told = ask(job, coordinator, &["status", "--json"]);
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&told.stdout).expect("one JSON object")
}

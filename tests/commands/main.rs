//! The coordinator's own commands, as people and their scripts use them.

mod verify;

use tests::{archives::images, cluster::Job, origin::Origin, running::Finished};

/// An origin with so many classes of a few images each.
fn origin_of(count: u64) -> (Origin, Vec<String>) {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=count).map(|number| format!("n{number:08}")).collect();
    for (wnid, seed) in wnids.iter().zip(1..) {
        origin.class(wnid, images(wnid, 5, 1000..20_000, seed));
    }
    (origin, wnids)
}

/// Runs a command of the coordinator in the job's target.
#[track_caller]
fn command<'word>(job: &Job, words: impl IntoIterator<Item = &'word str>) -> Finished {
    job.start_with(words).wait()
}

//! Fetches one class: inspects what is there, receives and unpacks the tar, publishes the class.
//! All decisions are made here.

use shared::{
    outcome::{Outcome, Published},
    telemetry::trace,
};
use tracing::Instrument as _;

use crate::{
    fetch::{
        attempt::Attempt,
        local_tar::LocalTar,
        unfinished::{Unfinished, conflict},
    },
    storage::{
        comparison::{Difference, FirstDifference},
        existing::{self, ExistingFolder},
        publish::{Replace, TarFate},
    },
};

/// What an attempt does, depending on what is under the class's final name.
enum Decision {
    Skip(Outcome),
    /// Fetch the class; if a folder is there that differs from its manifest, how.
    Fetch(Option<Difference>),
}

/// Fetches one class to its end, or to a checkpoint when the attempt is stopped.
pub(crate) async fn fetch_class(attempt: &Attempt<'_>) -> Result<Outcome, Unfinished> {
    let differs = match decide(attempt).await? {
        Decision::Skip(outcome) => {
            attempt.drop_tar()?;
            return Ok(outcome);
        }
        Decision::Fetch(differs) => differs,
    };
    let own_tar = attempt.own_tar()?;
    // The contents of the folder differ, so the tar may be damaged as well.
    let local = match differs {
        Some(Difference::Marked) => LocalTar::Unused,
        _ => attempt.use_local_tar(own_tar.is_some()).await?,
    };
    let is_broken_off = matches!(local, LocalTar::BrokenOff);
    let was_there = matches!(local, LocalTar::Whole(_));
    let unpacked = match local {
        LocalTar::Whole(unpacked) => unpacked,
        LocalTar::BrokenOff | LocalTar::Unused => {
            attempt.check_tar_name()?;
            attempt.receive().instrument(trace::step("receive")).await?
        }
    };
    let tar = match (attempt.keeps_tar(), own_tar.is_some()) {
        (false, true) => TarFate::Remove,
        (false, false) => TarFate::Stay,
        (true, _) if was_there => TarFate::Stay,
        (true, is_own) if is_own || is_broken_off => TarFate::MoveOver,
        (true, _) => TarFate::Move,
    };
    let replace = Replace::of(attempt.context.job.existing, differs.is_some());
    let _local = attempt.tar.progress.locally();
    let outcome = attempt
        .publish(unpacked, tar, replace, own_tar)
        .instrument(trace::step("publish"))
        .await?;
    if differs.is_some() {
        attempt.context.counters.replaced_folders.inc();
    }
    Ok(outcome)
}

/// Inspects what is under the class's final name.
async fn decide(attempt: &Attempt<'_>) -> Result<Decision, Unfinished> {
    let context = attempt.context;
    let found = {
        let _local = attempt.tar.progress.locally();
        existing::inspect(&context.target, attempt.wnid, &context.job)
            .map_err(attempt.storage("look at what is there"))?
    };
    Ok(match found {
        ExistingFolder::Complete(manifest) => Decision::Skip(context.found(&manifest)),
        ExistingFolder::Trusted => Decision::Skip(Outcome::Skipped(Published::default())),
        ExistingFolder::Unproved(why) => {
            Decision::Skip(attempt.until_stopped(attempt.prove_folder(why)).await?)
        }
        ExistingFolder::InTheWay(what) => return Err(conflict(&what)),
        ExistingFolder::Differs(first) => {
            log_difference(attempt, &first)?;
            Decision::Fetch(Some(first.difference))
        }
        ExistingFolder::NothingToKeep => Decision::Fetch(None),
    })
}

/// Logs why a class is fetched again, and where the files that its manifest does not list are kept.
///
/// # Errors
/// A conflict if there are such files and they cannot be kept.
fn log_difference(attempt: &Attempt<'_>, first: &FirstDifference) -> Result<(), Unfinished> {
    let wnid = attempt.wnid;
    match attempt.place_of_unlisted()? {
        None => tracing::warn!("{wnid}/{first}: the class is fetched again"),
        Some(place) => tracing::warn!(
            "{wnid}/{first}: the class is fetched again, and files that are not in the manifest are moved to {}",
            place.display()
        ),
    }
    Ok(())
}

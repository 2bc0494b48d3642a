//! Fetches one class: inspects what is there, receives and unpacks the tar, publishes the class.
//! All decisions are made here.

use std::sync::Arc;

use shared::{
    Wnid,
    job::Existing,
    outcome::{Outcome, Published},
    telemetry::trace,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    fetch::{
        context::JobContext,
        local_tar::{LocalTar, use_local_tar},
        receive::receive,
        unfinished::{Unfinished, conflict},
    },
    observe::progress::ClassProgress,
    origin::Origin,
    parts::ExtraConnections,
    storage::{
        comparison::{Difference, FirstDifference},
        existing::ExistingFolder,
        publish::{Replace, TarFate},
    },
};

/// Fetches one class to its end, or to a checkpoint when `stop` is cancelled. `retries`: number of
/// retries without progress. `extra`: extra connections for its transfer.
pub(crate) async fn fetch_class(
    context: &JobContext,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    progress: &Arc<ClassProgress>,
    extra: &Arc<ExtraConnections>,
    stop: &CancellationToken,
) -> Result<Outcome, Unfinished> {
    let found = {
        let _local = progress.locally();
        context.look(wnid)?
    };
    let mut replace = Replace::of(context.job.existing);
    let mut differs = None;
    let skipped = match (found, context.job.existing) {
        (ExistingFolder::Complete(manifest), _) => Some(context.found(&manifest)),
        (ExistingFolder::InTheWay(what), _) => return Err(conflict(&what)),
        (ExistingFolder::Differs(first), existing) => {
            say_difference(context, wnid, &first)?;
            differs = Some(first.difference);
            if existing != Existing::Replace {
                replace = Replace::Differing;
            }
            None
        }
        (ExistingFolder::Unproved(_) | ExistingFolder::Damaged, Existing::Trust) => {
            Some(Outcome::Skipped(Published::default()))
        }
        (ExistingFolder::Damaged, Existing::Adopt) => {
            return Err(conflict("its .manifest.json is damaged or was edited"));
        }
        (ExistingFolder::Unproved(why), Existing::Adopt) => {
            let proved = stop
                .run_until_cancelled(context.prove(origin, wnid, retries, progress, why))
                .await;
            Some(proved.unwrap_or(Err(Unfinished::Stopped))?)
        }
        (ExistingFolder::Unproved(_) | ExistingFolder::Damaged, Existing::Replace)
        | (ExistingFolder::Nothing, _) => None,
    };
    if let Some(outcome) = skipped {
        context.drop_tar(wnid)?;
        return Ok(outcome);
    }
    let own_tar = context.own_tar(wnid)?;
    // The contents of the folder differ, so the tar may be damaged as well.
    let local = match differs {
        Some(Difference::Marked) => LocalTar::Unused,
        _ => {
            use_local_tar(
                context,
                origin,
                wnid,
                retries,
                own_tar.is_some(),
                progress,
                stop,
            )
            .await?
        }
    };
    let is_broken_off = matches!(local, LocalTar::BrokenOff);
    let (unpacked, was_there) = match local {
        LocalTar::Whole(unpacked) => (unpacked, true),
        LocalTar::BrokenOff | LocalTar::Unused => {
            context.check_tar_name(wnid)?;
            let received = receive(context, origin, wnid, retries, progress, extra, stop)
                .instrument(trace::step("receive"));
            (received.await?, false)
        }
    };
    let tar = match (context.job.delete_tar, own_tar.is_some()) {
        (true, true) => TarFate::Remove,
        (true, false) => TarFate::Stay,
        (false, _) if was_there => TarFate::Stay,
        (false, is_own) if is_own || is_broken_off => TarFate::MoveOver,
        (false, _) => TarFate::Move,
    };
    let _local = progress.locally();
    let outcome = context
        .publish(wnid, unpacked, tar, replace, own_tar)
        .instrument(trace::step("publish"))
        .await?;
    if differs.is_some() {
        context.count_replaced_folder();
    }
    Ok(outcome)
}

/// Logs why a class is fetched again, and where the files that its manifest does not list are kept.
///
/// # Errors
/// A conflict if there are such files and they cannot be kept.
fn say_difference(
    context: &JobContext,
    wnid: Wnid,
    first: &FirstDifference,
) -> Result<(), Unfinished> {
    match context.place_of_unlisted(wnid)? {
        None => tracing::warn!("{wnid}/{first}: the class is fetched again"),
        Some(place) => tracing::warn!(
            "{wnid}/{first}: the class is fetched again, and files that are not in the manifest are moved to {}",
            place.display()
        ),
    }
    Ok(())
}

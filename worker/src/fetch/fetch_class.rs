//! The story of one class: look what is there, receive the tar while unpacking it, publish. The decisions are all here.

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
        context::Site,
        local_tar::{LocalTar, use_local_tar},
        receive::receive,
        unfinished::{Unfinished, conflict},
    },
    observe::progress::ClassProgress,
    origin::Origin,
    parts::Spare,
    storage::{
        comparison::{Difference, FirstDifference},
        existing::Found,
        publish::{Replace, TarFate},
    },
};

/// Brings one class to its end, or to a checkpoint when `stop` is cancelled. `retries`: attempts without progress, after the
/// first; `spare`: connections of free slots for its transfer.
pub(crate) async fn fetch_class(
    site: &Site,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    progress: &Arc<ClassProgress>,
    spare: &Arc<Spare>,
    stop: &CancellationToken,
) -> Result<Outcome, Unfinished> {
    let found = {
        let _local = progress.locally();
        site.look(wnid)?
    };
    let mut replace = Replace::of(site.job.existing);
    let mut differs = None;
    let skipped = match (found, site.job.existing) {
        (Found::Complete(manifest), _) => Some(site.found(&manifest)),
        (Found::InTheWay(what), _) => return Err(conflict(&what)),
        (Found::Differs(first), existing) => {
            say_difference(site, wnid, &first)?;
            differs = Some(first.difference);
            if existing != Existing::Replace {
                replace = Replace::Differing;
            }
            None
        }
        (Found::Unproved(_) | Found::Damaged, Existing::Trust) => Some(Outcome::Skipped(Published::default())),
        (Found::Damaged, Existing::Adopt) => return Err(conflict("its .manifest.json is damaged or was edited")),
        (Found::Unproved(why), Existing::Adopt) => {
            let proved = stop.run_until_cancelled(site.prove(origin, wnid, retries, progress, why)).await;
            Some(proved.unwrap_or(Err(Unfinished::Stopped))?)
        }
        (Found::Unproved(_) | Found::Damaged, Existing::Replace) | (Found::Nothing, _) => None,
    };
    if let Some(outcome) = skipped {
        site.drop_tar(wnid)?;
        return Ok(outcome);
    }
    let own_tar = site.own_tar(wnid)?;
    // Contents differ there, and the tar may have been damaged with them.
    let local = match differs {
        Some(Difference::Marked) => LocalTar::Unused,
        _ => use_local_tar(site, origin, wnid, retries, own_tar.is_some(), progress, stop).await?,
    };
    let is_broken_off = matches!(local, LocalTar::BrokenOff);
    let (unpacked, was_there) = match local {
        LocalTar::Whole(unpacked) => (unpacked, true),
        LocalTar::BrokenOff | LocalTar::Unused => {
            site.check_tar_name(wnid)?;
            let received =
                receive(site, origin, wnid, retries, progress, spare, stop).instrument(trace::step("receive"));
            (received.await?, false)
        }
    };
    let tar = match (site.job.delete_tar, own_tar.is_some()) {
        (true, true) => TarFate::Remove,
        (true, false) => TarFate::Stay,
        (false, _) if was_there => TarFate::Stay,
        (false, is_own) if is_own || is_broken_off => TarFate::MoveOver,
        (false, _) => TarFate::Move,
    };
    let _local = progress.locally();
    let outcome = site.publish(wnid, unpacked, tar, replace, own_tar).instrument(trace::step("publish")).await?;
    if differs.is_some() {
        site.mended();
    }
    Ok(outcome)
}

/// Says why a class is fetched again, and where files go that its manifest does not list.
///
/// # Errors
/// A conflict where there are such files and no place for them.
fn say_difference(site: &Site, wnid: Wnid, first: &FirstDifference) -> Result<(), Unfinished> {
    match site.place_of_unlisted(wnid)? {
        None => tracing::warn!("{wnid}/{first}: the class is fetched again"),
        Some(place) => tracing::warn!(
            "{wnid}/{first}: the class is fetched again, and files that are not in the manifest are moved to {}",
            place.display()
        ),
    }
    Ok(())
}

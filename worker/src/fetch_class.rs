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
    existing::Found,
    local_tar::unpack_local_tar,
    origin::Origin,
    progress::ClassProgress,
    publish::TarFate,
    receive::receive,
    site::Site,
    unfinished::{Unfinished, conflict},
};

/// Brings one class to its end, or to a checkpoint when `stop` is cancelled. `retries`: attempts without progress, after the
/// first.
pub(crate) async fn fetch_class(
    site: &Site,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    progress: &Arc<ClassProgress>,
    stop: &CancellationToken,
) -> Result<Outcome, Unfinished> {
    let found = site.look(wnid)?;
    let skipped = match (found, site.job.existing) {
        (Found::Complete(manifest), _) => Some(site.found(&manifest)),
        (Found::InTheWay(what), _) => return Err(conflict(what)),
        (Found::Unproved(_) | Found::Damaged, Existing::Trust) => Some(Outcome::Skipped(Published::default())),
        (Found::Damaged, Existing::Adopt) => return Err(conflict("its .manifest.json is damaged or was edited")),
        (Found::Unproved(why), Existing::Adopt) => {
            let proved = stop.run_until_cancelled(site.prove(origin, wnid, retries, why)).await;
            Some(proved.unwrap_or(Err(Unfinished::Stopped))?)
        }
        (Found::Unproved(_) | Found::Damaged, Existing::Replace) | (Found::Nothing, _) => None,
    };
    if let Some(outcome) = skipped {
        site.drop_tar(wnid)?;
        return Ok(outcome);
    }
    let replace = site.job.existing == Existing::Replace;
    let (unpacked, tar) = match (unpack_local_tar(site, wnid, stop)?, site.job.delete_tar) {
        (Some(unpacked), false) => (unpacked, TarFate::Stay),
        (Some(unpacked), true) => (unpacked, TarFate::Remove),
        (None, delete_tar) => {
            let unpacked =
                receive(site, origin, wnid, retries, progress, stop).instrument(trace::step("receive")).await?;
            (unpacked, if delete_tar { TarFate::Remove } else { TarFate::Move })
        }
    };
    site.publish(wnid, unpacked, tar, replace).instrument(trace::step("publish")).await
}

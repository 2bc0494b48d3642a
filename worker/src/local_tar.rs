//! A `<wnid>.tar` that is already in the target is unpacked, not downloaded; one that is not whole is left for the download.

use std::{fs::File, io::Read};

use shared::{Wnid, own_file::open_regular};
use tokio_util::sync::CancellationToken;

use crate::{
    extract::{Start, UnpackError, Unpacker},
    site::Site,
    source::Source,
    staging::{Staging, Unpacked},
    unfinished::{self, Unfinished, storage},
};

const BLOCK: usize = 256 << 10;

/// Unpacks the class's tar from the target into a staging folder; `None` when there is none, or none that is whole.
pub(crate) fn unpack_local_tar(
    site: &Site,
    wnid: Wnid,
    stop: &CancellationToken,
) -> Result<Option<Unpacked>, Unfinished> {
    let target = site.target();
    // A link, a folder or a pipe of that name is no tar.
    let Ok(tar) = open_regular(&target.tar(wnid)) else { return Ok(None) };
    let Ok(found) = tar.metadata() else { return Ok(None) };
    let length = found.len();
    let look = |error| storage(target, "look at the folder", error);
    if target.is_of_another_user(&found).map_err(look)? {
        tracing::info!(%wnid, "the tar in the target is another user's, so the class is downloaded");
        return Ok(None);
    }
    // A sparse file can be longer than the disk: what the origin says of the class decides.
    let Ok(Some(_space)) = site.disk_space().claim_now(Some(length), 1) else { return Ok(None) };
    let fault = |error| unfinished::staging(target, "make a staging folder", error);
    let staging = Staging::create(target, wnid).map_err(fault)?;
    let url = crate::download_error::shown(&site.job.url.for_class(wnid));
    let source = Source { url, length: Some(length), ..Source::default() };
    match unpack(tar, &staging, wnid, &source, stop) {
        Ok(Ended::Whole(files)) => Ok(Some(Unpacked { staging, source, files })),
        Ok(Ended::Stopped) => staging.remove().map_err(fault).and(Err(Unfinished::Stopped)),
        Err(error) => {
            tracing::info!(%wnid, %error, "the tar in the target is not whole, so it is downloaded");
            staging.remove().map_err(fault)?;
            match error.into_failure() {
                Ok(_) => Ok(None),
                Err((action, error)) => Err(unfinished::staging(target, &action, error)),
            }
        }
    }
}

enum Ended {
    /// With so many files.
    Whole(u64),
    Stopped,
}

fn unpack(
    mut tar: File,
    staging: &Staging,
    wnid: Wnid,
    source: &Source,
    stop: &CancellationToken,
) -> Result<Ended, UnpackError> {
    let start = Start { source: source.clone(), ..Start::default() };
    let mut unpacker = Unpacker::open(staging, wnid, start, false)?;
    let mut block = vec![0; BLOCK];
    loop {
        if stop.is_cancelled() {
            return Ok(Ended::Stopped);
        }
        match tar.read(&mut block).map_err(UnpackError::storage("read the tar"))? {
            0 => break,
            read => unpacker.push(&block[..read])?,
        }
    }
    Ok(Ended::Whole(unpacker.finish()?))
}

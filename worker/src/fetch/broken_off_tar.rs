//! Continues a tar in the target that another program has started to download, if the origin proves
//! that the file is a prefix of the origin's current tar.
//!
//! Proof: the tar at the origin is longer and has a strong validator; it has not changed since the
//! file was last written (`Last-Modified`); and the first and the last bytes of the file equal
//! those of the origin, which are requested with that validator. So a file of an older version, of
//! another URL or with a damaged end is not continued. Without a proof the tar is downloaded anew,
//! and the file stays.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    time::{Duration, SystemTime},
};

use shared::Wnid;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    extract::Start,
    fetch::{
        context::JobContext,
        local_tar::{UnpackEnd, unpack},
        unfinished::{self, Unfinished},
    },
    observe::progress::ClassProgress,
    origin::{
        Origin,
        download::{Download, Piece, Until, describe},
        download_error::DownloadError,
    },
    source::Source,
    storage::staging::{self, Staging},
};

/// Maximum number of bytes compared at the beginning and at the end of the file. Below it, a
/// sixteenth of the file.
const LONGEST_SAMPLE: u64 = 64 << 10;
/// A shorter file does not save enough to justify three requests.
const SHORTEST: u64 = 8 << 10;

/// If the origin proves the file, unpacks it into a staging folder, from which the download
/// continues. Returns whether it did.
pub(crate) async fn begin_from(
    context: &JobContext,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    progress: &ClassProgress,
    tar: &File,
    stop: &CancellationToken,
) -> Result<bool, Unfinished> {
    let fault = |error| unfinished::staging(context.target(), "look at the staging folders", error);
    let (Ok(found), false) = (
        tar.metadata(),
        staging::is_begun(context.target(), wnid).map_err(fault)?,
    ) else {
        return Ok(false);
    };
    if found.len() < SHORTEST {
        return Ok(false);
    }
    let url = context.job.url.for_class(wnid);
    let proved = prove(
        origin,
        &url,
        retries,
        tar,
        found.len(),
        found.modified().ok(),
    );
    match stop.run_until_cancelled(proved).await {
        None => Err(Unfinished::Stopped),
        Some(Err(why)) => {
            tracing::info!(
                %wnid, why,
                "the tar in the target is broken off and not proved to be the beginning of the origin's: the class is \
                 downloaded from its beginning"
            );
            Ok(false)
        }
        Some(Ok(source)) => {
            let _local = progress.locally();
            keep(context, wnid, source, tar, found.len(), stop)
        }
    }
}

/// The origin's tar of which the file is a prefix, or the reason why that is not proved.
async fn prove(
    origin: &Origin,
    url: &Url,
    retries: u32,
    tar: &File,
    length: u64,
    modified: Option<SystemTime>,
) -> Result<Source, String> {
    let source = describe(origin, url, retries)
        .await
        .map_err(|error| error.to_string())?;
    may_be_of(&source, length, modified)?;
    let sample = (length / 16).min(LONGEST_SAMPLE);
    for from in [0, length - sample] {
        match is_same(origin, url, retries, &source, tar, from..from + sample).await {
            Ok(true) => {}
            Ok(false) => {
                return Err("the origin has other bytes there, or sends no parts".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(source)
}

/// Whether a file of this length and modification time can be a prefix of this version.
fn may_be_of(source: &Source, length: u64, modified: Option<SystemTime>) -> Result<(), String> {
    let parse = |text: &String| httpdate::parse_http_date(text).ok();
    let changed = source.last_modified.as_ref().and_then(parse);
    match (source.length, changed, modified) {
        _ if source.validator().is_none() => {
            Err("the origin's tar has no strong validator".to_owned())
        }
        (Some(whole), _, _) if whole <= length => {
            Err(format!("the origin's tar has {whole} bytes"))
        }
        (None, _, _) => Err("the origin does not say how long its tar is".to_owned()),
        (_, None, _) | (_, _, None) => {
            Err("it is not known whether the origin's tar is older".to_owned())
        }
        // `Last-Modified` has a resolution of seconds.
        (_, Some(changed), Some(modified)) if changed > modified + Duration::from_secs(1) => {
            Err("the origin's tar has changed since the file was written".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether the bytes of the file in this range equal those that the origin sends for this version.
async fn is_same(
    origin: &Origin,
    url: &Url,
    retries: u32,
    source: &Source,
    tar: &File,
    range: std::ops::Range<u64>,
) -> Result<bool, DownloadError> {
    let until = Until::default();
    until.set(range.end);
    let mut download = Download::new(
        origin,
        url.clone(),
        retries,
        Some((source.clone(), range.start)),
        until,
    );
    let mut position = range.start;
    let mut own = Vec::new();
    loop {
        match download.next().await? {
            Piece::Begin(_) => return Ok(false),
            Piece::Bytes(bytes) => {
                own.resize(bytes.len(), 0);
                if tar.read_exact_at(&mut own, position).is_err() || own != bytes {
                    return Ok(false);
                }
                position += bytes.len() as u64;
            }
            Piece::End => return Ok(position == range.end),
        }
    }
}

/// Unpacks the file as a prefix of this version, and leaves a checkpoint.
fn keep(
    context: &JobContext,
    wnid: Wnid,
    source: Source,
    tar: &File,
    length: u64,
    stop: &CancellationToken,
) -> Result<bool, Unfinished> {
    let keep_tar = !context.job.delete_tar;
    let Ok(Some(_space)) = context
        .disk_space()
        .claim_now(Some(length), if keep_tar { 2 } else { 1 })
    else {
        return Ok(false);
    };
    let staging = Staging::create(context.target(), wnid)
        .map_err(|error| unfinished::staging(context.target(), "make a staging folder", error))?;
    let start = Start {
        source,
        ..Start::default()
    };
    match unpack(tar, &staging, wnid, start, keep_tar, stop) {
        Ok(UnpackEnd::BrokenOff) => {
            tracing::info!(%wnid, length, "the tar in the target is the beginning of the origin's: going on behind it");
            Ok(true)
        }
        Ok(UnpackEnd::Whole { .. }) => context.drop_staging(&staging).map(|()| false),
        Ok(UnpackEnd::Stopped) => context.drop_staging(&staging).and(Err(Unfinished::Stopped)),
        Err(error) => Err(context.broken(&staging, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGED: &str = "Wed, 01 Jan 2020 00:00:00 GMT";

    fn source(length: Option<u64>, date: Option<&str>, etag: Option<&str>) -> Source {
        let last_modified = date.map(str::to_owned);
        Source {
            length,
            last_modified,
            etag: etag.map(str::to_owned),
            ..Source::default()
        }
    }

    #[test]
    fn only_a_longer_tar_that_is_not_newer_than_the_file_can_be_continued() {
        let written = httpdate::parse_http_date(CHANGED).unwrap();
        let later = written + Duration::from_mins(1);
        let earlier = written - Duration::from_mins(1);
        let whole = source(Some(20_000), Some(CHANGED), Some("\"a\""));
        assert_eq!(may_be_of(&whole, 10_000, Some(written)), Ok(()));
        assert_eq!(may_be_of(&whole, 10_000, Some(later)), Ok(()));
        for (source, length, modified) in [
            (&whole, 10_000, Some(earlier)),
            (&whole, 20_000, Some(later)),
            (&whole, 10_000, None),
            (
                &source(Some(20_000), None, Some("\"a\"")),
                10_000,
                Some(later),
            ),
            (
                &source(Some(20_000), Some(CHANGED), Some("W/\"a\"")),
                10_000,
                Some(later),
            ),
            (
                &source(None, Some(CHANGED), Some("\"a\"")),
                10_000,
                Some(later),
            ),
        ] {
            assert!(
                may_be_of(source, length, modified).is_err(),
                "{source:?} {length} {modified:?}"
            );
        }
    }
}

//! Continues a tar in the target that another program has started to download, if the origin proves
//! that the file is a prefix of the origin's current tar.
//!
//! Proof: the tar at the origin is longer and has a strong validator; it has not changed since the
//! file was last written (`Last-Modified`); and the first and the last bytes of the file equal
//! those of the origin, which are requested with that validator. So a file of an older version, of
//! another URL or with a damaged end is not continued. Without a proof the tar is downloaded anew,
//! and the file stays.

use std::{
    fs::{File, Metadata},
    ops::Range,
    os::unix::fs::FileExt as _,
    time::{Duration, SystemTime},
};

use crate::{
    extract::Start,
    fetch::{
        attempt::Attempt,
        local_tar::{LocalTar, UnpackEnd},
        unfinished::Unfinished,
    },
    origin::{
        download::{Download, Piece, Until, describe},
        download_error::DownloadError,
    },
    source::Source,
    storage::staging,
};

/// Maximum number of bytes compared at the beginning and at the end of the file. Below it, a
/// sixteenth of the file.
const LONGEST_SAMPLE: u64 = 64 << 10;
/// A shorter file does not save enough to justify three requests.
const SHORTEST: u64 = 8 << 10;

impl Attempt<'_> {
    /// If the origin proves the file, unpacks it into a staging folder, from which the download
    /// continues.
    pub(super) async fn begin_from(&self, tar: &File) -> Result<LocalTar, Unfinished> {
        let is_begun = staging::is_begun(&self.context.target, self.wnid)
            .map_err(self.staging("look at the staging folders"))?;
        let Ok(found) = tar.metadata() else {
            return Ok(LocalTar::Unused);
        };
        if is_begun || found.len() < SHORTEST {
            return Ok(LocalTar::Unused);
        }
        let proved = self
            .until_stopped(async { Ok(self.prove_beginning(tar, &found).await) })
            .await?;
        match proved {
            Ok(source) => {
                let _local = self.tar.progress.locally();
                self.unpack_beginning(source, tar, found.len())
            }
            Err(why) => {
                tracing::info!(
                    wnid = %self.wnid, why,
                    "the tar in the target is broken off and not proved to be the beginning of the origin's: the class is \
                     downloaded from its beginning"
                );
                Ok(LocalTar::Unused)
            }
        }
    }

    /// The origin's tar of which the file is a prefix, or the reason why that is not proved.
    async fn prove_beginning(&self, tar: &File, found: &Metadata) -> Result<Source, String> {
        let source = describe(self.origin, &self.tar.url, self.tar.retries)
            .await
            .map_err(|error| error.to_string())?;
        let length = found.len();
        may_be_of(&source, length, found.modified().ok())?;
        let sample = (length / 16).min(LONGEST_SAMPLE);
        for from in [0, length - sample] {
            let is_same = self.is_same(&source, tar, from..from + sample).await;
            if !is_same.map_err(|error| error.to_string())? {
                return Err("the origin has other bytes there, or sends no parts".to_owned());
            }
        }
        Ok(source)
    }

    /// Whether the bytes of the file in this range equal those that the origin sends for this
    /// version.
    async fn is_same(
        &self,
        source: &Source,
        tar: &File,
        range: Range<u64>,
    ) -> Result<bool, DownloadError> {
        let resume = Some((source.clone(), range.start));
        let url = self.tar.url.clone();
        let until = Until::default();
        until.set(range.end);
        let mut download = Download::new(self.origin, url, self.tar.retries, resume, until);
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
    fn unpack_beginning(
        &self,
        source: Source,
        tar: &File,
        length: u64,
    ) -> Result<LocalTar, Unfinished> {
        let disk_space = &self.context.disk_space;
        let Ok(Some(_space)) = disk_space.claim_now(Some(length), self.copies()) else {
            return Ok(LocalTar::Unused);
        };
        let staging = self.make_staging()?;
        match self.unpack(tar, &staging, Start::of(source), self.keeps_tar()) {
            Ok(UnpackEnd::BrokenOff) => {
                tracing::info!(wnid = %self.wnid, length, "the tar in the target is the beginning of the origin's: going on behind it");
                Ok(LocalTar::BrokenOff)
            }
            Ok(UnpackEnd::Whole { .. }) => self.drop_staging(&staging).map(|()| LocalTar::Unused),
            Ok(UnpackEnd::Stopped) => self.drop_staging(&staging).and(Err(Unfinished::Stopped)),
            Err(error) => Err(self.broken(&staging, error)),
        }
    }
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

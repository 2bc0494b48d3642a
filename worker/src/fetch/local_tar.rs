//! A `<wnid>.tar` that is already in the target. A complete one is unpacked and not downloaded, the
//! download continues after a truncated one, and any other one stays as it is.
//!
//! A tar that this program did not write is complete if it has its end marker and the entries
//! before it fit the length of the origin's tar. A folder without a manifest is verified in the
//! same way (`origin_proof`). `--existing trust` uses the tar without a request to the origin. Its
//! bytes are not compared.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use shared::{Wnid, job::Existing, own_file::open_regular};
use tokio_util::sync::CancellationToken;

use crate::{
    extract::{Start, UnpackError, Unpacker},
    fetch::{
        broken_off_tar::begin_from,
        context::JobContext,
        origin_proof::{self, NotProved},
        unfinished::{self, Unfinished, storage},
    },
    observe::progress::ClassProgress,
    origin::Origin,
    source::Source,
    storage::{
        existing::{can_be_whole, whole_length},
        staging::{Staging, Unpacked},
    },
};

const BLOCK: usize = 256 << 10;
/// Extensions of files that other programs keep beside an incomplete file: the control files of
/// aria2 and axel. Their data files can have the full length from the beginning, with zeros for
/// missing bytes.
const CONTROL_FILES: [&str; 2] = ["aria2", "st"];

/// How a tar in the target was used.
#[derive(Debug)]
pub(crate) enum LocalTar {
    /// The tar is unpacked.
    Whole(Unpacked),
    /// Its beginning is unpacked in the staging area, and the download continues after it.
    BrokenOff,
    /// The tar was not used, or there is none.
    Unused,
}

/// Uses the class's tar in the target as far as possible. `is_own`: this program wrote it.
pub(crate) async fn use_local_tar(
    context: &JobContext,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    is_own: bool,
    progress: &ClassProgress,
    stop: &CancellationToken,
) -> Result<LocalTar, Unfinished> {
    let target = context.target();
    let path = target.tar(wnid);
    // A link, a folder or a pipe with that name is not a tar.
    let Ok(tar) = open_regular(&path) else {
        return Ok(LocalTar::Unused);
    };
    let Ok(found) = tar.metadata() else {
        return Ok(LocalTar::Unused);
    };
    let length = found.len();
    let look = |error| storage(target, "look at the folder", error);
    if target.users().map_err(look)?.is_of_another(&found) {
        tracing::info!(%wnid, "the tar in the target is another user's, so the class is downloaded");
        return Ok(LocalTar::Unused);
    }
    if let Some(control) = control_file(&path) {
        tracing::info!(%wnid, file = %control.display(), "the tar in the target is not complete, and not used");
        return Ok(LocalTar::Unused);
    }
    // A sparse file can be longer than the disk: the length that the origin announces decides.
    let Ok(Some(space)) = context.disk_space().claim_now(Some(length), 1) else {
        return Ok(LocalTar::Unused);
    };
    let fault = |error| unfinished::staging(target, "make a staging folder", error);
    let staging = Staging::create(target, wnid).map_err(fault)?;
    let url = crate::source::shown(&context.job.url.for_class(wnid));
    let source = Source {
        url,
        length: Some(length),
        ..Source::default()
    };
    // The origin's tar may be longer, so the length of the file is not a limit for its content.
    let start = Start {
        source: Source {
            length: None,
            ..source.clone()
        },
        ..Start::default()
    };
    let local = progress.locally();
    let unpacked = unpack(&tar, &staging, wnid, start, false, stop);
    drop(local);
    match unpacked {
        Ok(UnpackEnd::Whole { files, .. }) if is_own || context.job.existing == Existing::Trust => {
            Ok(LocalTar::Whole(Unpacked {
                staging,
                source,
                files,
            }))
        }
        Ok(UnpackEnd::Whole { files, entries }) => {
            let proved = stop
                .run_until_cancelled(prove(context, origin, wnid, retries, entries))
                .await;
            match proved.unwrap_or(Err(Unfinished::Stopped)) {
                Ok(Some(source)) => Ok(LocalTar::Whole(Unpacked {
                    staging,
                    source,
                    files,
                })),
                Ok(None) => context.drop_staging(&staging).map(|()| LocalTar::Unused),
                Err(unfinished) => context.drop_staging(&staging).and(Err(unfinished)),
            }
        }
        Ok(UnpackEnd::Stopped) => context.drop_staging(&staging).and(Err(Unfinished::Stopped)),
        Ok(UnpackEnd::BrokenOff) => {
            context.drop_staging(&staging)?;
            drop(space);
            let begun = begin_from(context, origin, wnid, retries, progress, &tar, stop).await?;
            Ok(if begun {
                LocalTar::BrokenOff
            } else {
                LocalTar::Unused
            })
        }
        Err(error) => {
            tracing::info!(%wnid, %error, "the tar in the target cannot be used, so the class is downloaded");
            context.drop_staging(&staging)?;
            match error.into_failure() {
                Ok(_) => Ok(LocalTar::Unused),
                Err((action, error)) => Err(unfinished::staging(target, &action, error)),
            }
        }
    }
}

/// The origin's tar, if it can be the tar in the target, whose entries have the length `entries` in
/// bytes. If that is not proved, logs it and returns `None`.
async fn prove(
    context: &JobContext,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    entries: u64,
) -> Result<Option<Source>, Unfinished> {
    let judge = |source: &Source| {
        Ok(match source.length {
            Some(length) if can_be_whole(entries, length) => Ok(source.clone()),
            Some(length) => Err(format!(
                "its files make a tar of {} bytes and the origin's has {length}",
                whole_length(entries)
            )),
            None => Err("the origin does not say how long its tar is".to_owned()),
        })
    };
    let url = context.job.url.for_class(wnid);
    let why = match origin_proof::prove(origin, &url, retries, judge).await? {
        Ok(source) => return Ok(Some(source)),
        Err(NotProved::Differs(why)) => why,
        Err(NotProved::Refused(error)) => {
            format!("the origin refuses to say how long its tar is, {error}")
        }
    };
    tracing::warn!(
        "{wnid}: the tar in the target is not used, because {why}; the class is downloaded \
         (--existing trust uses the tar as it is)"
    );
    Ok(None)
}

/// The control file that shows that another program has not completed a tar.
fn control_file(tar: &Path) -> Option<PathBuf> {
    let beside = |extension: &&str| {
        let mut name = tar.as_os_str().to_owned();
        name.push(format!(".{extension}"));
        PathBuf::from(name)
    };
    CONTROL_FILES
        .iter()
        .map(beside)
        .find(|path| path.symlink_metadata().is_ok())
}

/// How the unpacking of a file ended.
pub(crate) enum UnpackEnd {
    /// The end marker was reached.
    Whole {
        files: u64,
        /// Length of all entries, in bytes.
        entries: u64,
    },
    /// The file ends before the tar does. The unpacked prefix is a checkpoint in the staging
    /// folder.
    BrokenOff,
    Stopped,
}

/// Unpacks a file from its beginning.
pub(crate) fn unpack(
    tar: &File,
    staging: &Staging,
    wnid: Wnid,
    start: Start,
    keep_tar: bool,
    stop: &CancellationToken,
) -> Result<UnpackEnd, UnpackError> {
    let mut reader = Positioned {
        file: tar,
        offset: 0,
    };
    let mut unpacker = Unpacker::open(staging, wnid, start, keep_tar)?;
    let mut block = vec![0; BLOCK];
    loop {
        if stop.is_cancelled() {
            return Ok(UnpackEnd::Stopped);
        }
        match reader
            .read(&mut block)
            .map_err(UnpackError::storage("read the tar"))?
        {
            0 => break,
            read => unpacker.push(&block[..read])?,
        }
    }
    let entries = unpacker.checkpoint()?;
    match unpacker.finish() {
        Err(error) if error.is_truncated() => Ok(UnpackEnd::BrokenOff),
        finished => finished.map(|files| UnpackEnd::Whole { files, entries }),
    }
}

/// Reads a file from an offset of its own, so that other readers of the file are independent.
struct Positioned<'file> {
    file: &'file File,
    offset: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

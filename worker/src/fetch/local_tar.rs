//! A `<wnid>.tar` that is already in the target. A complete one is unpacked and not downloaded, the
//! download continues after a truncated one, and any other one stays as it is.
//!
//! A tar that this program did not write is complete if it has its end marker and the entries
//! before it fit the length of the origin's tar. A folder without a manifest is verified in the
//! same way (`origin_proof`). `--existing trust` uses the tar without a request to the origin. Its
//! bytes are not compared.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use shared::{job::Existing, own_file::open_regular};

use crate::{
    extract::{Start, UnpackError, Unpacker},
    fetch::{
        attempt::Attempt,
        origin_proof::NotProved,
        unfinished::{Unfinished, storage},
    },
    source::Source,
    storage::{
        existing::{is_possible_tar_length, padded_tar_length},
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
pub(super) enum LocalTar {
    /// The tar is unpacked.
    Whole(Unpacked),
    /// Its beginning is unpacked in the staging area, and the download continues after it.
    BrokenOff,
    /// The tar was not used, or there is none.
    Unused,
}

/// How the unpacking of a file ended.
pub(super) enum UnpackEnd {
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

impl Attempt<'_> {
    /// Uses the class's tar in the target as far as possible. `is_own`: this program wrote it.
    pub(super) async fn use_local_tar(&self, is_own: bool) -> Result<LocalTar, Unfinished> {
        let wnid = self.wnid;
        let Some((tar, length)) = self.open_local_tar()? else {
            return Ok(LocalTar::Unused);
        };
        // A sparse file can be longer than the disk: the length that the origin announces decides.
        let Ok(Some(space)) = self.context.disk_space.claim_now(Some(length), 1) else {
            return Ok(LocalTar::Unused);
        };
        let staging = self.make_staging()?;
        // The origin's tar may be longer, so the length of the file is not a limit for its content.
        let mut source = Source {
            url: self.shown_url(),
            ..Source::default()
        };
        let local = self.tar.progress.locally();
        let unpacked = self.unpack(&tar, &staging, Start::of(source.clone()), false);
        drop(local);
        let files = match unpacked {
            Ok(UnpackEnd::Whole { files, .. })
                if is_own || self.context.job.existing == Existing::Trust =>
            {
                source.length = Some(length);
                files
            }
            Ok(UnpackEnd::Whole { files, entries }) => {
                match self.until_stopped(self.prove_tar(entries)).await {
                    Ok(Some(proved)) => source = proved,
                    Ok(None) => return self.drop_staging(&staging).map(|()| LocalTar::Unused),
                    Err(unfinished) => return self.drop_staging(&staging).and(Err(unfinished)),
                }
                files
            }
            Ok(UnpackEnd::Stopped) => {
                return self.drop_staging(&staging).and(Err(Unfinished::Stopped));
            }
            Ok(UnpackEnd::BrokenOff) => {
                self.drop_staging(&staging)?;
                drop(space);
                return self.begin_from(&tar).await;
            }
            Err(error) => {
                tracing::info!(%wnid, %error, "the tar in the target cannot be used, so the class is downloaded");
                self.drop_staging(&staging)?;
                return match error.into_failure() {
                    Ok(_) => Ok(LocalTar::Unused),
                    Err((action, error)) => Err(self.staging(action)(error)),
                };
            }
        };
        Ok(LocalTar::Whole(Unpacked {
            staging,
            source,
            files,
        }))
    }

    /// The class's tar in the target, and its length in bytes; `None` if there is none, or it must
    /// not be used.
    fn open_local_tar(&self) -> Result<Option<(File, u64)>, Unfinished> {
        let wnid = self.wnid;
        let target = &self.context.target;
        let path = target.tar(wnid);
        // A link, a folder or a pipe with that name is not a tar.
        let Ok(tar) = open_regular(&path) else {
            return Ok(None);
        };
        let Ok(found) = tar.metadata() else {
            return Ok(None);
        };
        let users = target
            .users()
            .map_err(storage(target, "look at the folder"))?;
        if users.is_of_another(&found) {
            tracing::info!(%wnid, "the tar in the target is another user's, so the class is downloaded");
            return Ok(None);
        }
        if let Some(control) = control_file(&path) {
            tracing::info!(%wnid, file = %control.display(), "the tar in the target is not complete, and not used");
            return Ok(None);
        }
        Ok(Some((tar, found.len())))
    }

    /// The origin's tar, if it can be the tar in the target, whose entries have the length
    /// `entries` in bytes. If that is not proved, logs it and returns `None`.
    async fn prove_tar(&self, entries: u64) -> Result<Option<Source>, Unfinished> {
        let judge = |source: &Source| {
            Ok(match source.length {
                Some(length) if is_possible_tar_length(entries, length) => Ok(source.clone()),
                Some(length) => Err(format!(
                    "its files make a tar of {} bytes and the origin's has {length}",
                    padded_tar_length(entries)
                )),
                None => Err("the origin does not say how long its tar is".to_owned()),
            })
        };
        let why = match self.prove(judge).await? {
            Ok(source) => return Ok(Some(source)),
            Err(NotProved::Differs(why)) => why,
            Err(NotProved::Refused(error)) => {
                format!("the origin refuses to say how long its tar is, {error}")
            }
        };
        tracing::warn!(
            "{}: the tar in the target is not used, because {why}; the class is downloaded \
             (--existing trust uses the tar as it is)",
            self.wnid
        );
        Ok(None)
    }

    /// Unpacks a file from its beginning.
    pub(super) fn unpack(
        &self,
        tar: &File,
        staging: &Staging,
        start: Start,
        keep_tar: bool,
    ) -> Result<UnpackEnd, UnpackError> {
        let mut unpacker = Unpacker::open(staging, self.wnid, start, keep_tar)?;
        let mut block = vec![0; BLOCK];
        let mut offset = 0;
        loop {
            if self.stop.is_cancelled() {
                return Ok(UnpackEnd::Stopped);
            }
            let read = tar
                .read_at(&mut block, offset)
                .map_err(UnpackError::storage("read the tar"))?;
            if read == 0 {
                break;
            }
            unpacker.push(&block[..read])?;
            offset += read as u64;
        }
        let entries = unpacker.checkpoint()?;
        match unpacker.finish() {
            Err(error) if error.is_truncated() => Ok(UnpackEnd::BrokenOff),
            finished => finished.map(|files| UnpackEnd::Whole { files, entries }),
        }
    }
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

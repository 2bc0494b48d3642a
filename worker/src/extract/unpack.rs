//! Writes the files of one tar into a staging folder as its bytes arrive, with their digests and a checkpoint.
//!
//! Every file is made anew (`O_EXCL`), relative to the folder's descriptor and without following links: nothing in an
//! archive can reach outside, and a name that comes twice is noticed by the file system itself.

use std::{
    fs::File,
    io::{self, Seek, Write},
};

use rustix::fs::{AtFlags, Mode, OFlags};
use shared::{
    Wnid,
    outcome::{Failure, FailureKind},
};

use super::{
    framing::{Event, Framing, Limits},
    framing_error::FramingError,
};
use crate::{
    checkpoint::{FileEntry, Journal},
    source::Source,
    staging::Staging,
};

/// Where to start: at the beginning, or after files that are already there.
#[derive(Debug)]
pub(crate) struct Start {
    /// The version of the tar.
    pub(crate) source: Source,
    /// Files that are done.
    pub(crate) files: u64,
    /// Offset of the next header.
    pub(crate) offset: u64,
}

/// The unpacker of one tar.
#[derive(Debug)]
pub(crate) struct Unpacker {
    framing: Framing,
    folder: File,
    tar: Option<File>,
    journal: Journal,
    current: Option<Current>,
    /// Behind the last file that is done.
    checkpointed: u64,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    name: String,
    size: u64,
    file: File,
    hasher: blake3::Hasher,
}

/// Why unpacking ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is bad, or is none.
    #[error("{0}")]
    Framing(#[from] FramingError),
    /// Two entries of one name; also two that differ only in case, where the file system takes them for one.
    #[error("duplicate entry {name:?}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// The target failed.
    #[error("{action}: {source}")]
    Storage {
        /// What was being done.
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

impl UnpackError {
    /// More bytes could make the archive whole.
    pub(crate) fn is_truncated(&self) -> bool {
        matches!(self, Self::Framing(error) if error.is_truncated())
    }

    pub(crate) fn storage(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Storage { action: action.into(), source }
    }

    /// The class's failure, or the error of the target that is nobody's failure.
    pub(crate) fn into_failure(self) -> Result<Failure, (String, io::Error)> {
        let kind = match &self {
            Self::Framing(error) if error.is_not_a_tar() => FailureKind::NotATar,
            Self::Framing(_) | Self::Duplicate { .. } => FailureKind::TarError,
            Self::Storage { .. } => {
                let Self::Storage { action, source } = self else { unreachable!("matched above") };
                return Err((action, source));
            }
        };
        Ok(Failure::new(kind, self))
    }
}

impl Unpacker {
    /// Opens an unpacker on a staging folder. A start at offset 0 empties the folder first. `keep_tar`: the bytes are also
    /// written to the staged tar.
    pub(crate) fn open(staging: &Staging, wnid: Wnid, start: &Start, keep_tar: bool) -> Result<Self, UnpackError> {
        let in_staging = || UnpackError::storage("open the staging folder");
        let limits = Limits::for_tar(start.source.length);
        let (framing, journal, tar) = if start.offset == 0 {
            staging.clear().map_err(in_staging())?;
            let journal = Journal::create(&staging.journal(), &start.source).map_err(in_staging())?;
            let tar = keep_tar.then(|| File::create_new(staging.tar())).transpose().map_err(in_staging())?;
            (Framing::new(&wnid.to_string(), limits), journal, tar)
        } else {
            let journal = Journal::go_on(&staging.journal(), start.offset).map_err(in_staging())?;
            let tar = keep_tar.then(|| append_to(&staging.tar())).transpose().map_err(in_staging())?;
            (Framing::resume(&wnid.to_string(), limits, start.offset, start.files), journal, tar)
        };
        let folder = File::open(staging.class_folder()).map_err(in_staging())?;
        Ok(Self { framing, folder, tar, journal, current: None, checkpointed: start.offset })
    }

    /// Takes the next bytes of the tar.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if let Some(tar) = &mut self.tar {
            tar.write_all(bytes).map_err(UnpackError::storage("write the tar"))?;
        }
        let mut rest = bytes;
        while let Some(event) = self.framing.next(&mut rest)? {
            match event {
                Event::File { name, size } => self.current = Some(Current::create(&self.folder, name, size)?),
                Event::Data(data) => {
                    let current = self.current.as_mut().expect("data comes after its header");
                    current.hasher.update(data);
                    current.file.write_all(data).map_err(UnpackError::storage("write an image"))?;
                }
                Event::FileEnd { next_header } => {
                    let current = self.current.take().expect("an end comes after its header");
                    let Current { name, size, hasher, file } = current;
                    close(file).map_err(UnpackError::storage("close an image"))?;
                    self.checkpointed = next_header;
                    let entry = FileEntry { name, size, blake3: hasher.finalize(), next_header };
                    self.journal.append(&entry).map_err(UnpackError::storage("write the checkpoint"))?;
                }
            }
        }
        Ok(())
    }

    /// Makes what is done findable for a later attempt; gives how far into the tar that is. What is not done makes room for
    /// it: on a full disk there is none.
    pub(crate) fn checkpoint(&mut self) -> Result<u64, UnpackError> {
        if let Some(current) = self.current.take() {
            let removed = rustix::fs::unlinkat(&self.folder, &*current.name, AtFlags::empty());
            removed.map_err(|error| UnpackError::storage("remove an unfinished image")(error.into()))?;
        }
        if let Some(tar) = &self.tar {
            tar.set_len(self.checkpointed).map_err(UnpackError::storage("cut the tar"))?;
        }
        self.journal.flush().map_err(UnpackError::storage("write the checkpoint"))?;
        Ok(self.checkpointed)
    }

    /// Proves that the tar was complete; gives the number of its files.
    pub(crate) fn finish(mut self) -> Result<u64, UnpackError> {
        self.journal.flush().map_err(UnpackError::storage("write the checkpoint"))?;
        if let Some(tar) = self.tar {
            close(tar).map_err(UnpackError::storage("close the tar"))?;
        }
        let totals = self.framing.finish()?;
        tracing::debug!(totals.files, totals.padding_warnings, "the tar is complete");
        Ok(totals.files)
    }
}

impl Current {
    fn create(folder: &File, name: &str, size: u64) -> Result<Self, UnpackError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(file) => Ok(Self { name: name.to_owned(), size, file: file.into(), hasher: blake3::Hasher::new() }),
            Err(rustix::io::Errno::EXIST) => Err(UnpackError::Duplicate { name: name.to_owned() }),
            Err(error) => Err(UnpackError::storage("make an image")(error.into())),
        }
    }
}

/// On some file systems a full quota or a broken disk shows only here.
fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn append_to(path: &std::path::Path) -> io::Result<File> {
    let mut file = File::options().write(true).open(path)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(file)
}

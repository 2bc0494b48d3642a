//! Writes the files of one tar into a staging folder as its bytes arrive, with their digests and a
//! checkpoint.
//!
//! Every file is created (`O_EXCL`) relative to the folder's descriptor, and links are not
//! followed. So no entry can write outside of the folder, and the file system itself detects
//! duplicate names.

use std::{
    fs::File,
    io::{self, Seek, Write as _},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use shared::{
    Wnid,
    outcome::{Failure, FailureKind},
    own_file::{self, Access},
    refusal::Refusal,
};

use super::{
    framing::{Event, Framing, Limits},
    framing_error::FramingError,
};
use crate::storage::digest::Digest;
use crate::{
    source::Source,
    storage::{
        checkpoint_timer::CheckpointTimer,
        journal::{FileEntry, Journal},
        partial_file::{PartialFile, ProvedPartialFile},
        staging::Staging,
    },
};

/// Disk space in bytes that a file can take beyond its content: the block size of most file
/// systems.
const DISK_BLOCK: u64 = 4096;

/// Where unpacking starts: at the beginning, or after the files that a former attempt unpacked.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// The version of the tar.
    pub(crate) source: Source,
    /// Number of complete files.
    pub(crate) files: u64,
    /// The partial file after them, if there is one.
    pub(crate) begun: Option<ProvedPartialFile>,
    /// Offset of the next header, or of the rest of the partial file.
    pub(crate) offset: u64,
}

impl Start {
    /// The beginning of a tar.
    pub(crate) fn of(source: Source) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }
}

/// The unpacker of one tar.
#[derive(Debug)]
pub(crate) struct Unpacker {
    framing: Framing,
    folder: File,
    tar: Option<File>,
    journal: Journal,
    timer: CheckpointTimer,
    current: Option<Current>,
    disk_bytes: u64,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    begun: ProvedPartialFile,
    file: File,
    /// Offset in the tar of the file's next byte.
    position: u64,
}

/// Why unpacking ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is invalid, or the response is not an archive.
    #[error("{0}")]
    Framing(#[from] FramingError),
    /// Two entries have the same name, or names that differ only in case on a file system that
    /// ignores case.
    #[error("duplicate entry {name:?}")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// An operation in the target failed.
    #[error("{action}: {source}")]
    Storage {
        /// The operation that failed.
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl UnpackError {
    /// Whether more bytes could complete the archive.
    pub(crate) fn is_truncated(&self) -> bool {
        matches!(self, Self::Framing(error) if error.is_truncated())
    }

    /// Whether the disk or the user's quota is full.
    pub(crate) fn is_full_disk(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Storage { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    fn in_journal(source: io::Error) -> Self {
        Self::storage("write the checkpoint")(source)
    }

    pub(crate) fn storage(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Storage { action, source }
    }

    /// Returns the class's failure, or as an error the storage error, which is not a failure of the
    /// class.
    pub(crate) fn into_failure(self) -> Result<Failure, (&'static str, io::Error)> {
        match self {
            Self::Storage { action, source } => Err((action, source)),
            Self::Framing(error) if error.is_not_a_tar() => {
                let failure = Failure::new(FailureKind::NotATar, error);
                Ok(failure.refused(Refusal::NotATar))
            }
            error => Ok(Failure::new(FailureKind::TarError, error)),
        }
    }
}

impl Unpacker {
    /// Opens an unpacker on a staging folder. A start at offset 0 empties the folder first.
    /// `keep_tar`: the bytes are also written to the staged tar.
    pub(crate) fn open(
        staging: &Staging,
        wnid: Wnid,
        start: Start,
        keep_tar: bool,
    ) -> Result<Self, UnpackError> {
        let in_staging = UnpackError::storage("open the staging folder");
        let (journal, tar) = open_output(staging, &start, keep_tar).map_err(&in_staging)?;
        let folder = own_file::open_folder(&staging.class_folder()).map_err(&in_staging)?;
        let Start {
            source,
            files,
            begun,
            offset,
        } = start;
        let limits = Limits::for_tar(source.length);
        let mut framing = Framing::resume(&wnid.to_string(), limits, offset, files);
        if let Some(ProvedPartialFile { size, written, .. }) = &begun {
            framing = framing.within_file(*size, size - written);
        }
        let current = begun
            .map(|begun| Current::resume(&folder, begun, offset))
            .transpose()?;
        Ok(Self {
            framing,
            folder,
            tar,
            journal,
            timer: CheckpointTimer::default(),
            current,
            disk_bytes: offset.saturating_mul(if keep_tar { 2 } else { 1 }),
        })
    }

    /// Processes the next bytes of the tar.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if let Some(tar) = &mut self.tar {
            tar.write_all(bytes)
                .map_err(UnpackError::storage("write the tar"))?;
            self.disk_bytes += bytes.len() as u64;
        }
        self.unpack(bytes)?;
        if self.timer.received() {
            self.note_progress()
        } else {
            Ok(())
        }
    }

    /// Approximate disk space of the class in bytes: its files in whole blocks, and the tar if it
    /// is kept.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Number of files of the tar so far, the current one included.
    pub(crate) fn files(&self) -> u64 {
        self.framing.files()
    }

    /// The timer that tells when [`Self::note_progress`] is due even if no more bytes arrive.
    pub(crate) fn timer(&self) -> &CheckpointTimer {
        &self.timer
    }

    /// Records all received bytes in the journal. They then survive the end of the process, because
    /// files and tar were written to the kernel before.
    pub(crate) fn note_progress(&mut self) -> Result<(), UnpackError> {
        self.timer.restart();
        let noted = match &self.current {
            Some(current) => self.journal.note_beginning(&current.beginning()),
            None => self.journal.flush(),
        };
        noted.map_err(UnpackError::in_journal)
    }

    fn unpack(&mut self, mut bytes: &[u8]) -> Result<(), UnpackError> {
        while let Some(event) = self.framing.next(&mut bytes)? {
            match event {
                Event::File { name, size } => {
                    let mut current = Current::create(&self.folder, name, size)?;
                    current.position = self.framing.offset();
                    self.disk_bytes += DISK_BLOCK;
                    self.current = Some(current);
                }
                Event::Data(data) => {
                    let current = self.current.as_mut().expect("data comes after its header");
                    current
                        .write(data)
                        .map_err(UnpackError::storage("write an image"))?;
                    self.disk_bytes += data.len() as u64;
                    if self.journal.wants_beginning_at(current.position) {
                        self.journal
                            .note_beginning(&current.beginning())
                            .map_err(UnpackError::in_journal)?;
                    }
                }
                Event::FileEnd { next_header } => {
                    let current = self.current.take().expect("an end comes after its header");
                    close(current.file).map_err(UnpackError::storage("close an image"))?;
                    let entry = FileEntry {
                        name: current.begun.name,
                        size: current.begun.size,
                        blake3: current.begun.digest.finalize(),
                        next_header,
                    };
                    self.journal
                        .append(&entry)
                        .map_err(UnpackError::in_journal)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the progress available to a later attempt; returns the offset in the tar that it
    /// reaches.
    pub(crate) fn checkpoint(&mut self) -> Result<u64, UnpackError> {
        let end = match self.current.take() {
            Some(current) if self.journal.note_beginning(&current.beginning()).is_ok() => {
                current.position
            }
            // The unfinished file makes room for the journal of the finished ones: a full disk has
            // no other room.
            Some(Current { begun, .. }) => {
                rustix::fs::unlinkat(&self.folder, &*begun.name, AtFlags::empty())
                    .map_err(io::Error::from)
                    .map_err(UnpackError::storage("remove an unfinished image"))?;
                self.journal.done()
            }
            None => self.journal.done(),
        };
        if let Some(tar) = &self.tar {
            tar.set_len(end)
                .map_err(UnpackError::storage("cut the tar"))?;
        }
        self.journal.flush().map_err(UnpackError::in_journal)?;
        Ok(end)
    }

    /// Verifies that the tar was complete; returns the number of its files.
    pub(crate) fn finish(mut self) -> Result<u64, UnpackError> {
        self.journal.flush().map_err(UnpackError::in_journal)?;
        if let Some(tar) = self.tar {
            close(tar).map_err(UnpackError::storage("close the tar"))?;
        }
        let files = self.framing.finish()?;
        tracing::debug!(files, "the tar is complete");
        Ok(files)
    }
}

impl Current {
    fn create(folder: &File, name: &str, size: u64) -> Result<Self, UnpackError> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = name.to_owned();
        match rustix::fs::openat(folder, &*name, flags, Mode::from_raw_mode(0o644)) {
            Ok(file) => Ok(Self {
                begun: ProvedPartialFile {
                    name,
                    size,
                    written: 0,
                    digest: Digest::Empty,
                },
                file: file.into(),
                position: 0,
            }),
            Err(Errno::EXIST) => Err(UnpackError::Duplicate { name }),
            Err(error) => Err(UnpackError::storage("make an image")(error.into())),
        }
    }

    /// A former owner that still runs has this file open too. It can only write the bytes that the
    /// tar has at that place. So it does no harm as long as no write depends on where the file
    /// ends.
    fn resume(folder: &File, begun: ProvedPartialFile, position: u64) -> Result<Self, UnpackError> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened =
            rustix::fs::openat(folder, &*begun.name, flags, Mode::empty()).map_err(io::Error::from);
        let file = opened.and_then(|file| {
            let mut file = File::from(file);
            file.seek(io::SeekFrom::Start(begun.written)).map(|_| file)
        });
        Ok(Self {
            file: file.map_err(UnpackError::storage("open an image"))?,
            begun,
            position,
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.begun.written += data.len() as u64;
        self.position += data.len() as u64;
        let is_last = self.begun.written == self.begun.size;
        self.begun.digest.update(data, is_last);
        Ok(())
    }

    fn beginning(&self) -> PartialFile {
        PartialFile {
            name: self.begun.name.clone(),
            size: self.begun.size,
            written: self.begun.written,
            blake3: self.begun.digest.finalize(),
            position: self.position,
        }
    }
}

/// Opens the journal, and the staged tar if it is kept. A start at offset 0 empties the folder
/// first.
fn open_output(
    staging: &Staging,
    start: &Start,
    keep_tar: bool,
) -> io::Result<(Journal, Option<File>)> {
    if start.offset == 0 {
        staging.clear()?;
        let journal = Journal::create(&staging.journal(), &start.source)?;
        let tar = keep_tar.then(|| File::create_new(staging.tar()));
        return Ok((journal, tar.transpose()?));
    }
    let begun = start.begun.as_ref().map_or(0, |begun| begun.written);
    let journal = Journal::go_on(&staging.journal(), start.offset, begun)?;
    let tar = keep_tar.then(|| append_to(&staging.tar()));
    Ok((journal, tar.transpose()?))
}

/// Some file systems report a full quota or a broken disk only on `close`.
fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file)?)
}

fn append_to(path: &std::path::Path) -> io::Result<File> {
    let mut file = own_file::open(path, Access::Write)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests;

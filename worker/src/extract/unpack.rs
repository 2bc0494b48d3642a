//! Writes the files of one tar into a staging folder as its bytes arrive, with their digests and a
//! checkpoint.
//!
//! Every file is created (`O_EXCL`) relative to the folder's descriptor, and links are not
//! followed. So no entry can write outside of the folder, and the file system itself detects
//! duplicate names.

use std::{
    fs::File,
    io::{self, Seek},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::retry_on_intr,
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
        action: String,
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

    pub(crate) fn storage(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Storage {
            action: action.into(),
            source,
        }
    }

    /// Returns the class's failure, or as an error the storage error, which is not a failure of the
    /// class.
    pub(crate) fn into_failure(self) -> Result<Failure, (String, io::Error)> {
        let kind = match &self {
            Self::Framing(error) if error.is_not_a_tar() => FailureKind::NotATar,
            Self::Framing(_) | Self::Duplicate { .. } => FailureKind::TarError,
            Self::Storage { .. } => {
                let Self::Storage { action, source } = self else {
                    unreachable!("matched above")
                };
                return Err((action, source));
            }
        };
        let is_a_tar = kind != FailureKind::NotATar;
        let failure = Failure::new(kind, self);
        Ok(if is_a_tar {
            failure
        } else {
            failure.refused(Refusal::NotATar)
        })
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
        let in_staging = || UnpackError::storage("open the staging folder");
        let Start {
            source,
            files,
            begun,
            offset,
        } = start;
        let disk_bytes = offset.saturating_mul(if keep_tar { 2 } else { 1 });
        let (journal, tar) = if offset == 0 {
            staging.clear().map_err(in_staging())?;
            let journal = Journal::create(&staging.journal(), &source).map_err(in_staging())?;
            (
                journal,
                keep_tar
                    .then(|| File::create_new(staging.tar()))
                    .transpose()
                    .map_err(in_staging())?,
            )
        } else {
            let begun = begun.as_ref().map_or(0, |begun| begun.written);
            let journal = Journal::go_on(&staging.journal(), offset, begun).map_err(in_staging())?;
            (
                journal,
                keep_tar
                    .then(|| append_to(&staging.tar()))
                    .transpose()
                    .map_err(in_staging())?,
            )
        };
        let folder = own_file::open_folder(&staging.class_folder()).map_err(in_staging())?;
        let wnid = wnid.to_string();
        let limits = Limits::for_tar(source.length);
        let framing = match &begun {
            Some(ProvedPartialFile { size, written, .. }) => {
                Framing::resume_within(&wnid, limits, offset, files, *size, size - written)
            }
            None => Framing::resume(&wnid, limits, offset, files),
        };
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
            disk_bytes,
        })
    }

    /// Processes the next bytes of the tar.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if let Some(tar) = &self.tar {
            write_all(tar, bytes).map_err(UnpackError::storage("write the tar"))?;
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
        noted.map_err(UnpackError::storage("write the checkpoint"))
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
                    current.hash(data);
                    if self.journal.wants_beginning_at(current.position) {
                        let noted = self.journal.note_beginning(&current.beginning());
                        noted.map_err(UnpackError::storage("write the checkpoint"))?;
                    }
                }
                Event::FileEnd { next_header } => {
                    let current = self.current.take().expect("an end comes after its header");
                    let Current {
                        begun:
                            ProvedPartialFile {
                                name, size, digest, ..
                            },
                        file,
                        ..
                    } = current;
                    close(file).map_err(UnpackError::storage("close an image"))?;
                    let entry = FileEntry {
                        name,
                        size,
                        blake3: digest.finalize(),
                        next_header,
                    };
                    self.journal
                        .append(&entry)
                        .map_err(UnpackError::storage("write the checkpoint"))?;
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
            Some(current) => {
                let removed =
                    rustix::fs::unlinkat(&self.folder, &*current.begun.name, AtFlags::empty());
                removed.map_err(|error| {
                    UnpackError::storage("remove an unfinished image")(error.into())
                })?;
                self.journal.done()
            }
            None => self.journal.done(),
        };
        if let Some(tar) = &self.tar {
            tar.set_len(end)
                .map_err(UnpackError::storage("cut the tar"))?;
        }
        self.journal
            .flush()
            .map_err(UnpackError::storage("write the checkpoint"))?;
        Ok(end)
    }

    /// Verifies that the tar was complete; returns the number of its files.
    pub(crate) fn finish(mut self) -> Result<u64, UnpackError> {
        self.journal
            .flush()
            .map_err(UnpackError::storage("write the checkpoint"))?;
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
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(file) => {
                let begun = ProvedPartialFile {
                    name: name.to_owned(),
                    size,
                    written: 0,
                    digest: Digest::Empty,
                };
                Ok(Self {
                    begun,
                    file: file.into(),
                    position: 0,
                })
            }
            Err(rustix::io::Errno::EXIST) => Err(UnpackError::Duplicate {
                name: name.to_owned(),
            }),
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
        write_all(&self.file, data)?;
        self.begun.written += data.len() as u64;
        self.position += data.len() as u64;
        Ok(())
    }

    /// Adds the last written bytes to the digest.
    fn hash(&mut self, data: &[u8]) {
        self.begun
            .digest
            .update(data, self.begun.written == self.begun.size);
    }

    fn beginning(&self) -> PartialFile {
        let ProvedPartialFile {
            name,
            size,
            written,
            digest,
        } = &self.begun;
        let (name, blake3) = (name.clone(), digest.finalize());
        PartialFile {
            name,
            size: *size,
            written: *written,
            blake3,
            position: self.position,
        }
    }
}

/// Like the standard library's `write_all`, but without the C library, which prepares each call for
/// the cancellation of its thread.
fn write_all(file: &File, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match retry_on_intr(|| rustix::io::write(file, data))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => data = &data[written..],
        }
    }
    Ok(())
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

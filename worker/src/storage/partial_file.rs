//! The partial file of a class: the first bytes of an unfinished file, how the journal records it,
//! and how a resuming attempt verifies it.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use shared::own_file::{self, Access};

use crate::{
    storage::digest::Digest,
    storage::journal::{is_plain_file, read_digest, write_digest},
};

/// The journal's record of a partial file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialFile {
    /// Flat name, as in the tar.
    pub(crate) name: String,
    /// Length of the whole file in bytes.
    pub(crate) size: u64,
    /// Number of bytes that were written.
    pub(crate) written: u64,
    /// Digest of the written bytes.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub(crate) blake3: blake3::Hash,
    /// Offset in the tar at which the rest of the file begins.
    pub(crate) position: u64,
}

/// A verified partial file, truncated to the verified bytes.
#[derive(Debug)]
pub(crate) struct ProvedPartialFile {
    /// Flat name, as in the tar.
    pub(crate) name: String,
    /// Length of the whole file in bytes.
    pub(crate) size: u64,
    /// Number of bytes that were written.
    pub(crate) written: u64,
    /// Digest of the written bytes.
    pub(crate) digest: Digest,
}

impl PartialFile {
    /// Verifies the file and truncates it to the recorded length; `None` if it is missing or
    /// differs from the record.
    pub(crate) fn verify(&self, path: &Path) -> io::Result<Option<ProvedPartialFile>> {
        let is_there = self.written <= self.size
            && is_plain_file(path, &self.name)
            && fs::metadata(path).is_ok_and(|found| found.len() >= self.written);
        if !is_there {
            return Ok(None);
        }
        let file = match own_file::open(path, Access::ReadWrite) {
            // In a shared area, the file of another member of the group may be readable only.
            Err(error) if own_file::is_refused(&error) || error.kind() == ErrorKind::PermissionDenied => {
                return Ok(None);
            }
            opened => opened?,
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader((&file).take(self.written))?;
        if hasher.finalize() != self.blake3 {
            return Ok(None);
        }
        file.set_len(self.written)?;
        let name = self.name.clone();
        let digest = hasher.into();
        Ok(Some(ProvedPartialFile { name, size: self.size, written: self.written, digest }))
    }
}

//! The partial file of a class: the first bytes of a file whose extraction was interrupted. The
//! journal records it, and the next attempt verifies it.

use std::{
    fs,
    io::{self, ErrorKind, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use shared::own_file::{self, Access};

use crate::storage::{digest::Digest, journal::is_plain_file};

/// The journal's record of a partial file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialFile {
    /// File name without folders, as in the tar.
    pub(crate) name: String,
    /// Length of the whole file in bytes.
    pub(crate) size: u64,
    /// Number of bytes that were written.
    pub(crate) written: u64,
    /// Digest of the written bytes.
    #[serde(with = "crate::storage::digest")]
    pub(crate) blake3: blake3::Hash,
    /// Offset in the tar at which the rest of the file begins.
    pub(crate) position: u64,
}

/// A verified partial file, truncated to the verified bytes.
#[derive(Debug)]
pub(crate) struct ProvedPartialFile {
    /// File name without folders, as in the tar.
    pub(crate) name: String,
    /// Length of the whole file in bytes.
    pub(crate) size: u64,
    /// Number of bytes that were written.
    pub(crate) written: u64,
    /// Hash state after the written bytes, to which the rest is added.
    pub(crate) digest: Digest,
}

impl PartialFile {
    /// Verifies the file and truncates it to the recorded length: bytes behind it were written
    /// after the last checkpoint. `None` if it is missing or differs from the record.
    pub(crate) fn verify(&self, path: &Path) -> io::Result<Option<ProvedPartialFile>> {
        let is_plausible = self.written <= self.size
            && is_plain_file(path, &self.name)
            && fs::metadata(path).is_ok_and(|found| found.len() >= self.written);
        if !is_plausible {
            return Ok(None);
        }
        let file = match own_file::open(path, Access::ReadWrite) {
            // In an area that a Unix group shares, a file of another member may be read-only for
            // this user.
            Err(error)
                if own_file::is_refused(&error) || error.kind() == ErrorKind::PermissionDenied =>
            {
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
        Ok(Some(ProvedPartialFile {
            name: self.name.clone(),
            size: self.size,
            written: self.written,
            digest: hasher.into(),
        }))
    }
}

//! The beginning of a file that is not finished: how it stands in the journal, and how whoever goes on with it proves it.

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

/// The beginning of a file, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    /// Flat name, as in the tar.
    pub(crate) name: String,
    /// Length of the whole file in bytes.
    pub(crate) size: u64,
    /// Bytes of it that are there.
    pub(crate) written: u64,
    /// Digest of those.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub(crate) blake3: blake3::Hash,
    /// Offset in the tar at which the rest of the file stands.
    pub(crate) position: u64,
}

/// A file of which the first bytes are there and were proved, and nothing behind them.
#[derive(Debug)]
pub(crate) struct BegunFile {
    /// Flat name, as in the tar.
    pub(crate) name: String,
    /// Length of the whole file in bytes.
    pub(crate) size: u64,
    /// Bytes of it that are there.
    pub(crate) written: u64,
    /// Of those.
    pub(crate) digest: Digest,
}

impl Beginning {
    /// Cuts the file to what the journal says of it, if that is there and holds.
    pub(crate) fn prove(&self, path: &Path) -> io::Result<Option<BegunFile>> {
        let is_there = self.written <= self.size
            && is_plain_file(path, &self.name)
            && fs::metadata(path).is_ok_and(|found| found.len() >= self.written);
        if !is_there {
            return Ok(None);
        }
        let file = match own_file::open(path, Access::ReadWrite) {
            // A file of another member of the group that shares the area can be read only.
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
        let (name, digest) = (self.name.clone(), hasher.into());
        Ok(Some(BegunFile { name, size: self.size, written: self.written, digest }))
    }
}

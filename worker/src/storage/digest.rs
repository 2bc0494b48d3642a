//! The BLAKE3 digest of a file whose content arrives in pieces.
//!
//! BLAKE3 hashes up to sixteen chunks of 1 KiB at once, but only chunks that are adjacent in its
//! tree (BLAKE3 paper, §5.3). Pieces with arbitrary ends let it hash only a few chunks at a time,
//! and pieces received over TLS are small: the work doubles. Therefore BLAKE3 receives whole
//! blocks, and the rest of a piece is buffered until the next piece. Most files arrive in one piece
//! and need no state.

use std::io::{self, Read};

use blake3::{Hash, Hasher};
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// Bytes that BLAKE3 hashes at once with AVX-512. Other machines hash a smaller power of two at
/// once.
const BLOCK: usize = 16 << 10;

/// The state of an incremental digest.
#[derive(Debug)]
pub(crate) enum Digest {
    /// No bytes so far.
    Empty,
    /// Some pieces so far.
    Begun(Box<Blocks>),
    /// A file that arrived in one piece.
    Whole(Hash),
}

/// A digest over several pieces.
#[derive(Debug)]
pub(crate) struct Blocks {
    hasher: Hasher,
    /// Buffered bytes, less than a block.
    held: Vec<u8>,
}

/// Continues after bytes that were hashed already.
impl From<Hasher> for Digest {
    fn from(hasher: Hasher) -> Self {
        Self::Begun(Box::new(Blocks {
            hasher,
            held: Vec::new(),
        }))
    }
}

impl Digest {
    /// Hashes the next bytes. `last`: no more bytes follow, so none are buffered.
    pub(crate) fn update(&mut self, bytes: &[u8], last: bool) {
        match self {
            Self::Empty if last => *self = Self::Whole(blake3::hash(bytes)),
            Self::Empty => {
                *self = Hasher::new().into();
                self.update(bytes, last);
            }
            Self::Begun(blocks) => blocks.update(bytes, last),
            Self::Whole(_) => debug_assert!(bytes.is_empty(), "no bytes follow the last ones"),
        }
    }

    /// The digest of all bytes so far.
    pub(crate) fn finalize(&self) -> Hash {
        match self {
            Self::Empty => blake3::hash(&[]),
            Self::Begun(blocks) => blocks.finalize(),
            Self::Whole(digest) => *digest,
        }
    }
}

impl Blocks {
    fn update(&mut self, mut bytes: &[u8], last: bool) {
        let begun = self.begun();
        if begun > 0 {
            let (fill, rest) = bytes.split_at(bytes.len().min(BLOCK - begun));
            self.hold(fill);
            bytes = rest;
            if begun + fill.len() < BLOCK && !last {
                return;
            }
            self.hasher.update(&self.held);
            self.held.clear();
        }
        let whole = if last {
            bytes.len()
        } else {
            bytes.len() / BLOCK * BLOCK
        };
        self.hasher.update(&bytes[..whole]);
        self.hold(&bytes[whole..]);
    }

    fn finalize(&self) -> Hash {
        if self.held.is_empty() {
            return self.hasher.finalize();
        }
        self.hasher.clone().update(&self.held).finalize()
    }

    /// Number of bytes in the current block.
    #[expect(clippy::cast_possible_truncation, reason = "less than a block")]
    fn begun(&self) -> usize {
        (self.hasher.count() % BLOCK as u64) as usize + self.held.len()
    }

    fn hold(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.held.reserve_exact(BLOCK - self.held.len());
            self.held.extend_from_slice(bytes);
        }
    }
}

/// The digest of everything that a reader yields.
pub(crate) fn digest(mut reader: impl Read) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    hasher.update_reader(&mut reader)?;
    Ok(hasher.finalize())
}

/// For the attribute `serde(with)`: writes a digest as hexadecimal digits.
pub(crate) fn serialize<S: Serializer>(digest: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest.to_hex())
}

/// For the attribute `serde(with)`: reads a digest from text in memory, without a copy of it.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
    Hash::from_hex(<&str>::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length)
            .map(|place| (place * 7 + place / 251).to_le_bytes()[0])
            .collect()
    }

    fn held(digest: &Digest) -> usize {
        if let Digest::Begun(blocks) = digest {
            blocks.held.len()
        } else {
            0
        }
    }

    proptest! {
        #[test]
        fn the_digest_does_not_depend_on_the_pieces(
            length in 0..5 * BLOCK,
            cuts in proptest::collection::vec(0..5 * BLOCK, 0..8),
            hashed_before in 0..BLOCK * 2,
        ) {
            let content = content(length);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(length)).collect();
            cuts.extend([hashed_before.min(length), length]);
            cuts.sort_unstable();
            let mut done = cuts[0];
            let mut digest = match done {
                0 => Digest::Empty,
                _ => Hasher::new().update(&content[..done]).clone().into(),
            };
            for cut in cuts {
                digest.update(&content[done..cut], cut == length);
                prop_assert!(held(&digest) < BLOCK);
                prop_assert_eq!(digest.finalize(), blake3::hash(&content[..cut]));
                done = cut;
            }
            prop_assert_eq!(held(&digest), 0);
        }
    }

    #[test]
    fn blake3_receives_whole_blocks_after_a_resume_at_any_byte() {
        let content = content(4 * BLOCK);
        let mut blocks = Blocks {
            hasher: Hasher::new().update(&content[..1000]).clone(),
            held: Vec::new(),
        };
        for piece in content[1000..].chunks(5000) {
            blocks.update(piece, false);
            assert!(
                blocks.hasher.count() == 1000 || blocks.hasher.count().is_multiple_of(BLOCK as u64)
            );
        }
        assert_eq!(blocks.finalize(), blake3::hash(&content));
    }
}

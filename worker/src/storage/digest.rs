//! The digest of a file that comes in pieces.
//!
//! BLAKE3 takes up to sixteen chunks of 1 KiB at once, but only those that stand together in its tree (BLAKE3 paper, §5.3). Pieces
//! that end anywhere make it take a few at a time, and those that come over TLS are small: twice the work. So it gets whole
//! blocks, and what is left of a piece waits for the next one. Most files come in one piece and need no state at all.

use blake3::{Hash, Hasher};
use std::io::{self, Read};

/// What BLAKE3 takes at once where the machine has AVX-512; others have a smaller power of two.
const BLOCK: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) enum Digest {
    /// Of nothing yet.
    Empty,
    /// Of some pieces.
    Begun(Box<Blocks>),
    /// Of a file that came in one piece.
    Whole(Hash),
}

/// A digest that is under way.
#[derive(Debug)]
pub(crate) struct Blocks {
    hasher: Hasher,
    /// Less than a block.
    held: Vec<u8>,
}

/// Goes on behind bytes that were hashed.
impl From<Hasher> for Digest {
    fn from(hasher: Hasher) -> Self {
        Self::Begun(Box::new(Blocks { hasher, held: Vec::new() }))
    }
}

impl Digest {
    /// Takes the next bytes; `last`: there will be no more, and none have to wait.
    pub(crate) fn update(&mut self, bytes: &[u8], last: bool) {
        match self {
            Self::Empty if last => *self = Self::Whole(blake3::hash(bytes)),
            Self::Empty => {
                *self = Hasher::new().into();
                self.update(bytes, last);
            }
            Self::Begun(blocks) => blocks.update(bytes, last),
            Self::Whole(_) => debug_assert!(bytes.is_empty(), "the last bytes were said to be the last"),
        }
    }

    /// Of all bytes so far.
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
        let whole = if last { bytes.len() } else { bytes.len() / BLOCK * BLOCK };
        self.hasher.update(&bytes[..whole]);
        self.hold(&bytes[whole..]);
    }

    fn finalize(&self) -> Hash {
        if self.held.is_empty() {
            return self.hasher.finalize();
        }
        self.hasher.clone().update(&self.held).finalize()
    }

    /// How much of a block there is.
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

/// Digest of what a reader gives.
pub(crate) fn digest(mut reader: impl Read) -> io::Result<Hash> {
    let mut hasher = Hasher::new();
    hasher.update_reader(&mut reader)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|place| (place * 7 + place / 251).to_le_bytes()[0]).collect()
    }

    fn held(digest: &Digest) -> usize {
        if let Digest::Begun(blocks) = digest { blocks.held.len() } else { 0 }
    }

    proptest! {
        #[test]
        fn however_a_file_is_cut_its_digest_is_that_of_the_whole(
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
    fn blake3_gets_blocks_from_wherever_it_was_gone_on() {
        let content = content(4 * BLOCK);
        let mut blocks = Blocks { hasher: Hasher::new().update(&content[..1000]).clone(), held: Vec::new() };
        for piece in content[1000..].chunks(5000) {
            blocks.update(piece, false);
            assert!(blocks.hasher.count() == 1000 || blocks.hasher.count().is_multiple_of(BLOCK as u64));
        }
        assert_eq!(blocks.finalize(), blake3::hash(&content));
    }
}

//! Digests of small files, sixteen at a time.
//!
//! BLAKE3 is fast because it works on up to sixteen chunks of 1 KiB side by side (BLAKE3 paper, §5.3), which a small file does not
//! have: in one of two chunks, each costs three times as much as in a large one. But chunks of one number in different files can
//! stand side by side as well, since their counter is the same. The crate does not offer that (its issues 386 and 478); its kernel
//! does, which is public and not documented, so the version is pinned. All else is its documented `hazmat` interface.

use std::array;

use blake3::{
    CHUNK_LEN, Hash, Hasher, IncrementCounter, OUT_LEN,
    hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
    platform::Platform,
};

use crate::checkpoint::FileEntry;

/// Files at a time: the chunks that the kernel takes at once where the machine has AVX-512; others take them in several goes.
const LANES: usize = 16;
/// Fewer files than these are faster one by one (measured, with AVX-512: two to eight chunks).
const FEWEST: usize = 4;
/// A file of so many whole chunks is as fast alone as with three others.
const MOST_CHUNKS: usize = 8;

/// What a chunk starts from (BLAKE3 paper, §2.2, table 1).
const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
/// Flag of a chunk's first block (table 3).
const CHUNK_START: u8 = 1 << 0;
/// Flag of a chunk's last block (table 3).
const CHUNK_END: u8 = 1 << 1;

/// Whether a file of so many bytes is cheaper in company.
pub(crate) fn is_small(size: usize) -> bool {
    // A single chunk is the root of its tree, which has a flag of its own.
    (CHUNK_LEN + 1..MOST_CHUNKS * CHUNK_LEN).contains(&size)
}

/// A finished file that is at hand and has no digest yet.
#[derive(Debug)]
struct SmallFile<'piece> {
    name: String,
    content: &'piece [u8],
    next_header: u64,
}

/// Finished files that wait for their digests, in the order of the tar.
#[derive(Debug, Default)]
pub(crate) struct SmallFiles<'piece>(Vec<SmallFile<'piece>>);

impl<'piece> SmallFiles<'piece> {
    /// Adds a file whose size [`is_small`]; `next_header` is the offset in the tar at which the header after it stands.
    pub(crate) fn push(&mut self, name: String, content: &'piece [u8], next_header: u64) {
        self.0.push(SmallFile { name, content, next_header });
    }

    /// Takes all files out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = FileEntry> {
        let mut digests = Vec::with_capacity(self.0.len());
        for files in self.0.chunks(LANES) {
            if files.len() < FEWEST {
                digests.extend(files.iter().map(|file| blake3::hash(file.content)));
                continue;
            }
            let values = whole_chunks(files);
            let of_lane = |lane: usize| array::from_fn(|number| values[number][lane]);
            digests.extend(files.iter().enumerate().map(|(lane, file)| digest(file.content, of_lane(lane))));
        }
        self.0.drain(..).zip(digests).map(|(file, blake3)| {
            let SmallFile { name, content, next_header } = file;
            FileEntry { name, size: content.len() as u64, blake3, next_header }
        })
    }
}

/// The chaining values of all whole chunks: of the first one of each file, of the second, and so on.
fn whole_chunks(files: &[SmallFile<'_>]) -> [[ChainingValue; LANES]; MOST_CHUNKS] {
    let mut values = [[[0; OUT_LEN]; LANES]; MOST_CHUNKS];
    let platform = Platform::detect();
    for (number, values) in values.iter_mut().enumerate() {
        let (mut inputs, mut lanes, mut count) = ([&[0; CHUNK_LEN]; LANES], [0; LANES], 0);
        for (lane, file) in files.iter().enumerate() {
            if let Some(chunk) = file.content.as_chunks().0.get(number) {
                (inputs[count], lanes[count]) = (chunk, lane);
                count += 1;
            }
        }
        if count == 0 {
            break;
        }
        let (inputs, counter, mut out) = (&inputs[..count], number as u64, [0; LANES * OUT_LEN]);
        platform.hash_many(inputs, &IV, counter, IncrementCounter::No, 0, CHUNK_START, CHUNK_END, &mut out);
        for (value, lane) in out.as_chunks().0.iter().zip(&lanes[..count]) {
            values[*lane] = *value;
        }
    }
    values
}

/// The digest of a content, of which the chunks that are whole are known.
fn digest(content: &[u8], mut chunks: [ChainingValue; MOST_CHUNKS]) -> Hash {
    let (whole, rest) = content.as_chunks::<CHUNK_LEN>();
    if !rest.is_empty() {
        let offset = (whole.len() * CHUNK_LEN) as u64;
        chunks[whole.len()] = Hasher::new().set_input_offset(offset).update(rest).finalize_non_root();
    }
    let (left, right) = halves(&chunks[..content.len().div_ceil(CHUNK_LEN)]);
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
}

fn subtree(chunks: &[ChainingValue]) -> ChainingValue {
    if let [chunk] = chunks {
        return *chunk;
    }
    let (left, right) = halves(chunks);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// On the left as many as a full tree can have (BLAKE3 paper, §2.1).
fn halves(chunks: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    chunks.split_at(chunks.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SMALLEST: usize = CHUNK_LEN + 1;
    const LARGEST: usize = MOST_CHUNKS * CHUNK_LEN - 1;

    proptest! {
        #[test]
        fn in_company_a_file_has_the_digest_that_it_has_alone(
            sizes in vec(prop_oneof![SMALLEST..=LARGEST, (2..MOST_CHUNKS).prop_map(|chunks| chunks * CHUNK_LEN)], 0..40),
            seed in any::<u8>(),
        ) {
            let content: Vec<u8> = (0..LARGEST * 2).map(|place| (place * 7 + place / 251).to_le_bytes()[0] ^ seed).collect();
            let (mut files, mut alone) = (SmallFiles::default(), Vec::new());
            for (number, size) in (0..).zip(sizes) {
                let content = &content[alone.len() * 97..][..size];
                prop_assert!(is_small(size));
                files.push(number.to_string(), content, number);
                let (name, size, blake3) = (number.to_string(), size as u64, blake3::hash(content));
                alone.push(FileEntry { name, size, blake3, next_header: number });
            }
            prop_assert_eq!(files.drain().collect::<Vec<_>>(), alone);
            prop_assert_eq!(files.drain().count(), 0);
        }
    }

    #[test]
    fn small_is_what_has_a_tree_and_fills_no_lanes_alone() {
        assert!(is_small(SMALLEST) && is_small(LARGEST));
        assert!(!is_small(0) && !is_small(SMALLEST - 1) && !is_small(LARGEST + 1));
    }
}

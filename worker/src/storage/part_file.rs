//! A part of a tar in a file of its own. The writer appends blocks, each with a digest. If a block
//! fills slowly, its bytes are written before it is full and overwritten with more bytes later, so
//! a kill loses only the bytes since the last write.
//!
//! The digest covers the version of the tar, the offset of the block in the tar and its bytes. A
//! reader therefore rejects torn blocks, zeros and bytes of another version, whether it reads while
//! the file grows, after a kill, after a power cut or on another host. Only the writer that created
//! a file writes to it.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use shared::{
    listing::list,
    own_file::{self, Access},
};

use crate::{
    source::Source,
    storage::{checkpoint_timer::CheckpointTimer, file_tree::nonce},
};

/// Bytes of the tar in a block; the last one of a file may have fewer.
const BLOCK: usize = 256 << 10;
/// Size of a block's length (4 bytes, little endian) and digest, which precede its bytes.
const HEAD: usize = 4 + blake3::OUT_LEN;

/// Key of the block digests, derived from the version of the tar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version([u8; blake3::KEY_LEN]);

impl Version {
    pub(crate) fn of(source: &Source) -> Self {
        let source =
            serde_json::to_vec(&source.version()).expect("text and numbers can be written");
        Self(*blake3::hash(&source).as_bytes())
    }

    fn digest(self, start: u64, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&start.to_le_bytes()).update(bytes);
        hasher.finalize()
    }
}

/// Appends blocks to a part file. A file has exactly one writer.
#[derive(Debug)]
pub(crate) struct PartWriter {
    path: PathBuf,
    version: Version,
    /// Created when the first block is written.
    file: Option<File>,
    /// Offset of the current block in the file; `reached` is its offset in the tar.
    offset: u64,
    reached: u64,
    block: Vec<u8>,
    timer: CheckpointTimer,
}

impl PartWriter {
    /// Prepares a file that does not exist yet. Its first byte is the tar's byte `start`.
    pub(crate) fn new(path: PathBuf, version: Version, start: u64) -> Self {
        Self {
            path,
            version,
            file: None,
            offset: 0,
            reached: start,
            block: vec![0; HEAD],
            timer: CheckpointTimer::default(),
        }
    }

    /// The tar offset up to which complete blocks are in the file.
    pub(crate) fn reached(&self) -> u64 {
        self.reached
    }

    /// Copies the bytes that follow into the block, as many as it has room for; returns their
    /// number.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(HEAD + BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// The timer that decides when [`Self::note`] is due.
    pub(crate) fn timer(&mut self) -> &mut CheckpointTimer {
        &mut self.timer
    }

    pub(crate) fn is_full(&self) -> bool {
        self.block.len() == HEAD + BLOCK
    }

    /// Writes the block, full or not. The next byte begins a new block.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        self.note()?;
        self.offset += self.block.len() as u64;
        self.reached += (self.block.len() - HEAD) as u64;
        self.block.truncate(HEAD);
        Ok(())
    }

    /// Writes the current content of the block, which stays open for more bytes. A reader that
    /// follows the growing file does not count an open block.
    pub(crate) fn note(&mut self) -> io::Result<()> {
        self.timer.restart();
        let bytes = &self.block[HEAD..];
        let count = u32::try_from(bytes.len()).expect("a block is small");
        if count == 0 {
            return Ok(());
        }
        let digest = self.version.digest(self.reached, bytes);
        self.block[..4].copy_from_slice(&count.to_le_bytes());
        self.block[4..HEAD].copy_from_slice(digest.as_bytes());
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::create_new(&self.path)?),
        };
        file.write_all_at(&self.block, self.offset)
    }
}

/// Reads a part file from its beginning, also while it grows.
#[derive(Debug)]
pub(crate) struct PartReader {
    file: File,
    version: Version,
    /// Offset of the next block in the file; `position` is its offset in the tar.
    offset: u64,
    position: u64,
}

impl PartReader {
    /// Opens a file whose first byte is the tar's byte `start`.
    pub(crate) fn open(path: &Path, version: Version, start: u64) -> io::Result<Self> {
        Ok(Self {
            file: own_file::open(path, Access::Read)?,
            version,
            offset: 0,
            position: start,
        })
    }

    /// Offset of the next block in the tar.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next block; `None` if there is no complete block with a valid digest yet.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut head = [0; HEAD];
        if !self.read(&mut head, self.offset)? {
            return Ok(None);
        }
        let (count, digest) = head.split_at(4);
        let count = u32::from_le_bytes(count.try_into().expect("four bytes"));
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        if length == 0 || length > BLOCK {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        let is_valid = self.read(&mut bytes, self.offset + HEAD as u64)?
            && *self.version.digest(self.position, &bytes).as_bytes() == *digest;
        if !is_valid {
            return Ok(None);
        }
        self.offset += (HEAD + length) as u64;
        self.position += u64::from(count);
        Ok(Some(bytes))
    }

    /// Fills `buffer` from `offset`; `false` if the file ends before that.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        match self.file.read_exact_at(buffer, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A part that an earlier attempt has left, and how much of it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundPart {
    pub(crate) path: PathBuf,
    pub(crate) start: u64,
    pub(crate) reached: u64,
}

/// A name for a part that begins at the tar offset `start`. The random suffix makes it unique among
/// attempts.
pub(crate) fn name(start: u64) -> String {
    format!("{start}.{}", nonce())
}

/// The start offset that a file name contains.
fn start_of(name: &str) -> Option<u64> {
    name.split_once('.')?.0.parse().ok()
}

/// Moves the parts of an earlier attempt from its folder to the folder of the current attempt and
/// validates the blocks of each part. The earlier attempt may still run and append to a file that
/// was moved; therefore no other writer ever appends to it.
pub(crate) fn adopt(from: &Path, to: &Path, source: &Source) -> io::Result<Vec<FoundPart>> {
    let version = Version::of(source);
    let mut adopted = Vec::new();
    let entries = match list(from) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(adopted);
        }
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(start) = entry.text().and_then(start_of) else {
            continue;
        };
        if adopted.is_empty() && !to.is_dir() {
            fs::create_dir(to)?;
        }
        let path = to.join(entry.name());
        fs::rename(entry.path(), &path)?;
        let reached = match PartReader::open(&path, version, start) {
            Err(error) if own_file::is_refused(&error) => start,
            opened => {
                let mut reader = opened?;
                while reader.next()?.is_some() {}
                reader.position()
            }
        };
        if reached > start {
            adopted.push(FoundPart {
                path,
                start,
                reached,
            });
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(adopted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(etag: &str) -> Version {
        Version::of(&source(etag))
    }

    fn source(etag: &str) -> Source {
        Source {
            length: Some(9_000_000),
            etag: Some(etag.to_owned()),
            ..Source::default()
        }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count)
            .map(|index| u8::try_from(index % 251).unwrap())
            .collect()
    }

    fn write(path: &Path, start: u64, mut bytes: &[u8]) {
        let mut writer = PartWriter::new(path.to_owned(), version("a"), start);
        while !bytes.is_empty() {
            bytes = &bytes[writer.fill(bytes)..];
            if writer.is_full() {
                writer.write().unwrap();
            }
        }
        writer.write().unwrap();
    }

    fn read(path: &Path, version: Version, start: u64) -> Vec<u8> {
        let mut reader = PartReader::open(path, version, start).unwrap();
        std::iter::from_fn(|| reader.next().unwrap())
            .flatten()
            .collect()
    }

    #[test]
    fn only_blocks_of_the_same_version_and_offset_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes = bytes(2 * BLOCK + 1000);
        write(&path, 700, &bytes);
        assert_eq!(read(&path, version("a"), 700), bytes);
        assert!(read(&path, version("b"), 700).is_empty(), "another version");
        assert!(read(&path, version("a"), 701).is_empty(), "another offset");
    }

    #[test]
    fn reading_ends_at_a_torn_or_damaged_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes = bytes(2 * BLOCK + 1000);
        write(&path, 0, &bytes);
        let whole = fs::read(&path).unwrap();
        for (cut, blocks) in [
            (0, 0),
            (HEAD - 1, 0),
            (HEAD + BLOCK - 1, 0),
            (HEAD + BLOCK, 1),
            (whole.len() - 1, 2),
        ] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(
                read(&path, version("a"), 0),
                bytes[..blocks * BLOCK],
                "cut at {cut}"
            );
        }
        for (place, blocks) in [(0, 0), (10, 0), (HEAD + 5, 0), (HEAD + BLOCK + HEAD + 5, 1)] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(
                read(&path, version("a"), 0),
                bytes[..blocks * BLOCK],
                "damaged at {place}"
            );
        }
        // A power cut can leave a file of full length that contains only zeros.
        fs::write(&path, vec![0; whole.len()]).unwrap();
        assert!(read(&path, version("a"), 0).is_empty());
    }

    #[test]
    fn a_reader_follows_a_file_that_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let mut writer = PartWriter::new(path.clone(), version("a"), 5);
        writer.fill(b"one");
        writer.write().unwrap();
        let mut reader = PartReader::open(&path, version("a"), 5).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), b"one");
        assert_eq!(reader.next().unwrap(), None);
        writer.fill(b"two");
        writer.write().unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), b"two");
        assert_eq!((reader.position(), writer.reached()), (11, 11));
    }

    #[test]
    fn noted_bytes_of_a_block_survive_a_kill_and_do_not_count_as_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes = bytes(BLOCK + 3000);
        let length = || fs::metadata(&path).unwrap().len();
        let mut writer = PartWriter::new(path.clone(), version("a"), 700);
        for end in [1000, 1000, BLOCK - 1] {
            let begin = writer.block.len() - HEAD;
            assert_eq!(writer.fill(&bytes[begin..end]), end - begin);
            writer.note().unwrap();
            assert_eq!(
                read(&path, version("a"), 700),
                bytes[..end],
                "a new reader finds it"
            );
            assert_eq!(writer.reached(), 700);
        }
        writer.fill(&bytes[BLOCK - 1..BLOCK]);
        writer.write().unwrap();
        assert_eq!(writer.reached(), 700 + BLOCK as u64);
        writer.note().unwrap();
        assert_eq!(
            length(),
            (HEAD + BLOCK) as u64,
            "an empty block is not written"
        );
        writer.fill(&bytes[BLOCK..BLOCK + 2000]);
        writer.note().unwrap();
        writer.fill(&bytes[BLOCK + 2000..]);
        writer.write().unwrap();
        assert_eq!(read(&path, version("a"), 700), bytes);
    }

    #[test]
    fn adopted_parts_count_up_to_their_last_valid_block() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        assert_eq!(adopt(&from, &to, &source("a")).unwrap(), []);
        fs::create_dir(&from).unwrap();
        let bytes = bytes(BLOCK + 10);
        let torn = from.join(name(0));
        write(&torn, 0, &bytes);
        File::options()
            .write(true)
            .open(&torn)
            .unwrap()
            .set_len((HEAD + BLOCK + 20) as u64)
            .unwrap();
        write(&from.join(name(500_000)), 500_000, &bytes);
        fs::write(from.join(name(900_000)), [0; 5000]).unwrap();

        let mut adopted = adopt(&from, &to, &source("a")).unwrap();
        adopted.sort_by_key(|found| found.start);
        let ranges: Vec<_> = adopted
            .iter()
            .map(|found| (found.start, found.reached))
            .collect();
        assert_eq!(
            ranges,
            [(0, BLOCK as u64), (500_000, 500_000 + bytes.len() as u64)]
        );
        assert!(
            adopted
                .iter()
                .all(|found| found.path.starts_with(&to) && found.path.is_file())
        );
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }
}

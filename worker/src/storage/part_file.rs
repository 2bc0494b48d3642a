//! A part of a tar in a file of its own: appended block by block, each with a digest that proves what it is. Where a block is
//! slow to come, what there is of it is written before it is full, and written over with more later: a kill costs no more than
//! the bytes of a moment.
//!
//! The digest covers the version of the tar, the block's place in it and its bytes. So whoever reads, while the file grows,
//! after a kill, after a power cut or on another host, takes neither a torn block nor zeros nor bytes of another version for
//! the tar's. Only the writer that made a file writes to it.

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

use crate::{source::Source, storage::checkpoint_timer::CheckpointTimer};

/// Bytes of the tar in a block; the last one of a file may have fewer.
const BLOCK: usize = 256 << 10;
/// Length (4 bytes, little endian) and digest stand before the bytes.
const HEAD: usize = 4 + blake3::OUT_LEN;

/// What the blocks of one version of a tar are proved with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version([u8; blake3::KEY_LEN]);

impl Version {
    pub(crate) fn of(source: &Source) -> Self {
        let source = serde_json::to_vec(&source.version()).expect("text and numbers can be written");
        Self(*blake3::hash(&source).as_bytes())
    }

    fn digest(self, start: u64, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&start.to_le_bytes()).update(bytes);
        hasher.finalize()
    }
}

/// The only writer of a part.
#[derive(Debug)]
pub(crate) struct PartWriter {
    path: PathBuf,
    version: Version,
    /// Made with the first block.
    file: Option<File>,
    /// Where the block that is being filled begins, in the file and in the tar.
    offset: u64,
    reached: u64,
    block: Vec<u8>,
    timer: CheckpointTimer,
}

impl PartWriter {
    /// Prepares a file that does not exist yet, for the bytes from `start` on.
    pub(crate) fn new(path: PathBuf, version: Version, start: u64) -> Self {
        let (block, timer) = (vec![0; HEAD], CheckpointTimer::default());
        Self { path, version, file: None, offset: 0, reached: start, block, timer }
    }

    /// Bytes of the tar up to here are in the file for good.
    pub(crate) fn reached(&self) -> u64 {
        self.reached
    }

    /// Takes the bytes that follow, as many as the block has room for; gives their number.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(HEAD + BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Says when [`Self::note`] is due.
    pub(crate) fn timer(&mut self) -> &mut CheckpointTimer {
        &mut self.timer
    }

    pub(crate) fn is_full(&self) -> bool {
        self.block.len() == HEAD + BLOCK
    }

    /// Writes the block, which need not be full; what comes then belongs to the next one.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        self.note()?;
        self.offset += self.block.len() as u64;
        self.reached += (self.block.len() - HEAD) as u64;
        self.block.truncate(HEAD);
        Ok(())
    }

    /// Writes what there is of the block; what comes then belongs to it too. Such a block
    /// does not count as reached.
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
        if self.file.is_none() {
            self.file = Some(File::create_new(&self.path)?);
        }
        self.file.as_ref().expect("it was just made").write_all_at(&self.block, self.offset)
    }
}

/// Reads a part from its beginning on, also while it grows.
#[derive(Debug)]
pub(crate) struct PartReader {
    file: File,
    version: Version,
    /// Where the next block begins, in the file and in the tar.
    offset: u64,
    position: u64,
}

impl PartReader {
    /// Opens a file whose first byte is the tar's byte `start`.
    pub(crate) fn open(path: &Path, version: Version, start: u64) -> io::Result<Self> {
        Ok(Self { file: own_file::open(path, Access::Read)?, version, offset: 0, position: start })
    }

    /// Where in the tar the next block begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next block; `None` if there is none yet that is whole and right.
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
        let is_whole = self.read(&mut bytes, self.offset + HEAD as u64)?;
        if !is_whole || self.version.digest(self.position, &bytes) != *<&[u8; 32]>::try_from(digest).expect("a digest")
        {
            return Ok(None);
        }
        self.offset += (HEAD + length) as u64;
        self.position += u64::from(count);
        Ok(Some(bytes))
    }

    /// Whether the file has so many bytes there.
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
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) start: u64,
    pub(crate) reached: u64,
}

/// A name for a part that begins at a byte of the tar, which no other attempt has used.
pub(crate) fn name(start: u64) -> String {
    format!("{start}.{:016x}", rand::random::<u64>())
}

/// The start that a name tells.
fn start_of(name: &str) -> Option<u64> {
    name.split_once('.')?.0.parse().ok()
}

/// Moves the parts of an earlier attempt to their new owner and reads each as far as it proves right. A former owner that
/// still runs may go on writing to a file, which is why nobody else ever does.
pub(crate) fn adopt(from: &Path, to: &Path, source: &Source) -> io::Result<Vec<Found>> {
    let version = Version::of(source);
    let mut adopted = Vec::new();
    let entries = match list(from) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(adopted),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(start) = entry.text().and_then(start_of) else { continue };
        if adopted.is_empty() && !to.is_dir() {
            fs::create_dir(to)?;
        }
        let path = to.join(entry.name());
        fs::rename(entry.path(), &path)?;
        let mut reader = match PartReader::open(&path, version, start) {
            Err(error) if own_file::is_refused(&error) => {
                fs::remove_file(&path)?;
                continue;
            }
            opened => opened?,
        };
        while reader.next()?.is_some() {}
        let reached = reader.position();
        if reached > start {
            adopted.push(Found { path, start, reached });
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
        Source { length: Some(9_000_000), etag: Some(etag.to_owned()), ..Source::default() }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|index| u8::try_from(index % 251).unwrap()).collect()
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
        std::iter::from_fn(|| reader.next().unwrap()).flatten().collect()
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes = bytes(2 * BLOCK + 1000);
        write(&path, 700, &bytes);
        assert_eq!(read(&path, version("a"), 700), bytes);
        assert!(read(&path, version("b"), 700).is_empty(), "of another version");
        assert!(read(&path, version("a"), 701).is_empty(), "of another place");
    }

    #[test]
    fn a_block_that_is_torn_or_damaged_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes = bytes(2 * BLOCK + 1000);
        write(&path, 0, &bytes);
        let whole = fs::read(&path).unwrap();
        for (cut, blocks) in [(0, 0), (HEAD - 1, 0), (HEAD + BLOCK - 1, 0), (HEAD + BLOCK, 1), (whole.len() - 1, 2)] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path, version("a"), 0), bytes[..blocks * BLOCK], "cut at {cut}");
        }
        for (place, blocks) in [(0, 0), (10, 0), (HEAD + 5, 0), (HEAD + BLOCK + HEAD + 5, 1)] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path, version("a"), 0), bytes[..blocks * BLOCK], "damaged at {place}");
        }
        // A power cut leaves the length and no bytes.
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
    fn what_is_noted_of_a_block_survives_a_kill_and_does_not_count_as_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let bytes = bytes(BLOCK + 3000);
        let length = || fs::metadata(&path).unwrap().len();
        let mut writer = PartWriter::new(path.clone(), version("a"), 700);
        for end in [1000, 1000, BLOCK - 1] {
            let begin = writer.block.len() - HEAD;
            assert_eq!(writer.fill(&bytes[begin..end]), end - begin);
            writer.note().unwrap();
            assert_eq!(read(&path, version("a"), 700), bytes[..end], "a new reader finds it");
            assert_eq!(writer.reached(), 700);
        }
        writer.fill(&bytes[BLOCK - 1..BLOCK]);
        writer.write().unwrap();
        assert_eq!(writer.reached(), 700 + BLOCK as u64);
        writer.note().unwrap();
        assert_eq!(length(), (HEAD + BLOCK) as u64, "there is nothing of the next block");
        writer.fill(&bytes[BLOCK..BLOCK + 2000]);
        writer.note().unwrap();
        writer.fill(&bytes[BLOCK + 2000..]);
        writer.write().unwrap();
        assert_eq!(read(&path, version("a"), 700), bytes);
    }

    #[test]
    fn parts_are_taken_over_as_far_as_they_prove_right() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        assert_eq!(adopt(&from, &to, &source("a")).unwrap(), []);
        fs::create_dir(&from).unwrap();
        let bytes = bytes(BLOCK + 10);
        let torn = from.join(name(0));
        write(&torn, 0, &bytes);
        File::options().write(true).open(&torn).unwrap().set_len((HEAD + BLOCK + 20) as u64).unwrap();
        write(&from.join(name(500_000)), 500_000, &bytes);
        fs::write(from.join(name(900_000)), [0; 5000]).unwrap();

        let mut adopted = adopt(&from, &to, &source("a")).unwrap();
        adopted.sort_by_key(|found| found.start);
        let ranges: Vec<_> = adopted.iter().map(|found| (found.start, found.reached)).collect();
        assert_eq!(ranges, [(0, BLOCK as u64), (500_000, 500_000 + bytes.len() as u64)]);
        assert!(adopted.iter().all(|found| found.path.starts_with(&to) && found.path.is_file()));
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }
}

//! The checkpoint of a class that is being unpacked: which files are done, and where in the tar the next header stands.
//!
//! A journal in the staging folder, one JSON line for the source and one for each finished file. It is never synced: whoever
//! goes on from it checks each file against its digest first and goes on after the last one that holds, so neither a torn
//! line nor a file that a power cut emptied can do harm.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Lines, Write},
    path::Path,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::source::Source;

const VERSION: u32 = 1;
/// Finished files are written to the journal when so many bytes of the tar have passed, and at every stop.
const INTERVAL: u64 = 4 << 20;

/// A finished file of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Flat name, as in the tar.
    pub(crate) name: String,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Digest of the contents.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub(crate) blake3: blake3::Hash,
    /// Offset in the tar at which the header after this file stands.
    pub(crate) next_header: u64,
}

/// A file as the manifest lists it.
#[derive(Debug, Serialize)]
pub(crate) struct ListedFile<'entry> {
    name: &'entry str,
    size: u64,
    #[serde(serialize_with = "write_digest")]
    blake3: blake3::Hash,
}

impl FileEntry {
    pub(crate) fn listed(&self) -> ListedFile<'_> {
        ListedFile { name: &self.name, size: self.size, blake3: self.blake3 }
    }
}

fn write_digest<S: Serializer>(digest: &blake3::Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest.to_hex())
}

pub(crate) fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<blake3::Hash, D::Error> {
    let text = String::deserialize(deserializer)?;
    blake3::Hash::from_hex(text).map_err(serde::de::Error::custom)
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    source: Source,
}

/// The journal while it is written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    pending: Vec<u8>,
    written_up_to: u64,
}

impl Journal {
    /// Starts a journal in an empty staging folder.
    pub(crate) fn create(path: &Path, source: &Source) -> io::Result<Self> {
        let mut journal = Self { file: File::create_new(path)?, pending: Vec::new(), written_up_to: 0 };
        journal.line(&Head { version: VERSION, source: source.clone() })?;
        journal.flush()?;
        Ok(journal)
    }

    /// Goes on with a journal whose last file ends at an offset of the tar.
    pub(crate) fn go_on(path: &Path, written_up_to: u64) -> io::Result<Self> {
        Ok(Self { file: File::options().append(true).open(path)?, pending: Vec::new(), written_up_to })
    }

    /// Adds a finished file.
    pub(crate) fn append(&mut self, entry: &FileEntry) -> io::Result<()> {
        self.line(entry)?;
        if entry.next_header >= self.written_up_to + INTERVAL {
            self.flush()?;
            self.written_up_to = entry.next_header;
        }
        Ok(())
    }

    /// Hands what is pending to the kernel; from then on it survives the end of the process.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.pending, value)?;
        self.pending.push(b'\n');
        Ok(())
    }
}

/// A journal that is read back, file by file, up to the first line that does not hold.
#[derive(Debug)]
pub(crate) struct Entries {
    lines: Lines<BufReader<File>>,
}

/// Opens the journal of an earlier attempt; `None` when there is none that this version can use.
pub(crate) fn open(path: &Path) -> Option<(Source, Entries)> {
    let mut lines = BufReader::new(File::open(path).ok()?).lines();
    let head: Head = serde_json::from_str(&lines.next()?.ok()?).ok()?;
    (head.version == VERSION).then_some((head.source, Entries { lines }))
}

impl Iterator for Entries {
    type Item = FileEntry;

    fn next(&mut self) -> Option<FileEntry> {
        serde_json::from_str(&self.lines.next()?.ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> FileEntry {
        let name = format!("n00000001_{number}.JPEG");
        FileEntry { blake3: blake3::hash(name.as_bytes()), name, size: number, next_header: (number + 1) * 1024 }
    }

    fn journal(path: &Path, entries: u64) {
        let source = Source { length: Some(99), ..Source::default() };
        let mut journal = Journal::create(path, &source).unwrap();
        (0..entries).for_each(|number| journal.append(&entry(number)).unwrap());
        journal.flush().unwrap();
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 3);
        let (source, entries) = open(&path).unwrap();
        assert_eq!(source.length, Some(99));
        assert_eq!(entries.collect::<Vec<_>>(), [entry(0), entry(1), entry(2)]);
    }

    #[test]
    fn a_torn_journal_gives_its_longest_good_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 3);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let read: Vec<_> = open(&path).into_iter().flat_map(|(_, entries)| entries).collect();
            assert!(read.iter().enumerate().all(|(number, read)| *read == entry(number as u64)), "cut at {cut}");
            let lines = std::str::from_utf8(&whole[..=cut]).unwrap().matches('\n').count();
            assert!(read.len() + 1 >= lines, "cut at {cut} lost a whole line");
        }
    }

    #[test]
    fn a_journal_of_a_newer_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, "{\"version\":2,\"source\":{\"url\":\"\"}}\n").unwrap();
        assert!(open(&path).is_none());
    }
}

//! The journal of a class that is being unpacked: which files are finished, and at which offset of
//! the tar the next header begins.
//!
//! It is a file in the staging folder with one JSON line for the source and one for each finished
//! file, and for long files also lines for their unfinished beginnings. It is never synced. A
//! worker that resumes from it first verifies each file against its digest and continues after the
//! last valid one, so neither a torn line nor a file that a power cut emptied can do harm.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};
use shared::own_file::{self, Access};

use crate::{source::Source, storage::partial_file::PartialFile};

/// Version of the format. A journal of another version is not used.
const VERSION: u32 = 1;
/// Finished files are flushed to the journal after this many bytes of the tar, when the unpacker's
/// checkpoint timer is due, and at every stop.
const INTERVAL: u64 = 4 << 20;
/// After this many bytes of the tar without a flush, an unfinished file is recorded up to its
/// current length.
const INTERVAL_IN_FILE: u64 = 8 << 20;

/// Size of the read buffer in bytes.
const BUFFER: usize = 64 << 10;

/// Longest line in bytes that is read. The longest line that is written holds the validators of a
/// response, whose head has less than 512 KiB, with an escape for at most every second byte.
const LONGEST_LINE: u64 = 1 << 20;

/// A finished file of a class. `next_header`, which the manifest does not contain, comes last, so
/// that the rest of its line can be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Flat name, as in the tar.
    pub(crate) name: String,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Digest of the contents.
    #[serde(with = "crate::storage::digest")]
    pub(crate) blake3: blake3::Hash,
    /// Offset in the tar of the header after this file.
    pub(crate) next_header: u64,
}

/// Whether a regular file of exactly this name exists; a link is none.
pub(crate) fn is_plain_file(path: &Path, name: &str) -> bool {
    OsStr::new(name) == path.file_name().unwrap_or_default()
        && fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// Reads a line of at most `longest` bytes, its end included.
pub(crate) fn read_line(
    text: &mut impl BufRead,
    longest: u64,
    line: &mut Vec<u8>,
) -> io::Result<()> {
    line.clear();
    text.by_ref().take(longest).read_until(b'\n', line)?;
    Ok(())
}

/// The first line of a journal.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    source: Source,
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// The end of the last complete line in the file.
    length: u64,
    pending: Vec<u8>,
    /// Offset in the tar after the last finished file.
    done: u64,
    /// Offset in the tar up to which all finished and unfinished files are recorded in the file.
    written_up_to: u64,
}

impl Journal {
    /// Starts a journal in an empty staging folder.
    pub(crate) fn create(path: &Path, source: &Source) -> io::Result<Self> {
        let file = File::options().append(true).create_new(true).open(path)?;
        let mut journal = Self {
            file,
            length: 0,
            pending: Vec::new(),
            done: 0,
            written_up_to: 0,
        };
        journal.line(&Head {
            version: VERSION,
            source: source.clone(),
        })?;
        journal.flush()?;
        Ok(journal)
    }

    /// Continues a journal that ends at `offset` of the tar. The last `begun` bytes before it
    /// belong to an unfinished file.
    pub(crate) fn go_on(path: &Path, offset: u64, begun: u64) -> io::Result<Self> {
        let file = own_file::open(path, Access::Append)?;
        let length = file.metadata()?.len();
        Ok(Self {
            file,
            length,
            pending: Vec::new(),
            done: offset - begun,
            written_up_to: offset,
        })
    }

    /// Adds a finished file.
    pub(crate) fn append(&mut self, entry: &FileEntry) -> io::Result<()> {
        self.line(entry)?;
        self.done = entry.next_header;
        if entry.next_header >= self.written_up_to + INTERVAL {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether an unfinished file that is written up to an offset of the tar should be recorded.
    pub(crate) fn wants_beginning_at(&self, position: u64) -> bool {
        position >= self.written_up_to + INTERVAL_IN_FILE
    }

    /// Records an unfinished file and flushes the journal.
    pub(crate) fn note_beginning(&mut self, beginning: &PartialFile) -> io::Result<()> {
        self.line(beginning)?;
        self.flush()?;
        self.written_up_to = beginning.position;
        Ok(())
    }

    /// Offset in the tar after the last finished file. Before the first finished file it is where
    /// the journal began, or where the content of the resumed file begins.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Writes the pending lines to the file, so that they survive the end of the process. It can be
    /// repeated after an error.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_all(&self.pending) {
            // Remove what a full disk accepted of the lines; it would corrupt the next line.
            self.file.set_len(self.length).ok();
            return Err(error);
        }
        self.length += self.pending.len() as u64;
        self.pending.clear();
        self.written_up_to = self.written_up_to.max(self.done);
        Ok(())
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.pending, value)?;
        self.pending.push(b'\n');
        Ok(())
    }
}

/// A finished file as the bytes of its journal line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournaledFile<'line> {
    /// The JSON of a [`Listed`](super::manifest::Listed) file without the closing brace.
    pub(crate) unclosed: &'line [u8],
    /// Length in bytes.
    pub(crate) size: u64,
}

/// Reads a journal up to the first invalid line.
#[derive(Debug)]
pub(crate) struct Entries {
    file: BufReader<File>,
    line: Vec<u8>,
}

/// A line of the journal after the first.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// A file is finished.
    Finished(FileEntry),
    /// A file was written up to some length. If it was finished later, a further line says so.
    Begun(PartialFile),
}

/// Opens the journal of an earlier attempt; `None` if there is none of this version.
pub(crate) fn open(path: &Path) -> Option<(Source, Entries)> {
    let file = own_file::open(path, Access::Read).ok()?;
    let mut entries = Entries {
        file: BufReader::with_capacity(BUFFER, file),
        line: Vec::new(),
    };
    let head: Head = serde_json::from_slice(entries.read()?).ok()?;
    (head.version == VERSION).then_some((head.source, entries))
}

impl Entries {
    /// The next line of either kind.
    pub(crate) fn next_line(&mut self) -> Option<Line> {
        serde_json::from_slice(self.read()?).ok()
    }

    /// The next finished file. Its line is copied and not parsed, which is safe only for a journal
    /// of which this process wrote or verified every line.
    pub(crate) fn next_finished(&mut self) -> Option<JournaledFile<'_>> {
        loop {
            let line = self.read()?;
            if let Some(JournaledFile { unclosed, size }) = finished(line) {
                let length = unclosed.len();
                return Some(JournaledFile {
                    unclosed: &self.line[..length],
                    size,
                });
            }
            serde_json::from_slice::<PartialFile>(line).ok()?;
        }
    }

    fn read(&mut self) -> Option<&[u8]> {
        read_line(&mut self.file, LONGEST_LINE, &mut self.line).ok()?;
        ((self.line.len() as u64) < LONGEST_LINE).then_some(&self.line)
    }
}

/// Splits the line of a finished file. It works from the end, because there nothing depends on the
/// file name.
fn finished(line: &[u8]) -> Option<JournaledFile<'_>> {
    let line = str::from_utf8(line).ok()?.strip_suffix("}\n")?;
    let (unclosed, next_header) = line.rsplit_once(",\"next_header\":")?;
    let (rest, blake3) = unclosed.strip_suffix('"')?.rsplit_once(",\"blake3\":\"")?;
    let (_, size) = rest.rsplit_once(",\"size\":")?;
    next_header.parse::<u64>().ok()?;
    let size = size.parse().ok()?;
    (blake3.len() == 2 * blake3::OUT_LEN).then_some(JournaledFile {
        unclosed: unclosed.as_bytes(),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::manifest::Listed;

    /// Iterates over the finished files.
    impl Iterator for Entries {
        type Item = FileEntry;

        fn next(&mut self) -> Option<FileEntry> {
            loop {
                if let Line::Finished(entry) = self.next_line()? {
                    return Some(entry);
                }
            }
        }
    }

    /// The manifest entries and sizes that are copied from a journal.
    fn copied(path: &Path) -> Vec<(String, u64)> {
        let mut entries = open(path).map(|(_, entries)| entries);
        std::iter::from_fn(|| {
            let JournaledFile { unclosed, size } = entries.as_mut()?.next_finished()?;
            Some((String::from_utf8(unclosed.to_vec()).unwrap() + "}", size))
        })
        .collect()
    }

    fn listed(entry: &FileEntry) -> (String, u64) {
        let listed = Listed {
            name: entry.name.clone(),
            size: entry.size,
            blake3: entry.blake3,
        };
        (serde_json::to_string(&listed).unwrap(), entry.size)
    }

    fn entry(number: u64) -> FileEntry {
        let name = format!("n00000001_{number}.JPEG");
        FileEntry {
            blake3: blake3::hash(name.as_bytes()),
            name,
            size: number,
            next_header: (number + 1) * 1024,
        }
    }

    fn journal(path: &Path, entries: u64) {
        let source = Source {
            length: Some(99),
            ..Source::default()
        };
        let mut journal = Journal::create(path, &source).unwrap();
        (0..entries).for_each(|number| journal.append(&entry(number)).unwrap());
        journal.flush().unwrap();
    }

    #[test]
    fn a_journal_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 3);
        let (source, entries) = open(&path).unwrap();
        assert_eq!(source.length, Some(99));
        assert_eq!(entries.collect::<Vec<_>>(), [entry(0), entry(1), entry(2)]);
    }

    #[test]
    fn an_unfinished_file_has_a_line_of_its_own_and_does_not_count_as_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 1);
        let beginning = PartialFile {
            name: "b".to_owned(),
            size: 9,
            written: 5,
            blake3: blake3::hash(b"12345"),
            position: 1541,
        };
        let mut journal = Journal::go_on(&path, 1024, 0).unwrap();
        assert!(!journal.wants_beginning_at(1024 + INTERVAL_IN_FILE - 1));
        assert!(journal.wants_beginning_at(1024 + INTERVAL_IN_FILE));
        journal.note_beginning(&beginning).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.flush().unwrap();
        let (_, mut entries) = open(&path).unwrap();
        let lines = std::iter::from_fn(|| entries.next_line()).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                Line::Finished(entry(0)),
                Line::Begun(beginning),
                Line::Finished(entry(1))
            ]
        );
        assert_eq!(
            open(&path).unwrap().1.collect::<Vec<_>>(),
            [entry(0), entry(1)]
        );
        assert_eq!(copied(&path), [listed(&entry(0)), listed(&entry(1))]);
    }

    #[test]
    fn journal_lines_are_copied_correctly_for_any_file_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let names = [
            "a.JPEG",
            "\"",
            "\\",
            "é\u{1}\n",
            "}",
            "\",\"size\":1,\"blake3\":\"00\",\"next_header\":512}",
            "7",
        ];
        let entries: Vec<_> = (0..)
            .zip(names)
            .map(|(number, name)| FileEntry {
                name: name.to_owned(),
                ..entry(number * 99)
            })
            .collect();
        let mut journal = Journal::create(&path, &Source::default()).unwrap();
        for entry in &entries {
            journal.append(entry).unwrap();
        }
        journal.flush().unwrap();
        assert_eq!(
            copied(&path),
            entries.iter().map(listed).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_line_of_another_shape_is_not_copied() {
        let line = serde_json::to_string(&entry(5)).unwrap() + "\n";
        assert_eq!(finished(line.as_bytes()).map(|file| file.size), Some(5));
        for (from, to) in [
            ("size", "length"),
            ("blake3", "sha256"),
            ("next_header", "next"),
            (":5,", ":,"),
            (":5,", ":99999999999999999999,"),
            ("}", ",\"more\":1}"),
        ] {
            assert_eq!(finished(line.replace(from, to).as_bytes()), None, "{to}");
        }
    }

    #[test]
    fn a_torn_journal_is_read_up_to_its_last_valid_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 3);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let read: Vec<_> = open(&path)
                .into_iter()
                .flat_map(|(_, entries)| entries)
                .collect();
            assert!(
                read.iter()
                    .enumerate()
                    .all(|(number, read)| *read == entry(number as u64)),
                "cut at {cut}"
            );
            let lines = std::str::from_utf8(&whole[..=cut])
                .unwrap()
                .matches('\n')
                .count();
            assert!(read.len() + 1 >= lines, "cut at {cut} lost a whole line");
            let whole_lines = str::from_utf8(&whole[..cut]).unwrap().matches('\n').count();
            let expected: Vec<_> = read[..whole_lines.saturating_sub(1)]
                .iter()
                .map(listed)
                .collect();
            assert_eq!(copied(&path), expected, "cut at {cut}");
        }
    }

    #[test]
    fn the_memory_for_an_endless_line_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        journal(&path, 1);
        let whole = fs::read(&path).unwrap();
        let longest = usize::try_from(LONGEST_LINE).unwrap();
        for (length, read) in [(longest - 1, 2), (longest, 1), (3 * longest, 1)] {
            let line = serde_json::to_string(&entry(1)).unwrap();
            let spaces = " ".repeat(length - line.len() - 1);
            fs::write(
                &path,
                [whole.clone(), format!("{line}{spaces}\n").into_bytes()].concat(),
            )
            .unwrap();
            let (_, mut entries) = open(&path).unwrap();
            assert_eq!(entries.by_ref().count(), read);
            assert!(
                entries.line.capacity() <= 2 * longest,
                "{}",
                entries.line.capacity()
            );
        }
    }

    #[test]
    fn a_journal_of_a_newer_version_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, "{\"version\":2,\"source\":{\"url\":\"\"}}\n").unwrap();
        assert!(open(&path).is_none());
    }
}

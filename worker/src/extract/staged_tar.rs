//! The staged tar of an earlier attempt. It is parsed like a download and copied for a new attempt
//! up to the last file that agrees with the journal.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use shared::{
    Wnid,
    own_file::{self, Access},
};

use crate::{
    extract::{Event, Framing, Limits},
    storage::{journal::FileEntry, partial_file::PartialFile},
};

/// Read size in bytes.
const BLOCK: u64 = 64 << 10;

/// A tar that is being copied from an earlier staging folder.
#[derive(Debug)]
pub(crate) struct StagedTar {
    from: File,
    to: File,
    framing: Framing,
}

impl StagedTar {
    /// Opens the tar of an earlier attempt and creates a new one; `None` if there is none that can
    /// be read. `length`: the length of the whole tar, if known.
    pub(crate) fn open(
        from: &Path,
        to: &Path,
        wnid: Wnid,
        length: Option<u64>,
    ) -> io::Result<Option<Self>> {
        let Ok(from) = own_file::open(from, Access::Read) else {
            return Ok(None);
        };
        let framing = Framing::resume(&wnid.to_string(), Limits::for_tar(length), 0, 0);
        Ok(Some(Self {
            from,
            to: File::create_new(to)?,
            framing,
        }))
    }

    /// Copies the next finished file; returns whether the tar agrees with the journal.
    pub(crate) fn copy(&mut self, entry: &FileEntry) -> io::Result<bool> {
        self.copy_partial(&PartialFile {
            name: entry.name.clone(),
            size: entry.size,
            written: entry.size,
            blake3: entry.blake3,
            position: entry.next_header,
        })
    }

    /// Truncates the new tar after the verified bytes.
    pub(crate) fn truncate(&self, length: u64) -> io::Result<()> {
        self.to.set_len(length)
    }

    /// Like [`Self::copy`], for a partial file.
    pub(crate) fn copy_partial(&mut self, expected: &PartialFile) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut files = 0;
        let mut content = 0;
        let mut block = Vec::new();
        while self.framing.offset() < expected.position {
            block.clear();
            let most = BLOCK.min(expected.position - self.framing.offset());
            if (&self.from).take(most).read_to_end(&mut block)? == 0 {
                return Ok(false);
            }
            self.to.write_all(&block)?;
            let mut bytes = &*block;
            while let Some(event) = match self.framing.next(&mut bytes) {
                Ok(event) => event,
                Err(_) => return Ok(false),
            } {
                match event {
                    Event::File { name, size }
                        if name == expected.name && size == expected.size =>
                    {
                        files += 1;
                    }
                    Event::FileEnd { next_header } if next_header == expected.position => {}
                    Event::Data(data) => {
                        hasher.update(data);
                        content += data.len() as u64;
                    }
                    Event::File { .. } | Event::FileEnd { .. } => return Ok(false),
                }
            }
        }
        let is_in_place = self.framing.offset() == expected.position && files == 1;
        Ok(is_in_place && content == expected.written && hasher.finalize() == expected.blake3)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WNID: &str = "n00000001";

    /// A header, the content and the padding.
    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut member = [header.as_bytes().as_slice(), content].concat();
        member.resize(member.len().next_multiple_of(512), 0);
        member
    }

    fn entry(name: &str, content: &[u8], next_header: usize) -> FileEntry {
        let size = content.len() as u64;
        let blake3 = blake3::hash(content);
        FileEntry {
            name: name.to_owned(),
            size,
            blake3,
            next_header: next_header as u64,
        }
    }

    /// Copies a tar with a journal; returns the number of verified files and the new tar.
    fn copied(tar: &[u8], journal: &[FileEntry]) -> (usize, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, tar).unwrap();
        let mut staged = StagedTar::open(&from, &to, WNID.parse().unwrap(), None)
            .unwrap()
            .unwrap();
        let proved = journal
            .iter()
            .take_while(|entry| staged.copy(entry).unwrap())
            .count();
        staged
            .truncate(
                journal[..proved]
                    .last()
                    .map_or(0, |entry| entry.next_header),
            )
            .unwrap();
        (proved, fs::read(&to).unwrap())
    }

    #[test]
    fn only_files_that_agree_with_the_journal_are_copied() {
        let long = vec![7; 100_000];
        let tar = [member("a", b"first"), member("b", &long), member("c", b"")].concat();
        let a = 1024;
        let b = 1024 + 512 + 100_352;
        let journal = [
            entry("a", b"first", a),
            entry("b", &long, b),
            entry("c", b"", b + 512),
        ];
        assert_eq!(copied(&tar, &journal), (3, tar.clone()));
        // Bytes without a header: the journal names the length of a private file.
        let secret = [b"secret\n".repeat(1000), vec![0; 9000]].concat();
        assert_eq!(copied(&secret, &[entry("", b"", secret.len())]).0, 0);
        assert_eq!(
            copied(
                &[tar.clone(), secret].concat(),
                &[entry("a", b"first", tar.len() + 512)]
            )
            .0,
            0
        );
        for wrong in [
            entry("x", b"first", a),
            entry("a", b"First", a),
            entry("a", b"longer than that", a),
            entry("a", b"first", a + 512),
            entry("a", b"first", b),
            entry("a", b"first", a - 512),
        ] {
            assert_eq!(
                copied(&tar, std::slice::from_ref(&wrong)),
                (0, Vec::new()),
                "{wrong:?}"
            );
        }
        assert_eq!(
            copied(&tar[..b - 1], &journal),
            (1, tar[..a].to_vec()),
            "truncated"
        );
    }

    #[test]
    fn a_partial_file_is_copied_up_to_its_recorded_length() {
        let tar = member("a", &[7; 5000]);
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, &tar[..4000]).unwrap();
        let beginning = |written: u64| PartialFile {
            name: "a".to_owned(),
            size: 5000,
            written,
            blake3: blake3::hash(&[7; 3000]),
            position: 512 + written,
        };
        for (written, holds) in [(3000, true), (2999, false), (3001, false)] {
            fs::remove_file(&to).unwrap_or_default();
            let mut staged = StagedTar::open(&from, &to, WNID.parse().unwrap(), None)
                .unwrap()
                .unwrap();
            assert_eq!(
                staged.copy_partial(&beginning(written)).unwrap(),
                holds,
                "{written}"
            );
        }
    }
}

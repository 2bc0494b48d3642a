//! The kept tar of a former attempt: its bytes are copied for a new attempt as far as they prove to
//! be the tar of the files in the journal, read as a download is.

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
    storage::{journal::FileEntry, partial_file::Beginning},
};

/// Read at a time.
const BLOCK: u64 = 64 << 10;

/// A tar that is being copied from a former staging folder.
#[derive(Debug)]
pub(crate) struct StagedTar {
    from: File,
    to: File,
    framing: Framing,
}

/// What the bytes up to an offset have to be.
struct Expected<'journal> {
    name: &'journal str,
    size: u64,
    /// Bytes of the file up to there.
    content: u64,
    blake3: blake3::Hash,
    until: u64,
}

impl StagedTar {
    /// Opens the tar of a former attempt, and makes a new one; `None` if there is none to use.
    /// `length`: of the whole tar, where it is known.
    pub(crate) fn open(from: &Path, to: &Path, wnid: Wnid, length: Option<u64>) -> io::Result<Option<Self>> {
        let Ok(from) = own_file::open(from, Access::Read) else { return Ok(None) };
        let framing = Framing::resume(&wnid.to_string(), Limits::for_tar(length), 0, 0);
        Ok(Some(Self { from, to: File::create_new(to)?, framing }))
    }

    /// Copies what the tar has of the next finished file; says whether it is that.
    pub(crate) fn copy(&mut self, entry: &FileEntry) -> io::Result<bool> {
        let FileEntry { name, size, blake3, next_header } = entry;
        self.copy_expected(&Expected { name, size: *size, content: *size, blake3: *blake3, until: *next_header })
    }

    /// As [`Self::copy`], of a file that is not finished.
    pub(crate) fn copy_beginning(&mut self, beginning: &Beginning) -> io::Result<bool> {
        let Beginning { name, size, written, blake3, position } = beginning;
        self.copy_expected(&Expected { name, size: *size, content: *written, blake3: *blake3, until: *position })
    }

    /// Cuts the new tar behind what was proved.
    pub(crate) fn cut(&self, length: u64) -> io::Result<()> {
        self.to.set_len(length)
    }

    fn copy_expected(&mut self, expected: &Expected<'_>) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut files = 0;
        let mut content = 0;
        let mut block = Vec::new();
        while self.framing.offset() < expected.until {
            block.clear();
            let most = BLOCK.min(expected.until - self.framing.offset());
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
                    Event::File { name, size } if (name, size) == (expected.name, expected.size) => files += 1,
                    Event::FileEnd { next_header } if next_header == expected.until => {}
                    Event::Data(data) => {
                        hasher.update(data);
                        content += data.len() as u64;
                    }
                    Event::File { .. } | Event::FileEnd { .. } => return Ok(false),
                }
            }
        }
        let is_in_place = self.framing.offset() == expected.until && files == 1;
        Ok(is_in_place && content == expected.content && hasher.finalize() == expected.blake3)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WNID: &str = "n00000001";

    /// A header, the content and its padding.
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
        FileEntry { name: name.to_owned(), size, blake3, next_header: next_header as u64 }
    }

    /// What a tar becomes under a journal; the proved files, and the new tar cut behind them.
    fn copied(tar: &[u8], journal: &[FileEntry]) -> (usize, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, tar).unwrap();
        let mut staged = StagedTar::open(&from, &to, WNID.parse().unwrap(), None).unwrap().unwrap();
        let proved = journal.iter().take_while(|entry| staged.copy(entry).unwrap()).count();
        staged.cut(journal[..proved].last().map_or(0, |entry| entry.next_header)).unwrap();
        (proved, fs::read(&to).unwrap())
    }

    #[test]
    fn what_is_the_tar_of_the_journals_files_is_copied_and_nothing_else() {
        let long = vec![7; 100_000];
        let tar = [member("a", b"first"), member("b", &long), member("c", b"")].concat();
        let a = 1024;
        let b = 1024 + 512 + 100_352;
        let journal = [entry("a", b"first", a), entry("b", &long, b), entry("c", b"", b + 512)];
        assert_eq!(copied(&tar, &journal), (3, tar.clone()));
        // Bytes that no header announces: a journal that names the length of a private file.
        let secret = [b"secret\n".repeat(1000), vec![0; 9000]].concat();
        assert_eq!(copied(&secret, &[entry("", b"", secret.len())]).0, 0);
        assert_eq!(copied(&[tar.clone(), secret].concat(), &[entry("a", b"first", tar.len() + 512)]).0, 0);
        for wrong in [
            entry("x", b"first", a),
            entry("a", b"First", a),
            entry("a", b"longer than that", a),
            entry("a", b"first", a + 512),
            entry("a", b"first", b),
            entry("a", b"first", a - 512),
        ] {
            assert_eq!(copied(&tar, std::slice::from_ref(&wrong)), (0, Vec::new()), "{wrong:?}");
        }
        assert_eq!(copied(&tar[..b - 1], &journal), (1, tar[..a].to_vec()), "cut");
    }

    #[test]
    fn of_a_file_that_is_not_finished_its_beginning_is_copied() {
        let tar = member("a", &[7; 5000]);
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, &tar[..4000]).unwrap();
        let beginning = |written: u64| Beginning {
            name: "a".to_owned(),
            size: 5000,
            written,
            blake3: blake3::hash(&[7; 3000]),
            position: 512 + written,
        };
        for (written, holds) in [(3000, true), (2999, false), (3001, false)] {
            fs::remove_file(&to).unwrap_or_default();
            let mut staged = StagedTar::open(&from, &to, WNID.parse().unwrap(), None).unwrap().unwrap();
            assert_eq!(staged.copy_beginning(&beginning(written)).unwrap(), holds, "{written}");
        }
    }
}

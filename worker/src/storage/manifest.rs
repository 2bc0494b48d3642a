//! `.manifest.json`: the proof that a class folder is complete. It is written last, inside the
//! folder, and published together with it.
//!
//! The file ends with a digest of everything before it, so a truncated or edited manifest is
//! invalid.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use shared::{
    Wnid,
    outcome::Published,
    own_file::{is_refused, open_regular},
};

use crate::{
    source::Source,
    storage::{
        file_tree::remove_if_there,
        journal::{JournaledFile, read_line},
        kept_tar::KeptTar,
    },
};

/// Name of the manifest in a class folder.
pub(crate) const MANIFEST: &str = ".manifest.json";
/// Name of the manifest of a folder that differs from it (set by `verify --repair`). The next job
/// downloads the class again.
pub(crate) const MARKED: &str = ".manifest.damaged.json";
/// Version of the format that is written. Older versions are read.
const VERSION: u32 = 1;
/// Text is hashed and written when so many bytes wait: enough for the digest to be fast.
const BUFFER: usize = 64 << 10;
/// The text before the digest. The digest covers everything up to this text.
const DIGEST_MARK: &str = "  \"digest\": \"";
/// The line before the files.
const FILES_BEGIN: &str = "  \"files\": [\n";
/// The line after the files.
const FILES_END: &str = "  ],\n";
/// Longest line in bytes that is read. File names have at most 255 bytes and URLs some thousand;
/// this program writes no longer line.
const LONGEST_LINE: u64 = 64 << 10;

/// The properties of a class as a whole. In the file they follow the list of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    wnid: String,
    /// The run that published the class.
    pub(crate) run: String,
    /// Whether an existing folder was verified, rather than downloaded.
    pub(crate) adopted: bool,
    #[serde(flatten)]
    source: Source,
    file_count: u64,
    file_bytes: u64,
    /// The tar that was published beside the folder, if this program wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept_tar: Option<KeptTar>,
}

impl Manifest {
    /// A manifest without files, of a class that was downloaded.
    pub(crate) fn new(wnid: Wnid, run: &str, source: &Source) -> Self {
        Self {
            version: VERSION,
            wnid: wnid.to_string(),
            run: run.to_owned(),
            adopted: false,
            source: source.version(),
            file_count: 0,
            file_bytes: 0,
            kept_tar: None,
        }
    }

    /// The counts of files and bytes for the outcome.
    pub(crate) fn published(&self) -> Published {
        Published {
            files: self.file_count,
            bytes: self.source.length.unwrap_or_default(),
        }
    }
}

/// Writes a manifest into a folder.
///
/// The files are written one by one: memory does not grow with their number.
pub(crate) fn write(
    folder: &Path,
    manifest: Manifest,
    files: impl Iterator<Item = io::Result<Listed>>,
) -> io::Result<Manifest> {
    let mut writer = Writer::create(folder, manifest)?;
    for file in files {
        writer.list(&file?)?;
    }
    writer.finish()
}

/// A manifest that is being written under a temporary name.
#[derive(Debug)]
pub(crate) struct Writer<'folder> {
    folder: &'folder Path,
    /// Counts the files that are listed so far.
    manifest: Manifest,
    temporary: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    /// Text that is neither hashed nor written yet.
    pending: Vec<u8>,
}

impl<'folder> Writer<'folder> {
    /// Begins the manifest of a folder.
    pub(crate) fn create(folder: &'folder Path, manifest: Manifest) -> io::Result<Self> {
        let temporary = folder.join(format!("{MANIFEST}.new"));
        // An existing file is removed and not overwritten, because it may be a link.
        remove_if_there(fs::remove_file(&temporary))?;
        Ok(Self {
            folder,
            manifest,
            file: File::create_new(&temporary)?,
            temporary,
            hasher: blake3::Hasher::new(),
            pending: format!("{{\n{FILES_BEGIN}").into_bytes(),
        })
    }

    fn list(&mut self, file: &Listed) -> io::Result<()> {
        self.begin(file.size)?;
        Ok(serde_json::to_writer(&mut self.pending, file)?)
    }

    /// Adds a file by copying its line of the journal.
    pub(crate) fn copy(&mut self, file: JournaledFile<'_>) -> io::Result<()> {
        self.begin(file.size)?;
        self.pending.extend_from_slice(file.unclosed);
        self.pending.push(b'}');
        Ok(())
    }

    /// Begins the line of a file.
    fn begin(&mut self, size: u64) -> io::Result<()> {
        if self.pending.len() >= BUFFER {
            self.flush()?;
        }
        let is_first = self.manifest.file_count == 0;
        self.manifest.file_count += 1;
        self.manifest.file_bytes += size;
        let before = if is_first { "" } else { ",\n" };
        write!(self.pending, "{before}    ")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.pending);
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// Writes the properties and the digest, and renames the file to its final name.
    pub(crate) fn finish(mut self) -> io::Result<Manifest> {
        let properties = serde_json::to_string_pretty(&self.manifest)?;
        // The files stand between the opening brace and the properties.
        let properties = &properties["{\n".len()..properties.len() - "\n}".len()];
        write!(self.pending, "\n{FILES_END}{properties},\n")?;
        self.flush()?;
        let end = format!("{DIGEST_MARK}{}\"\n}}\n", self.hasher.finalize());
        self.file.write_all(end.as_bytes())?;
        fs::rename(&self.temporary, self.folder.join(MANIFEST))?;
        Ok(self.manifest)
    }
}

/// An entry of the list of files.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: u64,
    #[serde(with = "crate::storage::digest")]
    pub(crate) blake3: blake3::Hash,
}

/// Reads the manifest of a class; `None` if there is no valid one. It is read line by line, so
/// memory does not grow with the number of files.
///
/// # Errors
/// If a manifest exists and cannot be read.
pub(crate) fn read(folder: &Path, wnid: Wnid) -> io::Result<Option<Manifest>> {
    Ok(open(&folder.join(MANIFEST), wnid)?.map(|(manifest, _)| manifest))
}

/// Reads a manifest and returns the files that it lists as an iterator; `None` as for [`read`]. The
/// whole manifest is validated before the first file is returned.
///
/// # Errors
/// If a manifest exists and cannot be read.
pub(crate) fn open(path: &Path, wnid: Wnid) -> io::Result<Option<(Manifest, Files)>> {
    let file = match open_regular(path) {
        // A folder with this name is not a manifest.
        Err(error)
            if is_refused(&error)
                || matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) =>
        {
            return Ok(None);
        }
        opened => opened?,
    };
    let mut text = BufReader::new(file);
    let Some(manifest) = parse(&mut text, wnid)? else {
        return Ok(None);
    };
    text.rewind()?;
    let files = Files {
        text,
        line: Vec::new(),
        begun: false,
    };
    Ok(Some((manifest, files)))
}

/// Iterates over the files that a manifest lists: the lines between [`FILES_BEGIN`] and
/// [`FILES_END`].
#[derive(Debug)]
pub(crate) struct Files {
    text: BufReader<File>,
    line: Vec<u8>,
    begun: bool,
}

impl Files {
    fn read(&mut self) -> io::Result<Option<Listed>> {
        loop {
            read_line(&mut self.text, LONGEST_LINE, &mut self.line)?;
            if !self.line.ends_with(b"\n") || self.line == FILES_END.as_bytes() {
                return Ok(None);
            }
            if self.begun {
                let entry = self.line.trim_ascii();
                return Ok(Some(serde_json::from_slice(
                    entry.strip_suffix(b",").unwrap_or(entry),
                )?));
            }
            self.begun = self.line == FILES_BEGIN.as_bytes();
        }
    }
}

impl Iterator for Files {
    type Item = io::Result<Listed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn parse(mut text: impl BufRead, wnid: Wnid) -> io::Result<Option<Manifest>> {
    let mut line = Vec::new();
    let mut head = b"{".to_vec();
    let mut files_passed = false;
    let mut covered = blake3::Hasher::new();
    loop {
        read_line(&mut text, LONGEST_LINE, &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        if let Some(rest) = line.strip_prefix(DIGEST_MARK.as_bytes()) {
            let mut end = Vec::new();
            text.by_ref().take(LONGEST_LINE).read_to_end(&mut end)?;
            let digest = covered.finalize().to_hex();
            let whole = rest.strip_suffix(b"\"\n") == Some(digest.as_bytes()) && end == b"}\n";
            let manifest = whole.then(|| manifest_of(head, wnid));
            return Ok(manifest.flatten());
        }
        covered.update(&line);
        if files_passed {
            head.extend_from_slice(&line);
            if head.len() as u64 > LONGEST_LINE {
                return Ok(None);
            }
        }
        files_passed |= line == FILES_END.as_bytes();
    }
}

/// Parses the properties, which stand after the files and end with a comma.
fn manifest_of(mut head: Vec<u8>, wnid: Wnid) -> Option<Manifest> {
    head.truncate(head.strip_suffix(b",\n")?.len());
    head.push(b'}');
    let manifest: Manifest = serde_json::from_slice(&head).ok()?;
    (manifest.version <= VERSION && manifest.wnid == wnid.to_string()).then_some(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::journal::{self, FileEntry, Journal};

    /// A manifest as version 1 wrote it. Later versions must still read it.
    const VERSION_1: &str = include_str!("manifest_version_1.json");

    fn wnid() -> Wnid {
        "n02124075".parse().unwrap()
    }

    fn listed(name: &str, size: u64) -> Listed {
        Listed {
            name: name.to_owned(),
            size,
            blake3: blake3::hash(name.as_bytes()),
        }
    }

    fn two_files() -> [Listed; 2] {
        [listed("n02124075_1.JPEG", 5), listed("n02124075_2.JPEG", 7)]
    }

    fn written(folder: &Path) -> Manifest {
        let source = Source {
            url: "http://h/n02124075.tar".to_owned(),
            length: Some(10_240),
            etag: Some("\"a\"".to_owned()),
            last_modified: None,
            ..Source::default()
        };
        let manifest = Manifest::new(wnid(), "run", &source);
        write(folder, manifest, two_files().into_iter().map(Ok)).unwrap()
    }

    #[test]
    fn a_manifest_is_valid_for_its_own_class_only() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = written(folder.path());
        assert_eq!(
            manifest.published(),
            Published {
                files: 2,
                bytes: 10_240
            }
        );
        assert_eq!(read(folder.path(), wnid()).unwrap(), Some(manifest));
        assert_eq!(
            read(folder.path(), "n00000001".parse().unwrap()).unwrap(),
            None
        );
        assert_eq!(
            fs::read_to_string(folder.path().join(MANIFEST)).unwrap(),
            VERSION_1
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file remains"
        );
    }

    #[test]
    fn a_manifest_copied_from_the_journal_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let written = written(folder.path());
        let source = written.source.clone();
        let journal = folder.path().join("journal");
        let mut lines = Journal::create(&journal, &source).unwrap();
        for Listed { name, size, blake3 } in two_files() {
            let entry = FileEntry {
                name,
                size,
                blake3,
                next_header: 0,
            };
            lines.append(&entry).unwrap();
        }
        lines.flush().unwrap();
        let properties = Manifest::new(wnid(), "run", &source);
        let mut manifest = Writer::create(folder.path(), properties).unwrap();
        let (_, mut entries) = journal::open(&journal).unwrap();
        while let Some(file) = entries.next_finished() {
            manifest.copy(file).unwrap();
        }
        assert_eq!(manifest.finish().unwrap(), written);
        assert_eq!(
            fs::read_to_string(folder.path().join(MANIFEST)).unwrap(),
            VERSION_1
        );
    }

    #[test]
    fn a_truncated_or_edited_manifest_is_invalid() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let text = fs::read(folder.path().join(MANIFEST)).unwrap();
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut], wnid()).unwrap(), None, "cut at {cut}");
            let mut edited = text.clone();
            edited[cut] ^= 1;
            assert_eq!(parse(&*edited, wnid()).unwrap(), None, "edited at {cut}");
        }
    }

    #[test]
    fn the_files_of_a_manifest_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let path = folder.path().join(MANIFEST);
        let files = |wnid| open(&path, wnid).unwrap().map(|(_, files)| files);
        let read = || {
            let files = files(wnid()).expect("a valid manifest");
            files.map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(read(), two_files());
        fs::write(&path, VERSION_1).unwrap();
        assert_eq!(read(), two_files());
        assert!(files("n00000001".parse().unwrap()).is_none());
    }

    #[test]
    fn no_manifest_is_no_error() {
        assert_eq!(
            read(tempfile::tempdir().unwrap().path(), wnid()).unwrap(),
            None
        );
    }

    #[test]
    fn a_pipe_with_the_manifests_name_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join(MANIFEST);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(folder.path(), wnid()).unwrap(), None);
    }

    #[test]
    fn the_first_version_stays_readable() {
        let manifest = parse(VERSION_1.as_bytes(), wnid())
            .unwrap()
            .expect("a valid manifest of version 1");
        assert_eq!(
            manifest.published(),
            Published {
                files: 2,
                bytes: 10_240
            }
        );
        assert_eq!(manifest.run, "run");
    }
}

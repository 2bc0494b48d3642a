//! Checks class folders against their manifests, file by file, long after they were published.
//!
//! Only reads, and follows no link, but that with `--repair` the manifest of a folder that differs gets
//! another name. Memory does not grow with the number or the size of the files.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{CWD, OFlags, renameat},
    io::Errno,
};
use shared::{Wnid, listing::list};

pub use crate::storage::comparison::Difference;
use crate::storage::{
    comparison::{Comparison, open},
    existing::{Compared, compare},
    manifest::{self, Listed, MANIFEST, MARKED},
};

/// What is read at once; between two reads it can be stopped.
const BUFFER: usize = 256 << 10;

/// How a class stands to its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every file is as the manifest says, and there are no others.
    Right,
    /// Something differs, and was told.
    Differs,
    /// There is no manifest, so nothing can be said; why.
    NotProved(&'static str),
    /// It was taken away or put in its place in the meantime.
    Gone,
    /// It was not looked at to the end.
    Stopped,
}

/// What was found out about a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// In a word.
    pub verdict: Verdict,
    /// Files that the manifest lists.
    pub files: u64,
    /// Bytes that were read and compared.
    pub bytes: u64,
}

/// The classes that have something under their final name in a target, in order.
///
/// # Errors
/// When the target cannot be read.
pub fn classes(target: &Path) -> io::Result<Vec<Wnid>> {
    let mut classes = Vec::new();
    for entry in list(target)? {
        classes.extend(entry?.text().and_then(|name| name.parse::<Wnid>().ok()));
    }
    classes.sort_unstable();
    Ok(classes)
}

/// Whether a class folder is complete: it agrees with its manifest in names, number and sizes of its
/// files. `trusts`: any folder is (`--existing trust`). One that cannot be read is not.
pub fn is_there(target: &Path, wnid: Wnid, trusts: bool) -> bool {
    let folder = target.join(wnid.to_string());
    if trusts {
        return folder.symlink_metadata().is_ok_and(|found| found.is_dir());
    }
    matches!(compare(&folder, wnid), Ok(Some(Compared::Agrees(_))))
}

/// Checks classes, one after the other; several can work beside each other.
#[derive(Debug)]
pub struct Verifier {
    target: PathBuf,
    stop: Arc<AtomicBool>,
    repair: bool,
    buffer: Vec<u8>,
}

impl Verifier {
    /// For the classes of a target, until `stop` is set. `repair`: marks those that differ, so that
    /// the next job downloads them again.
    pub fn new(target: &Path, stop: Arc<AtomicBool>, repair: bool) -> Self {
        Self { target: target.to_owned(), stop, repair, buffer: vec![0; BUFFER] }
    }

    /// Compares a class with its manifest. `tell` hears of each difference, with the file's name, or without one where the
    /// folder as a whole is meant.
    pub fn check(&mut self, wnid: Wnid, mut tell: impl FnMut(Option<&str>, Difference)) -> Checked {
        let mut checked = Checked { verdict: Verdict::Right, files: 0, bytes: 0 };
        let mut differs = false;
        let verdict = self.look(wnid, &mut checked, &mut |name, difference| {
            differs = true;
            tell(name, difference);
        });
        checked.verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => {
                tell(None, Difference::Unreadable(error.to_string()));
                Verdict::Differs
            }
        };
        if differs && checked.verdict == Verdict::Right {
            checked.verdict = Verdict::Differs;
        }
        checked
    }

    fn look(&mut self, wnid: Wnid, checked: &mut Checked, tell: &mut Tell<'_>) -> io::Result<Verdict> {
        let path = self.target.join(wnid.to_string());
        let folder = match open(CWD, &path, OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(Verdict::Gone),
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(Verdict::NotProved("it is no folder")),
            Err(error) => return Err(error.into()),
        };
        let listed = match manifest::files(&path, wnid) {
            Ok(Some(listed)) => listed,
            Ok(None) if path.join(MANIFEST).symlink_metadata().is_ok() => {
                tell(Some(MANIFEST), Difference::Manifest);
                self.mark(&folder)?;
                return Ok(Verdict::Differs);
            }
            Ok(None) if path.join(MARKED).symlink_metadata().is_ok() => {
                tell(Some(MARKED), Difference::Marked);
                return Ok(Verdict::Differs);
            }
            Ok(None) => return Ok(Verdict::NotProved("it has no manifest")),
            Err(error) => {
                tell(Some(MANIFEST), Difference::Unreadable(error.to_string()));
                return Ok(Verdict::Differs);
            }
        };
        let comparison = Comparison { manifest: path.join(MANIFEST), folder: path, wnid };
        let mut differs = false;
        let ended = comparison.walk(
            listed,
            |listed| {
                checked.files += 1;
                match self.compare(&folder, listed, checked) {
                    Ok(difference) => ControlFlow::Continue(difference),
                    Err(Stopped) => ControlFlow::Break(Verdict::Stopped),
                }
            },
            |name, difference| {
                differs = true;
                tell(Some(name), difference);
                ControlFlow::Continue(())
            },
        )?;
        if differs {
            self.mark(&folder)?;
        }
        Ok(ended.break_value().unwrap_or(Verdict::Right))
    }

    /// With `--repair`: gives the manifest of a folder that differs from it another name, in one
    /// step. Nothing is removed, and the next job downloads the class again.
    fn mark(&self, folder: &File) -> io::Result<()> {
        if self.repair {
            renameat(folder, MANIFEST, folder, MARKED)?;
            folder.sync_all()?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        folder: &File,
        listed: &Listed,
        checked: &mut Checked,
    ) -> Result<Option<Difference>, Stopped> {
        let unreadable = |error: io::Error| Ok(Some(Difference::Unreadable(error.to_string())));
        // No manifest of this program has such a name, and it would lead out of the folder.
        if listed.name.contains('/') {
            return Ok(Some(Difference::NoFile));
        }
        let mut file = match open(folder, Path::new(&listed.name), OFlags::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Some(Difference::Missing)),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Some(Difference::NoFile)),
            Err(error) => return unreadable(error.into()),
        };
        match file.metadata() {
            Err(error) => return unreadable(error),
            Ok(metadata) if !metadata.is_file() => return Ok(Some(Difference::NoFile)),
            Ok(metadata) if metadata.len() != listed.size => {
                return Ok(Some(Difference::Size { listed: listed.size, found: metadata.len() }));
            }
            Ok(_) => {}
        }
        let mut hasher = blake3::Hasher::new();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    hasher.update(&self.buffer[..length]);
                    checked.bytes += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return unreadable(error),
            }
        }
        Ok((hasher.finalize() != listed.blake3).then_some(Difference::Content))
    }
}

type Tell<'caller> = dyn FnMut(Option<&str>, Difference) + 'caller;

/// It was asked to stop.
struct Stopped;

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::Mode;

    use super::*;
    use crate::{
        source::Source,
        storage::{comparison::NAMES, journal::FileEntry, manifest::Provenance},
    };

    const FILES: [(&str, &[u8]); 3] = [("a.JPEG", b"first"), ("b.JPEG", b"second"), (".c.JPEG", b"hidden")];

    fn wnid() -> Wnid {
        "n02124075".parse().unwrap()
    }

    /// A target with one class of three files, and what its folder is.
    fn target() -> (tempfile::TempDir, PathBuf) {
        let target = tempfile::tempdir().unwrap();
        let folder = target.path().join(wnid().to_string());
        fs::create_dir(&folder).unwrap();
        let source = Source { url: "http://h/x".to_owned(), ..Source::default() };
        let files = FILES.map(|(name, content)| {
            fs::write(folder.join(name), content).unwrap();
            let size = content.len() as u64;
            Ok(FileEntry { name: name.to_owned(), size, blake3: blake3::hash(content), next_header: 0 })
        });
        let provenance = Provenance { wnid: wnid(), run: "run", source: &source, adopted: false, kept_tar: None };
        manifest::write(&folder, provenance, files.into_iter()).unwrap();
        (target, folder)
    }

    fn check(target: &tempfile::TempDir) -> (Verdict, Vec<String>) {
        let mut told = Vec::new();
        let mut verifier = Verifier::new(target.path(), Arc::default(), false);
        let checked = verifier.check(wnid(), |name, difference| {
            told.push(format!("{} {difference}", name.unwrap_or("(folder)")));
        });
        (checked.verdict, told)
    }

    fn differs(told: &[&str]) -> (Verdict, Vec<String>) {
        (Verdict::Differs, told.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn what_was_published_is_right_also_with_dot_files_of_others() {
        let (target, folder) = target();
        fs::write(folder.join(".DS_Store"), "x").unwrap();
        assert_eq!(classes(target.path()).unwrap(), [wnid()]);
        let checked =
            Verifier::new(target.path(), Arc::default(), false).check(wnid(), |_, _| panic!("nothing differs"));
        assert_eq!(checked, Checked { verdict: Verdict::Right, files: 3, bytes: 17 });
    }

    #[test]
    fn each_difference_is_told_with_its_file() {
        let (target, folder) = target();
        fs::write(folder.join("a.JPEG"), b"fIrst").unwrap();
        fs::write(folder.join("b.JPEG"), b"longer than that").unwrap();
        fs::write(folder.join("stray"), b"").unwrap();
        assert_eq!(
            check(&target),
            differs(&[
                "a.JPEG has other content than the manifest says",
                "b.JPEG has 16 bytes, the manifest says 6",
                "stray is not in the manifest"
            ])
        );
        fs::remove_file(folder.join("stray")).unwrap();
        fs::remove_file(folder.join("a.JPEG")).unwrap();
        fs::remove_file(folder.join("b.JPEG")).unwrap();
        std::os::unix::fs::symlink(".c.JPEG", folder.join("b.JPEG")).unwrap();
        assert_eq!(check(&target), differs(&["a.JPEG is missing", "b.JPEG is no file"]));
        // As many as there should be, and not the same.
        fs::write(folder.join("A.JPEG"), b"first").unwrap();
        let told = check(&target).1;
        assert_eq!(told, ["a.JPEG is missing", "b.JPEG is no file", "A.JPEG is not in the manifest"]);
    }

    #[test]
    fn a_pipe_and_a_folder_under_a_files_name_are_no_files_and_make_nobody_wait() {
        let (target, folder) = target();
        for name in ["a.JPEG", "b.JPEG"] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::create_dir(folder.join("a.JPEG")).unwrap();
        let pipe = folder.join("b.JPEG");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(check(&target), differs(&["a.JPEG is no file", "b.JPEG is no file"]));
    }

    #[test]
    fn a_damaged_manifest_is_told_and_a_missing_one_proves_nothing() {
        let (target, folder) = target();
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        assert_eq!(check(&target), differs(&[".manifest.json is damaged, of another class or of a later version"]));
        fs::remove_file(&path).unwrap();
        assert_eq!(check(&target), (Verdict::NotProved("it has no manifest"), vec![]));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(check(&target), (Verdict::Gone, vec![]));
        fs::write(&folder, "").unwrap();
        assert_eq!(check(&target), (Verdict::NotProved("it is no folder"), vec![]));
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let (target, _) = target();
        let stopped = Verifier::new(target.path(), Arc::new(AtomicBool::new(true)), false).check(wnid(), |_, _| {});
        assert_eq!(stopped.verdict, Verdict::Stopped);
    }

    #[test]
    fn more_names_than_are_looked_up_at_once_are_all_looked_up() {
        let (target, folder) = target();
        for number in 0..=NAMES {
            fs::write(folder.join(format!("stray-{number:05}")), b"").unwrap();
        }
        let (verdict, told) = check(&target);
        assert_eq!((verdict, told.len()), (Verdict::Differs, NAMES + 1));
    }
}

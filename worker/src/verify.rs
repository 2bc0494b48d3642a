//! Verifies published class folders against their manifests, file by file.
//!
//! It only reads and follows no links. With `--repair` it also renames the manifest of a folder
//! that differs. Memory does not grow with the number or the size of the files.

use std::{
    fs::File,
    io::{self, Read as _},
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
    comparison::{Compared, Comparison, compare, is_content_file, open, size_difference},
    manifest::{self, Files, Listed, MANIFEST, MARKED},
    staging::is_folder,
};

/// Verification can be stopped whenever so many bytes of a file were read.
const STEP: u64 = 256 << 10;

/// The result for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderState {
    /// Every file agrees with the manifest, and there are no others.
    Right,
    /// Something differs and was reported.
    Differs,
    /// There is no manifest to compare with; the text says why.
    NotProved(&'static str),
    /// The folder was removed or moved in the meantime.
    Gone,
    /// Verification was stopped before its end.
    Stopped,
}

/// The result for one class with counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedClass {
    /// The result itself.
    pub verdict: FolderState,
    /// Files that the manifest lists.
    pub files: u64,
    /// Bytes that were read and compared.
    pub bytes: u64,
}

/// The class names that exist in a target, as a folder or anything else, in ascending order.
///
/// # Errors
/// If the target cannot be read.
pub fn classes(target: &Path) -> io::Result<Vec<Wnid>> {
    let mut classes = Vec::new();
    for entry in list(target)? {
        classes.extend(entry?.text().and_then(|name| name.parse::<Wnid>().ok()));
    }
    classes.sort_unstable();
    Ok(classes)
}

/// Whether a class folder is complete: its files agree with its manifest in names, number and
/// sizes. `trusts`: any folder counts (`--existing trust`). A folder that cannot be read does not
/// count.
pub fn is_there(target: &Path, wnid: Wnid, trusts: bool) -> bool {
    let folder = target.join(wnid.to_string());
    if trusts {
        return is_folder(&folder);
    }
    matches!(compare(&folder, wnid), Ok(Some(Compared::Agrees(_))))
}

/// Verifies classes one by one. Several verifiers can run in parallel.
#[derive(Debug)]
pub struct Verifier {
    target: PathBuf,
    stop: Arc<AtomicBool>,
    repair: bool,
}

impl Verifier {
    /// A verifier for the classes of a target, until `stop` is set. `repair`: marks the folders
    /// that differ, so that the next job downloads them again.
    pub fn new(target: &Path, stop: Arc<AtomicBool>, repair: bool) -> Self {
        Self {
            target: target.to_owned(),
            stop,
            repair,
        }
    }

    /// Compares a class with its manifest. `report` is called for each difference, with the file's
    /// name, or without a name if the difference concerns the folder as a whole.
    pub fn check(
        &self,
        wnid: Wnid,
        mut report: impl FnMut(Option<&str>, Difference),
    ) -> VerifiedClass {
        let mut checked = VerifiedClass {
            verdict: FolderState::Right,
            files: 0,
            bytes: 0,
        };
        let state = self.compare_folder(wnid, &mut checked, &mut report);
        checked.verdict = state.unwrap_or_else(|error| {
            report(None, Difference::Unreadable(error.to_string()));
            FolderState::Differs
        });
        checked
    }

    fn compare_folder(
        &self,
        wnid: Wnid,
        checked: &mut VerifiedClass,
        report: &mut dyn FnMut(Option<&str>, Difference),
    ) -> io::Result<FolderState> {
        let path = self.target.join(wnid.to_string());
        let folder = match open(CWD, &path, OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(FolderState::Gone),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Ok(FolderState::NotProved("it is no folder"));
            }
            Err(error) => return Err(error.into()),
        };
        let manifest = path.join(MANIFEST);
        let files = match manifest::open(&manifest, wnid) {
            Ok(Some((_, files))) => files,
            Ok(None) if manifest.symlink_metadata().is_ok() => {
                report(Some(MANIFEST), Difference::Manifest);
                self.mark(&folder)?;
                return Ok(FolderState::Differs);
            }
            Ok(None) if path.join(MARKED).symlink_metadata().is_ok() => {
                report(Some(MARKED), Difference::Marked);
                return Ok(FolderState::Differs);
            }
            Ok(None) => return Ok(FolderState::NotProved("it has no manifest")),
            Err(error) => {
                report(Some(MANIFEST), Difference::Unreadable(error.to_string()));
                return Ok(FolderState::Differs);
            }
        };
        let comparison = Comparison {
            folder: &path,
            manifest: &manifest,
            wnid,
        };
        let mut differs = false;
        let ended = self.compare_files(comparison, &folder, files, checked, |name, difference| {
            differs = true;
            report(Some(name), difference);
        });
        let is_stopped = ended?;
        if differs {
            self.mark(&folder)?;
        }
        Ok(match (is_stopped, differs) {
            (true, _) => FolderState::Stopped,
            (false, true) => FolderState::Differs,
            (false, false) => FolderState::Right,
        })
    }

    /// Compares the files of an open folder with those that the manifest lists; returns whether it
    /// was stopped.
    fn compare_files(
        &self,
        comparison: Comparison<'_>,
        folder: &File,
        files: Files,
        checked: &mut VerifiedClass,
        mut report: impl FnMut(&str, Difference),
    ) -> io::Result<bool> {
        let mut there = 0;
        for listed in files {
            let listed = listed?;
            checked.files += 1;
            let difference = self.compare(folder, &listed, checked);
            if self.is_stopped() {
                return Ok(true);
            }
            let is_there = difference != Some(Difference::Missing);
            there += u64::from(is_there && is_content_file(listed.name.as_ref()));
            if let Some(difference) = difference {
                report(&listed.name, difference);
            }
        }
        for name in comparison.unlisted_images(there)? {
            report(&name?, Difference::NotListed);
        }
        Ok(false)
    }

    /// With `--repair`: renames the manifest of a folder that differs, in one step. Nothing is
    /// removed, and the next job downloads the class again.
    fn mark(&self, folder: &File) -> io::Result<()> {
        if self.repair {
            renameat(folder, MANIFEST, folder, MARKED)?;
            folder.sync_all()?;
        }
        Ok(())
    }

    fn compare(
        &self,
        folder: &File,
        listed: &Listed,
        checked: &mut VerifiedClass,
    ) -> Option<Difference> {
        size_difference(folder, listed).or_else(|| {
            match self.digest(folder, &listed.name, checked) {
                Ok(digest) => (digest != listed.blake3).then_some(Difference::Content),
                Err(error) => Some(Difference::Unreadable(error.to_string())),
            }
        })
    }

    /// The digest of a file, or of its beginning if verification is stopped.
    fn digest(
        &self,
        folder: &File,
        name: &str,
        checked: &mut VerifiedClass,
    ) -> io::Result<blake3::Hash> {
        let file = open(folder, Path::new(name), OFlags::empty())?;
        let mut hasher = blake3::Hasher::new();
        loop {
            let before = hasher.count();
            hasher.update_reader((&file).take(STEP))?;
            checked.bytes += hasher.count() - before;
            if hasher.count() == before || self.is_stopped() {
                return Ok(hasher.finalize());
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::Mode;

    use super::*;
    use crate::{
        source::Source,
        storage::{comparison::NAMES, manifest::Manifest},
    };

    const FILES: [(&str, &[u8]); 3] = [
        ("a.JPEG", b"first"),
        ("b.JPEG", b"second"),
        (".c.JPEG", b"hidden"),
    ];

    fn wnid() -> Wnid {
        "n02124075".parse().unwrap()
    }

    /// A target with one class of three files, and the path of its folder.
    fn target() -> (tempfile::TempDir, PathBuf) {
        let target = tempfile::tempdir().unwrap();
        let folder = target.path().join(wnid().to_string());
        fs::create_dir(&folder).unwrap();
        let source = Source {
            url: "http://h/x".to_owned(),
            ..Source::default()
        };
        let files = FILES.map(|(name, content)| {
            fs::write(folder.join(name), content).unwrap();
            let size = content.len() as u64;
            Ok(Listed {
                name: name.to_owned(),
                size,
                blake3: blake3::hash(content),
            })
        });
        let manifest = Manifest::new(wnid(), "run", &source);
        manifest::write(&folder, manifest, files.into_iter()).unwrap();
        (target, folder)
    }

    fn check(target: &tempfile::TempDir) -> (FolderState, Vec<String>) {
        let mut reported = Vec::new();
        let verifier = Verifier::new(target.path(), Arc::default(), false);
        let checked = verifier.check(wnid(), |name, difference| {
            reported.push(format!("{} {difference}", name.unwrap_or("(folder)")));
        });
        (checked.verdict, reported)
    }

    fn differs(reported: &[&str]) -> (FolderState, Vec<String>) {
        (
            FolderState::Differs,
            reported.iter().map(|line| (*line).to_owned()).collect(),
        )
    }

    #[test]
    fn a_published_folder_is_right_even_with_foreign_dot_files() {
        let (target, folder) = target();
        fs::write(folder.join(".DS_Store"), "x").unwrap();
        assert_eq!(classes(target.path()).unwrap(), [wnid()]);
        let checked = Verifier::new(target.path(), Arc::default(), false)
            .check(wnid(), |_, _| panic!("nothing differs"));
        assert_eq!(
            checked,
            VerifiedClass {
                verdict: FolderState::Right,
                files: 3,
                bytes: 17
            }
        );
    }

    #[test]
    fn each_difference_is_reported_with_its_file() {
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
        assert_eq!(
            check(&target),
            differs(&["a.JPEG is missing", "b.JPEG is no file"])
        );
        // The right number of files, but another name.
        fs::write(folder.join("A.JPEG"), b"first").unwrap();
        let reported = check(&target).1;
        assert_eq!(
            reported,
            [
                "a.JPEG is missing",
                "b.JPEG is no file",
                "A.JPEG is not in the manifest"
            ]
        );
    }

    #[test]
    fn a_pipe_or_a_folder_with_a_files_name_is_no_file_and_does_not_block() {
        let (target, folder) = target();
        for name in ["a.JPEG", "b.JPEG"] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        fs::create_dir(folder.join("a.JPEG")).unwrap();
        let pipe = folder.join("b.JPEG");
        rustix::fs::mknodat(
            CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(
            check(&target),
            differs(&["a.JPEG is no file", "b.JPEG is no file"])
        );
    }

    #[test]
    fn a_damaged_manifest_is_reported_and_a_missing_one_proves_nothing() {
        let (target, folder) = target();
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        assert_eq!(
            check(&target),
            differs(&[".manifest.json is damaged, of another class or of a later version"])
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(
            check(&target),
            (FolderState::NotProved("it has no manifest"), vec![])
        );
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(check(&target), (FolderState::Gone, vec![]));
        fs::write(&folder, "").unwrap();
        assert_eq!(
            check(&target),
            (FolderState::NotProved("it is no folder"), vec![])
        );
    }

    #[test]
    fn verification_stops_when_requested() {
        let (target, _) = target();
        let stopped = Verifier::new(target.path(), Arc::new(AtomicBool::new(true)), false)
            .check(wnid(), |_, _| {});
        assert_eq!(stopped.verdict, FolderState::Stopped);
    }

    #[test]
    fn folders_with_more_names_than_one_batch_are_fully_compared() {
        let (target, folder) = target();
        for number in 0..=NAMES {
            fs::write(folder.join(format!("stray-{number:05}")), b"").unwrap();
        }
        let (verdict, reported) = check(&target);
        assert_eq!((verdict, reported.len()), (FolderState::Differs, NAMES + 1));
    }
}

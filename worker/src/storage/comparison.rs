//! Compares a class folder with the files that its manifest lists. Only reads, and follows no link.
//!
//! Two depths use the same walk: a job compares the names, number and sizes of the files, which
//! costs one `stat` per file and one listing. `verify` compares their contents too.

use std::{
    collections::HashSet,
    ffi::OsString,
    fmt,
    fs::File,
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use rustix::{
    fd::AsFd,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, statat},
    io::Errno,
};
use shared::{Wnid, listing::list, outcome::printable};

use crate::storage::manifest::{self, Listed};

/// Number of names of a folder that are looked up in the manifest at once.
pub(crate) const NAMES: usize = 16 << 10;
/// Files that file managers create beside images, in lower case.
const DESKTOP_FILES: [&str; 4] = ["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"];

/// How an entry of a class folder differs from its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The manifest itself is damaged, of another class, or of a later version.
    Manifest,
    /// A listed file is missing.
    Missing,
    /// The entry under a listed name is not a file.
    NoFile,
    /// The file has another size.
    Size {
        /// In bytes, according to the manifest.
        listed: u64,
        /// In bytes.
        found: u64,
    },
    /// The file has the listed size and other content.
    Content,
    /// The file exists and the manifest does not list it.
    NotListed,
    /// `verify --repair` has marked the manifest.
    Marked,
    /// The file cannot be read; the error of the operating system.
    Unreadable(String),
}

impl Difference {
    /// A single word for programs that parse the output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Missing => "missing",
            Self::NoFile => "no_file",
            Self::Size { .. } => "size",
            Self::Content => "content",
            Self::NotListed => "not_listed",
            Self::Marked => "marked",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => {
                formatter.write_str("is damaged, of another class or of a later version")
            }
            Self::Missing => formatter.write_str("is missing"),
            Self::NoFile => formatter.write_str("is no file"),
            Self::Size { listed, found } => {
                write!(formatter, "has {found} bytes, the manifest says {listed}")
            }
            Self::Content => formatter.write_str("has other content than the manifest says"),
            Self::NotListed => formatter.write_str("is not in the manifest"),
            Self::Marked => formatter.write_str(
                "was marked by `verify --repair`, so the next job downloads the class again",
            ),
            Self::Unreadable(why) => write!(formatter, "cannot be read ({why})"),
        }
    }
}

/// The first difference of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FirstDifference {
    /// A name in the folder.
    pub(crate) name: String,
    pub(crate) difference: Difference,
}

impl fmt::Display for FirstDifference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = printable(&self.name);
        match self.difference {
            // A job logs itself what it does about the difference.
            Difference::Marked => write!(formatter, "{name} was marked by `verify --repair`"),
            ref difference => write!(formatter, "{name} {difference}"),
        }
    }
}

/// Whether a name in a class folder counts as an image. Hidden files and files of file managers do
/// not.
pub(crate) fn counts(name: &[u8]) -> bool {
    !name.starts_with(b".")
        && !DESKTOP_FILES
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// The first name, type or size in a class folder that differs from the manifest at this path.
///
/// # Errors
/// When the folder or the manifest cannot be read.
pub(crate) fn first_difference(
    folder: &Path,
    manifest: &Path,
    wnid: Wnid,
    files: impl Iterator<Item = io::Result<Listed>>,
) -> io::Result<Option<FirstDifference>> {
    let comparison = Comparison {
        folder: folder.to_owned(),
        manifest: manifest.to_owned(),
        wnid,
    };
    let opened = open(CWD, folder, OFlags::DIRECTORY)?;
    let ended = comparison.walk(
        files,
        |listed| ControlFlow::Continue(size_difference(&opened, listed)),
        |name, difference| {
            ControlFlow::Break(FirstDifference {
                name: name.to_owned(),
                difference,
            })
        },
    )?;
    Ok(ended.break_value())
}

/// Compares the `stat` of a file with its listed size; no link is followed.
fn size_difference(folder: &File, listed: &Listed) -> Option<Difference> {
    // A manifest of this program never has such a name, and the path would lead out of the folder.
    if listed.name.contains('/') {
        return Some(Difference::NoFile);
    }
    let found = match statat(folder, listed.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Some(Difference::Missing),
        Err(error) => return Some(Difference::Unreadable(io::Error::from(error).to_string())),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Some(Difference::NoFile);
    }
    let size = u64::try_from(found.st_size).unwrap_or_default();
    (size != listed.size).then_some(Difference::Size {
        listed: listed.size,
        found: size,
    })
}

/// A folder and the manifest that it is compared with.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: PathBuf,
    pub(crate) wnid: Wnid,
}

impl Comparison {
    /// Compares each listed file, then finds names that are not listed. `look` compares one file;
    /// `tell` receives each difference. A `Break` of either ends the walk.
    pub(crate) fn walk<B>(
        &self,
        files: impl Iterator<Item = io::Result<Listed>>,
        mut look: impl FnMut(&Listed) -> ControlFlow<B, Option<Difference>>,
        mut tell: impl FnMut(&str, Difference) -> ControlFlow<B>,
    ) -> io::Result<ControlFlow<B>> {
        let mut counted = 0;
        for listed in files {
            let listed = listed?;
            let difference = match look(&listed) {
                ControlFlow::Break(end) => return Ok(ControlFlow::Break(end)),
                ControlFlow::Continue(difference) => difference,
            };
            let is_there = difference != Some(Difference::Missing);
            counted += u64::from(is_there && counts(listed.name.as_bytes()));
            if let Some(difference) = difference
                && let ControlFlow::Break(end) = tell(&listed.name, difference)
            {
                return Ok(ControlFlow::Break(end));
            }
        }
        let mut names = list(&self.folder)?.map(|entry| entry.map(|entry| entry.name().to_owned()));
        let found = names
            .by_ref()
            .filter(|name| name.as_ref().map_or(true, does_count));
        if found.count() as u64 == counted {
            return Ok(ControlFlow::Continue(()));
        }
        self.not_listed(does_count, |name| {
            tell(&name.to_string_lossy(), Difference::NotListed)
        })
    }

    /// The accepted names of the folder that the manifest does not list. The manifest is read once
    /// per [`NAMES`] names, so memory does not grow with the folder.
    pub(crate) fn not_listed<B>(
        &self,
        fits: impl Fn(&OsString) -> bool,
        mut tell: impl FnMut(&OsString) -> ControlFlow<B>,
    ) -> io::Result<ControlFlow<B>> {
        let mut names = list(&self.folder)?.map(|entry| entry.map(|entry| entry.name().to_owned()));
        loop {
            let mut unlisted = names
                .by_ref()
                .take(NAMES)
                .collect::<io::Result<HashSet<OsString>>>()?;
            if unlisted.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            unlisted.retain(&fits);
            let listed = manifest::open(&self.manifest, self.wnid)?;
            for listed in listed.into_iter().flat_map(|(_, files)| files) {
                unlisted.remove(&OsString::from(listed?.name));
            }
            let mut unlisted: Vec<OsString> = unlisted.into_iter().collect();
            unlisted.sort_unstable();
            for name in unlisted {
                if let ControlFlow::Break(end) = tell(&name) {
                    return Ok(ControlFlow::Break(end));
                }
            }
        }
    }
}

fn does_count(name: &OsString) -> bool {
    counts(name.as_encoded_bytes())
}

/// Opens an entry of a folder. It does not wait for a pipe and follows no link.
pub(crate) fn open(folder: impl AsFd, name: &Path, more: OFlags) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_and_those_of_file_managers_do_not_count() {
        for name in [
            ".DS_Store",
            "._n1.JPEG",
            "Thumbs.db",
            "thumbs.DB",
            "desktop.ini",
            "Icon\r",
        ] {
            assert!(!counts(name.as_bytes()), "{name}");
        }
        for name in ["n1.JPEG", "notes.txt", "Thumbs.db.JPEG", "more"] {
            assert!(counts(name.as_bytes()), "{name}");
        }
    }
}

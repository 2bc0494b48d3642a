//! Compares a class folder with the files that its manifest lists. Only reads, and follows no link.
//!
//! A job compares the names, number and sizes of the files, which costs one `stat` per file and one
//! listing. `verify` compares their contents too.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io, iter,
    path::Path,
};

use rustix::{
    fd::AsFd,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, statat},
    io::Errno,
};
use shared::{Wnid, listing::list, outcome::printable};

use crate::storage::manifest::{self, Listed, MANIFEST, MARKED, Manifest};

/// Number of names of a folder that are looked up in the manifest at once.
pub(crate) const NAMES: usize = 16 << 10;
/// Files that file managers create beside images, in lower case.
const DESKTOP_FILES: [&str; 4] = ["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"];

/// How an entry of a class folder differs from its manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The manifest itself is damaged, of another class, or of a later version.
    #[error("is damaged, of another class or of a later version")]
    Manifest,
    /// A listed file is missing.
    #[error("is missing")]
    Missing,
    /// The entry under a listed name is not a file.
    #[error("is no file")]
    NoFile,
    /// The file has another size.
    #[error("has {found} bytes, the manifest says {listed}")]
    Size {
        /// In bytes, according to the manifest.
        listed: u64,
        /// In bytes.
        found: u64,
    },
    /// The file has the listed size and other content.
    #[error("has other content than the manifest says")]
    Content,
    /// The file exists and the manifest does not list it.
    #[error("is not in the manifest")]
    NotListed,
    /// `verify --repair` has marked the manifest.
    #[error("was marked by `verify --repair`, so the next job downloads the class again")]
    Marked,
    /// The file cannot be read; the error of the operating system.
    #[error("cannot be read ({0})")]
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

/// Whether a file of this name in a class folder is part of the class. Hidden files and files of
/// file managers are not.
pub(crate) fn is_content_file(name: &OsStr) -> bool {
    !name.as_encoded_bytes().starts_with(b".")
        && !DESKTOP_FILES
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
}

/// The result of comparing a folder with its manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// The names, number and sizes of its files are those of the manifest.
    Agrees(Manifest),
    /// Something differs, or `verify --repair` has marked the folder.
    Differs(FirstDifference),
}

/// Compares a folder with its manifest by names, number and sizes; `None` if it has neither a valid
/// manifest nor a mark.
///
/// # Errors
/// When the folder or the manifest cannot be read.
pub(crate) fn compare(folder: &Path, wnid: Wnid) -> io::Result<Option<Compared>> {
    let path = folder.join(MANIFEST);
    let differs = |name, difference| Some(Compared::Differs(FirstDifference { name, difference }));
    let Some((manifest, files)) = manifest::open(&path, wnid)? else {
        // A manifest that was damaged after it was marked is a different finding.
        let is_marked =
            path.symlink_metadata().is_err() && folder.join(MARKED).symlink_metadata().is_ok();
        let marked = is_marked.then(|| differs(MARKED.to_owned(), Difference::Marked));
        return Ok(marked.flatten());
    };
    let opened = open(CWD, folder, OFlags::DIRECTORY)?;
    let mut there = 0;
    for listed in files {
        let listed = listed?;
        if let Some(difference) = size_difference(&opened, &listed) {
            return Ok(differs(listed.name, difference));
        }
        there += u64::from(is_content_file(listed.name.as_ref()));
    }
    let comparison = Comparison {
        folder,
        manifest: &path,
        wnid,
    };
    Ok(
        match comparison.unlisted_images(there)?.next().transpose()? {
            Some(name) => differs(name, Difference::NotListed),
            None => Some(Compared::Agrees(manifest)),
        },
    )
}

/// Compares the `stat` of a file with its listed size; no link is followed.
pub(crate) fn size_difference(folder: &File, listed: &Listed) -> Option<Difference> {
    // A manifest of this program never has such a name, and the path could lead out of the folder.
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison<'path> {
    pub(crate) folder: &'path Path,
    pub(crate) manifest: &'path Path,
    pub(crate) wnid: Wnid,
}

impl Comparison<'_> {
    /// The images that the manifest does not list. `there`: how many of the listed ones exist. If
    /// the folder has as many, their names are not compared.
    pub(crate) fn unlisted_images(
        self,
        there: u64,
    ) -> io::Result<impl Iterator<Item = io::Result<String>>> {
        let mut found = 0;
        for entry in list(self.folder)? {
            found += u64::from(is_content_file(entry?.name()));
        }
        let names = (found != there).then(|| self.not_listed(is_content_file));
        let names = names.transpose()?.into_iter().flatten();
        Ok(names.map(|name| Ok(name?.to_string_lossy().into_owned())))
    }

    /// The accepted names of the folder that the manifest does not list. The manifest is read once
    /// per [`NAMES`] names, so memory does not grow with the folder.
    pub(crate) fn not_listed(
        self,
        fits: impl Fn(&OsStr) -> bool,
    ) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
        let names = list(self.folder)?.map(|entry| Ok(entry?.name().to_owned()));
        let mut names = names.peekable();
        let batches = iter::from_fn(move || {
            names.peek()?;
            Some(self.not_listed_of(names.by_ref().take(NAMES), &fits))
        });
        Ok(batches.flat_map(|batch| {
            batch.map_or_else(
                |error| vec![Err(error)],
                |names| names.into_iter().map(Ok).collect(),
            )
        }))
    }

    fn not_listed_of(
        self,
        names: impl Iterator<Item = io::Result<OsString>>,
        fits: impl Fn(&OsStr) -> bool,
    ) -> io::Result<BTreeSet<OsString>> {
        let mut unlisted = names.collect::<io::Result<BTreeSet<_>>>()?;
        unlisted.retain(|name| fits(name));
        let listed = manifest::open(self.manifest, self.wnid)?;
        for listed in listed.into_iter().flat_map(|(_, files)| files) {
            unlisted.remove(OsStr::new(&listed?.name));
        }
        Ok(unlisted)
    }
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
            assert!(!is_content_file(name.as_ref()), "{name}");
        }
        for name in ["n1.JPEG", "notes.txt", "Thumbs.db.JPEG", "more"] {
            assert!(is_content_file(name.as_ref()), "{name}");
        }
    }
}

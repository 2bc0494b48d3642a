//! Lists the entries of a folder one by one.
//!
//! The standard library panics if `closedir` fails, which can happen on a failing disk. Here such
//! an error is ignored, and an error in the middle of a listing is never mistaken for its end.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};

/// A listing of a folder, in no particular order.
#[derive(Debug)]
pub struct Listing {
    entries: Dir,
    folder: PathBuf,
}

/// An entry of a folder, except `.` and `..`.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    kind: FileType,
}

/// Starts to list a folder.
///
/// # Errors
/// Errors of the file system.
pub fn list(folder: &Path) -> io::Result<Listing> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, folder, flags, Mode::empty())?;
    Ok(Listing {
        entries: Dir::new(opened)?,
        folder: folder.to_owned(),
    })
}

impl Iterator for Listing {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<io::Result<Entry>> {
        loop {
            let found = match self.entries.read()? {
                Ok(found) => found,
                Err(error) => return Some(Err(error.into())),
            };
            let name = found.file_name().to_bytes();
            if name != b"." && name != b".." {
                return Some(Ok(Entry {
                    path: self.folder.join(OsStr::from_bytes(name)),
                    kind: found.file_type(),
                }));
            }
        }
    }
}

impl Entry {
    /// File name in the folder.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// File name as text, if it is valid UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.name().to_str()
    }

    /// Path of the folder and the file name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a folder; a symbolic link to a folder is not.
    ///
    /// # Errors
    /// If the file system reports no type with the name, and the entry cannot be examined.
    pub fn is_folder(&self) -> io::Result<bool> {
        match self.kind {
            FileType::Unknown => Ok(fs::symlink_metadata(&self.path)?.is_dir()),
            kind => Ok(kind == FileType::Directory),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_entries_come_with_their_kind() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("folder", folder.path().join("link")).unwrap();
        let names: BTreeSet<String> = (0..2000).map(|number| format!("file-{number}")).collect();
        for name in &names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let entries = list(folder.path())
            .unwrap()
            .collect::<io::Result<Vec<_>>>()
            .unwrap();
        let folders: Vec<_> = entries
            .iter()
            .filter(|entry| entry.is_folder().unwrap())
            .map(Entry::name)
            .collect();
        assert_eq!(folders, ["folder"]);
        let found: BTreeSet<String> = entries
            .iter()
            .map(|entry| entry.text().unwrap().to_owned())
            .collect();
        assert_eq!(found.len(), names.len() + 2);
        assert!(found.is_superset(&names));
        assert!(list(&folder.path().join("file-0")).is_err());
    }

    #[test]
    fn an_error_in_a_listing_is_not_its_end() {
        let file = tempfile::tempfile().unwrap();
        // The kernel cannot list a regular file, so the first read fails like one on a failing
        // disk.
        let mut listing = Listing {
            entries: Dir::new(file).unwrap(),
            folder: PathBuf::new(),
        };
        assert!(listing.next().is_some_and(|entry| entry.is_err()));
    }
}

//! The staging folder of a class: `<wnid>.<nonce>/` in the staging area, with the future class
//! folder, the future tar and the journal.
//!
//! Only one owner at a time: whoever takes over an earlier attempt first renames its folder, so a former owner that still
//! runs finds nothing to publish, and then moves the proved files into a folder of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use shared::{Wnid, listing::list, own_file};

use crate::{
    source::Source,
    storage::{
        file_tree::{is_gone, move_folder, remove_if_there, remove_tree},
        journal::{self, Entries},
        manifest::MANIFEST,
        staging_area::{entries, wnid_of},
        target::Target,
    },
};

/// In a staging folder: the future class folder.
const CLASS: &str = "class";
/// In a staging folder: what stood under the class's name.
const REPLACED: &str = "replaced";

/// A staging folder that this process owns.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    path: PathBuf,
    /// The class's final name.
    published: PathBuf,
}

/// A class that is unpacked to the last byte, but for its manifest.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) staging: Staging,
    pub(crate) source: Source,
    /// Files in the tar.
    pub(crate) files: u64,
}

impl Staging {
    /// Makes an empty staging folder.
    pub(crate) fn create(target: &Target, wnid: Wnid) -> io::Result<Self> {
        let path = target.staging().join(format!("{wnid}.{:016x}", rand::random::<u64>()));
        let staging = Self { path, published: target.class_folder(wnid) };
        if fs::create_dir(&staging.path).is_err() {
            target.restore_staging()?;
            fs::create_dir(&staging.path)?;
        }
        fs::create_dir(staging.class_folder())?;
        Ok(staging)
    }

    /// Takes a former attempt's folder from the process that may still have it; `None` if another
    /// process was faster.
    pub(crate) fn claim(&self, left: &Path) -> io::Result<Option<Self>> {
        let path = self.path.with_extension(format!("{:016x}.old", rand::random::<u64>()));
        match move_folder(left, &path) {
            Err(error) if is_gone(&error) => Ok(None),
            renamed => renamed.map(|()| Some(Self { path, published: self.published.clone() })),
        }
    }

    /// Empties the staging folder, for a tar that is unpacked from its beginning on. Parts of it that came already stay.
    pub(crate) fn clear(&self) -> io::Result<()> {
        remove_tree(&self.class_folder())?;
        remove_if_there(fs::remove_file(self.tar()))?;
        remove_if_there(fs::remove_file(self.journal()))?;
        fs::create_dir(self.class_folder())
    }

    /// Removes it with all that is in it. A folder that it was to replace, and has not, goes back
    /// to its name first.
    pub(crate) fn remove(&self) -> io::Result<()> {
        put_back(&self.path, &self.published)?;
        remove_tree(&self.path)
    }

    /// The future class folder.
    pub(crate) fn class_folder(&self) -> PathBuf {
        self.path.join(CLASS)
    }

    /// The future `<wnid>.tar`.
    pub(crate) fn tar(&self) -> PathBuf {
        self.path.join("tar")
    }

    /// Files with parts of the tar that the unpacker has not got to.
    pub(crate) fn parts(&self) -> PathBuf {
        self.path.join("parts")
    }

    /// Where a folder that is being replaced waits for its removal.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.path.join(REPLACED)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// The finished files, as the journal has them.
    pub(crate) fn entries(&self) -> io::Result<Entries> {
        let unreadable = || io::Error::other("the journal cannot be read back");
        journal::open(&self.journal()).map(|(_, entries)| entries).ok_or_else(unreadable)
    }
}

/// Folders of earlier attempts at a class beside one's own, the one with the longest journal first.
pub(crate) fn left_behind(target: &Target, wnid: Wnid, own: &Staging) -> io::Result<Vec<PathBuf>> {
    left_behind_beside(target, wnid, &own.path)
}

fn left_behind_beside(target: &Target, wnid: Wnid, own: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{wnid}.");
    let mut found = Vec::new();
    for entry in list(target.staging())? {
        let entry = entry?;
        let is_of_class = entry.text().is_some_and(|name| name.starts_with(&prefix));
        if is_of_class && entry.path() != own && own_file::check_folder(entry.path()).is_ok() {
            let journal = entry.path().join("journal");
            let length = fs::symlink_metadata(journal).map_or(0, |journal| journal.len());
            found.push((length, entry.path().to_owned()));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Whether an attempt at a class has left anything.
pub(crate) fn is_begun(target: &Target, wnid: Wnid) -> io::Result<bool> {
    Ok(!left_behind_beside(target, wnid, Path::new(""))?.is_empty())
}

/// Where the manifests of classes are that were not renamed into the target after their tar was.
pub(crate) fn manifests(target: &Target, wnid: Wnid) -> io::Result<Vec<PathBuf>> {
    let left = left_behind_beside(target, wnid, Path::new(""))?;
    Ok(left.into_iter().map(|folder| folder.join(CLASS).join(MANIFEST)).collect())
}

/// Gives the folders that were to be replaced their names back, where a process was killed before
/// the new one was in the place. For an area that no other process uses.
pub(crate) fn put_back_replaced(area: &Path, root: &Path) -> io::Result<()> {
    for entry in entries(area)? {
        if let Some(wnid) = wnid_of(&entry) {
            put_back(entry.path(), &root.join(wnid.to_string()))?;
        }
    }
    Ok(())
}

/// Whether a folder is there; a link to one is none.
pub(crate) fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn put_back(staging: &Path, published: &Path) -> io::Result<()> {
    let replaced = staging.join(REPLACED);
    if !is_folder(&replaced) || published.symlink_metadata().is_ok() {
        return Ok(());
    }
    match fs::rename(&replaced, published) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            // It must not be seen in part under its name, so it is put together here first.
            let whole = staging.join(format!("{REPLACED}.{:016x}", rand::random::<u64>()));
            move_folder(&replaced, &whole)?;
            fs::rename(&whole, published)
        }
        renamed => renamed,
    }
}

//! The staging folder of a class: `<wnid>.<nonce>/` in the staging area, with the future class
//! folder, the future tar and the journal.
//!
//! A staging folder has one owner at a time. An attempt that takes over the folder of an earlier
//! attempt first renames it, so a former owner that still runs finds nothing to publish. Then it
//! moves the proved files into a folder of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use shared::{Wnid, listing::list, own_file};

use crate::{
    source::Source,
    storage::{
        file_tree::{if_there, move_entry, nonce, remove_if_there, remove_tree},
        journal::{self, Entries},
        manifest::MANIFEST,
        staging_area::{JOURNAL, entries, wnid_of},
        target::Target,
    },
};

/// In a staging folder: the future class folder.
const CLASS: &str = "class";
/// In a staging folder: the folder that was under the class's final name.
const REPLACED: &str = "replaced";

/// A staging folder that this process owns.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    path: PathBuf,
    /// The class's final name.
    published: PathBuf,
}

/// A class that is completely unpacked; only its manifest is missing.
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
        let staging = Self {
            path: target.staging().join(format!("{wnid}.{}", nonce())),
            published: target.class_folder(wnid),
        };
        if fs::create_dir(&staging.path).is_err() {
            target.restore_staging()?;
            fs::create_dir(&staging.path)?;
        }
        fs::create_dir(staging.class_folder())?;
        Ok(staging)
    }

    /// Takes over the folder of an earlier attempt, whose process may still run; `None` if another
    /// process has taken it.
    pub(crate) fn claim(&self, left: &Path) -> io::Result<Option<Self>> {
        let path = self.path.with_extension(nonce() + ".old");
        let moved = if_there(move_entry(left, &path))?;
        Ok(moved.map(|()| Self {
            path,
            published: self.published.clone(),
        }))
    }

    /// Empties the staging folder for a tar that is unpacked from its beginning. Parts that were
    /// already fetched stay.
    pub(crate) fn clear(&self) -> io::Result<()> {
        remove_tree(&self.class_folder())?;
        remove_if_there(fs::remove_file(self.tar()))?;
        remove_if_there(fs::remove_file(self.journal()))?;
        fs::create_dir(self.class_folder())
    }

    /// Removes the staging folder and its contents. A folder that was to be replaced, but was not,
    /// gets its name back first.
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

    /// The folder for parts of the tar that the unpacker has not reached.
    pub(crate) fn parts(&self) -> PathBuf {
        self.path.join("parts")
    }

    /// Where a folder that is being replaced is kept until it is removed.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.path.join(REPLACED)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The finished files in the order of the journal.
    pub(crate) fn entries(&self) -> io::Result<Entries> {
        let opened = journal::open(&self.journal());
        opened
            .map(|(_, entries)| entries)
            .ok_or_else(|| io::Error::other("the journal cannot be read back"))
    }
}

/// Folders of earlier attempts at a class, without the attempt's own; the one with the longest
/// journal first.
pub(crate) fn left_behind(
    target: &Target,
    wnid: Wnid,
    own: Option<&Staging>,
) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in list(target.staging())? {
        let entry = entry?;
        let path = entry.path();
        let is_own = own.is_some_and(|own| own.path == path);
        if wnid_of(&entry) == Some(wnid) && !is_own && own_file::check_folder(path).is_ok() {
            let journal = path.join(JOURNAL).symlink_metadata();
            found.push((journal.map_or(0, |found| found.len()), path.to_owned()));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Whether an earlier attempt at a class has left a folder.
pub(crate) fn is_begun(target: &Target, wnid: Wnid) -> io::Result<bool> {
    Ok(!left_behind(target, wnid, None)?.is_empty())
}

/// Paths of the manifests of classes whose tar was moved into the target but whose folder was not.
pub(crate) fn manifests(target: &Target, wnid: Wnid) -> io::Result<Vec<PathBuf>> {
    let left = left_behind(target, wnid, None)?.into_iter();
    Ok(left
        .map(|folder| folder.join(CLASS).join(MANIFEST))
        .collect())
}

/// Gives folders that were to be replaced their names back, if a process was killed before the new
/// folder had the name. Only for a staging area that no other process uses.
pub(crate) fn put_back_replaced(area: &Path, root: &Path) -> io::Result<()> {
    for entry in entries(area)? {
        if let Some(wnid) = wnid_of(&entry) {
            put_back(entry.path(), &root.join(wnid.to_string()))?;
        }
    }
    Ok(())
}

/// Whether a path is a folder; a link to a folder is none.
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
            // The folder must not be visible under its name while it is incomplete, so it is
            // assembled here first.
            let whole = staging.join(format!("{REPLACED}.{}", nonce()));
            move_entry(&replaced, &whole)?;
            fs::rename(&whole, published)
        }
        renamed => renamed,
    }
}

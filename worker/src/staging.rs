//! The staging folder of a class: `<wnid>.<nonce>/` in the staging area, with the future class
//! folder, the future tar and the journal.
//!
//! Only one owner at a time: whoever takes over an earlier attempt first renames its folder, so a former owner that still
//! runs finds nothing to publish, and then moves the proved files into a folder of its own.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use shared::{
    Wnid,
    listing::list,
    own_file::{self, Access},
};

use crate::{
    beginning::{Beginning, BegunFile},
    checkpoint::{self, Entries, FileEntry, Journal, Line, is_plain_file},
    file_tree::{is_gone, move_folder, remove_if_there, remove_tree},
    manifest::MANIFEST,
    part_file::{self, Found},
    source::Source,
    staged_tar::StagedTar,
    staging_area::{entries, wnid_of},
    target::Target,
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

/// What an earlier attempt has left and was proved to be right.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The version of the tar that it belongs to.
    pub(crate) source: Source,
    /// Files that are done.
    pub(crate) files: u64,
    /// The file behind them, if it is begun.
    pub(crate) begun: Option<BegunFile>,
    /// Where in the tar to go on: at the next header, or within the file that is begun.
    pub(crate) position: u64,
    /// Parts of the tar behind it.
    pub(crate) parts: Vec<Found>,
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

    /// Makes a staging folder and moves into it what earlier attempts at the class have left, if it proves right and
    /// belongs to the same URL. `with_tar`: the tar is kept, so its first part must be there too.
    pub(crate) fn take_over(
        target: &Target,
        wnid: Wnid,
        url: &str,
        with_tar: bool,
    ) -> io::Result<(Self, Option<Checkpoint>)> {
        let staging = Self::create(target, wnid)?;
        let mut former = Vec::new();
        for left in left_behind(target, wnid, &staging.path)? {
            let mine = staging.path.with_extension(format!("{:016x}.old", rand::random::<u64>()));
            match move_folder(&left, &mine) {
                Err(error) if is_gone(&error) => continue,
                renamed => renamed?,
            }
            former.push(Self { path: mine, published: staging.published.clone() });
        }
        // Of one that was killed while it took over, the files and the parts may be in two folders.
        let mut checkpoint: Option<Checkpoint> = None;
        for left in &former {
            if checkpoint.as_ref().is_none_or(|known| known.position == 0) {
                let found = staging.adopt(left, wnid, url, with_tar)?;
                checkpoint = found.filter(|found| found.position > 0 || checkpoint.is_none()).or(checkpoint);
            }
        }
        for left in former {
            if let Some(Checkpoint { source, parts, .. }) = &mut checkpoint {
                parts.extend(part_file::adopt(&left.parts(), &staging.parts(), source)?);
            }
            // A folder that another process was replacing waits there until the new one is in its place.
            if is_folder(&left.replaced()) && !is_folder(&staging.replaced()) {
                move_folder(&left.replaced(), &staging.replaced())?;
            }
            // A former owner that still writes, or a file that is open on a network disk, can keep it from going.
            if let Err(error) = left.remove() {
                tracing::info!(%wnid, %error, "a former staging folder stays until the end of the job");
            }
        }
        let is_worth_it = |found: &Checkpoint| found.position > 0 || !found.parts.is_empty();
        Ok((staging, checkpoint.filter(is_worth_it)))
    }

    /// Moves the files of a former folder here, as far as they hold; none if the checkpoint is at the beginning.
    fn adopt(&self, left: &Self, wnid: Wnid, url: &str, with_tar: bool) -> io::Result<Option<Checkpoint>> {
        let Some((source, entries)) = checkpoint::open(&left.journal()) else { return Ok(None) };
        if source.url != url || source.validator().is_none() {
            return Ok(None);
        }
        let mut journal = Journal::create(&self.journal(), &source)?;
        let mut tar = if with_tar {
            let Some(tar) = StagedTar::open(&left.tar(), &self.tar(), wnid, source.length)? else {
                return self.clear().map(|()| None);
            };
            Some(tar)
        } else {
            None
        };
        let mut checkpoint = Checkpoint { source, files: 0, begun: None, position: 0, parts: Vec::new() };
        let mut begun = None;
        let mut lines = entries;
        while let Some(line) = lines.next_line() {
            let entry = match line {
                Line::Finished(entry) => entry,
                Line::Begun(beginning) => {
                    begun = Some(beginning);
                    continue;
                }
            };
            let file = left.class_folder().join(&entry.name);
            if !entry.holds(&file) {
                break;
            }
            if let Some(tar) = &mut tar
                && !tar.copy(&entry)?
            {
                break;
            }
            take(&file, &self.class_folder().join(&entry.name))?;
            journal.append(&entry)?;
            checkpoint.files += 1;
            checkpoint.position = entry.next_header;
            begun = None;
        }
        journal.flush()?;
        if let Some(beginning) = begun {
            self.adopt_begun(left, &beginning, &mut checkpoint, &mut tar, &mut journal)?;
        }
        if let Some(tar) = &tar {
            tar.cut(checkpoint.position)?;
        }
        if checkpoint.position == 0 {
            self.clear()?;
        }
        Ok(Some(checkpoint))
    }

    /// Goes on within a file, if what the former attempt has left of it holds.
    fn adopt_begun(
        &self,
        left: &Self,
        beginning: &Beginning,
        checkpoint: &mut Checkpoint,
        tar: &mut Option<StagedTar>,
        journal: &mut Journal,
    ) -> io::Result<()> {
        let file = left.class_folder().join(&beginning.name);
        let Some(begun) = beginning.prove(&file)? else { return Ok(()) };
        if let Some(tar) = tar
            && !tar.copy_beginning(beginning)?
        {
            return Ok(());
        }
        take(&file, &self.class_folder().join(&beginning.name))?;
        journal.note_beginning(beginning)?;
        checkpoint.begun = Some(begun);
        checkpoint.position = beginning.position;
        Ok(())
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
        checkpoint::open(&self.journal()).map(|(_, entries)| entries).ok_or_else(unreadable)
    }
}

impl FileEntry {
    /// Whether the file is there with the contents that the journal says.
    fn holds(&self, path: &Path) -> bool {
        let is_whole =
            is_plain_file(path, &self.name) && fs::metadata(path).is_ok_and(|found| found.len() == self.size);
        is_whole && own_file::open(path, Access::Read).and_then(digest).is_ok_and(|found| found == self.blake3)
    }
}

/// Gives a file of a former folder its place here. Where the file system has links it stays there too, until that folder goes as
/// a whole: a process that is killed before its own journal names the file leaves the former checkpoint as good as it was.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::rename(from, to))
}

/// Digest of what a reader gives.
pub(crate) fn digest(mut reader: impl Read) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut reader)?;
    Ok(hasher.finalize())
}

/// Folders of earlier attempts at a class, the one with the longest journal first.
fn left_behind(target: &Target, wnid: Wnid, own: &Path) -> io::Result<Vec<PathBuf>> {
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
    Ok(!left_behind(target, wnid, Path::new(""))?.is_empty())
}

/// Where the manifests of classes are that were not renamed into the target after their tar was.
pub(crate) fn manifests(target: &Target, wnid: Wnid) -> io::Result<Vec<PathBuf>> {
    let left = left_behind(target, wnid, Path::new(""))?;
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
fn is_folder(path: &Path) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://origin/n00000001.tar";

    /// Two finished files and a begun one, as a process that was killed leaves them.
    fn killed(target: &Target, wnid: Wnid) -> io::Result<Staging> {
        let staging = Staging::create(target, wnid)?;
        let source =
            Source { url: URL.to_owned(), length: Some(9999), etag: Some("\"one\"".to_owned()), ..Source::default() };
        let mut journal = Journal::create(&staging.journal(), &source)?;
        for (number, name) in (1..).zip(["a", "b"]) {
            fs::write(staging.class_folder().join(name), name)?;
            let blake3 = blake3::hash(name.as_bytes());
            journal.append(&FileEntry { name: name.to_owned(), size: 1, blake3, next_header: number * 1024 })?;
        }
        fs::write(staging.class_folder().join("c"), "content that no line names")?;
        let (name, blake3) = ("c".to_owned(), blake3::hash(b"content"));
        journal.note_beginning(&Beginning { name, size: 100, written: 7, blake3, position: 2048 + 512 + 7 })?;
        Ok(staging)
    }

    #[test]
    fn killed_before_its_own_journal_is_written_who_takes_over_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (target, wnid) = (Target::open(&folder.path().join("target"), None).unwrap(), "n00000001".parse().unwrap());
        let former = killed(&target, wnid).unwrap();
        let second = Staging::create(&target, wnid).unwrap();
        assert_eq!(second.adopt(&former, wnid, URL, false).unwrap().unwrap().position, 2567);
        let journal = fs::read_to_string(second.journal()).unwrap();
        fs::write(second.journal(), journal.lines().next().unwrap().to_owned() + "\n").unwrap();

        let (third, checkpoint) = Staging::take_over(&target, wnid, URL, false).unwrap();
        let Checkpoint { files, position, .. } = checkpoint.unwrap();
        assert_eq!((files, position), (2, 2567));
        for (name, content) in [("a", "a"), ("b", "b"), ("c", "content")] {
            assert_eq!(fs::read_to_string(third.class_folder().join(name)).unwrap(), content);
        }
        assert!(!former.class_folder().exists() && !second.class_folder().exists());
    }
}

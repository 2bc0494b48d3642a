//! What already stands under a class's name: complete, to be proved, in the way, or nothing.

use std::{fmt, fs, io, path::Path};

use rustix::fs::{Access, access};
use shared::{
    Wnid,
    job::{Existing, JobOptions},
    listing::list,
    own_file::open_regular,
    owner::explained,
};

use crate::{
    source::Source,
    storage::{
        comparison::{Difference, FirstDifference, counts, first_difference},
        digest::digest,
        journal::FileEntry,
        manifest::{self, MANIFEST, MARKED, Manifest, Provenance},
        target::{self, Target},
        target_users::TargetUsers,
    },
};

/// A tar that cannot be moved out of the way of the class's.
pub(crate) const TAR_OF_ANOTHER: &str = "the file under the tar's name is another user's and cannot be renamed";
/// Length of the end marker of a tar, and of its records, in bytes.
const END_MARKER: u64 = 1024;
const RECORD: u64 = 10_240;

/// What stands under a class's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExistingFolder {
    /// Nothing, or an empty folder.
    Nothing,
    /// A folder with a valid manifest; names, number and sizes of its files agree with it, unless
    /// `--existing trust` has it taken as it is.
    Complete(Manifest),
    /// A folder whose files differ from its manifest, or that `verify --repair` has marked.
    Differs(FirstDifference),
    /// A folder that has to be proved.
    Unproved(Unproved),
    /// A folder whose manifest was cut or edited.
    Damaged,
    /// Something that is never touched, and why.
    InTheWay(String),
}

/// Why the manifest of a folder proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unproved {
    /// There is none: the folder is another tool's, or made by hand.
    WithoutManifest,
    /// Another user made the folder, in a target to which every user can write.
    OfAnotherUser,
}

impl fmt::Display for Unproved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::WithoutManifest => "the folder has no manifest",
            Self::OfAnotherUser => "the folder is another user's, so its manifest proves nothing",
        })
    }
}

/// Looks, and follows no link.
pub(crate) fn look(target: &Target, wnid: Wnid, job: &JobOptions) -> io::Result<ExistingFolder> {
    look_in(target.root(), wnid, job, || target.users())
}

/// As [`look`], in a target that is not opened for work. `users`: the rights in it.
///
/// What keeps the class from being published is told here, before anything is downloaded; a class
/// that is complete needs none of it.
pub(crate) fn look_in(
    root: &Path,
    wnid: Wnid,
    job: &JobOptions,
    users: impl Fn() -> io::Result<TargetUsers>,
) -> io::Result<ExistingFolder> {
    let found = look_at_folder(root, wnid, job, &users)?;
    let is_published = match &found {
        ExistingFolder::Nothing | ExistingFolder::Differs(_) => true,
        ExistingFolder::Unproved(_) | ExistingFolder::Damaged => job.existing == Existing::Replace,
        ExistingFolder::Complete(_) | ExistingFolder::InTheWay(_) => false,
    };
    if is_published && let Some(why) = in_the_way(root, wnid, job, &users)? {
        return Ok(ExistingFolder::InTheWay(why));
    }
    Ok(found)
}

/// What under the names of a class this process can neither replace nor rename.
fn in_the_way(
    root: &Path,
    wnid: Wnid,
    job: &JobOptions,
    users: &impl Fn() -> io::Result<TargetUsers>,
) -> io::Result<Option<String>> {
    let folder = target::class_folder(root, wnid);
    if let Ok(found) = folder.symlink_metadata() {
        if !users()?.can_replace(&found) {
            return Ok(Some("the folder under the class's name is another user's and cannot be replaced".to_owned()));
        }
        // A folder with something in it is renamed, which changes its entry `..`.
        if list(&folder)?.next().is_some()
            && let Err(error) = access(&folder, Access::WRITE_OK)
        {
            let error = explained(error.into(), [&folder]);
            return Ok(Some(format!("the folder under the class's name cannot be replaced ({error})")));
        }
    }
    if job.delete_tar {
        return Ok(None);
    }
    let Ok(found) = target::tar(root, wnid).symlink_metadata() else { return Ok(None) };
    if !found.is_file() {
        return Ok(Some("a folder or a link stands under the tar's name".to_owned()));
    }
    let users = users()?;
    let is_stuck = users.is_of_another(&found) && !users.can_replace(&found);
    Ok(is_stuck.then(|| TAR_OF_ANOTHER.to_owned()))
}

fn look_at_folder(
    root: &Path,
    wnid: Wnid,
    job: &JobOptions,
    users: &impl Fn() -> io::Result<TargetUsers>,
) -> io::Result<ExistingFolder> {
    let folder = target::class_folder(root, wnid);
    let found = match fs::symlink_metadata(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ExistingFolder::Nothing),
        found => found?,
    };
    let kind = found.file_type();
    if kind.is_symlink() {
        return Ok(ExistingFolder::InTheWay("a symbolic link stands under the class's name".to_owned()));
    }
    if !kind.is_dir() {
        return Ok(ExistingFolder::InTheWay("a file stands under the class's name".to_owned()));
    }
    let unproved = if users()?.is_of_another(&found) {
        Unproved::OfAnotherUser
    } else {
        if job.existing == Existing::Trust
            && let Some(manifest) = manifest::read(&folder, wnid)?
        {
            return Ok(ExistingFolder::Complete(manifest));
        }
        match compare(&folder, wnid)? {
            Some(Compared::Agrees(manifest)) => return Ok(ExistingFolder::Complete(manifest)),
            Some(Compared::Differs(first)) => return Ok(ExistingFolder::Differs(first)),
            None => {}
        }
        if folder.join(MANIFEST).symlink_metadata().is_ok() {
            return Ok(ExistingFolder::Damaged);
        }
        Unproved::WithoutManifest
    };
    Ok(if list(&folder)?.next().transpose()?.is_none() {
        ExistingFolder::Nothing
    } else {
        ExistingFolder::Unproved(unproved)
    })
}

/// What a folder with a manifest is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Names, number and sizes of its files are those of the manifest.
    Agrees(Manifest),
    /// Something differs, or the folder is marked.
    Differs(FirstDifference),
}

/// Compares a folder with its manifest by names, number and sizes; `None` where no valid manifest
/// and no mark is in it.
pub(crate) fn compare(folder: &Path, wnid: Wnid) -> io::Result<Option<Compared>> {
    let path = folder.join(MANIFEST);
    if let Some((manifest, files)) = manifest::open(&path, wnid)? {
        let first = first_difference(folder, &path, wnid, files)?;
        return Ok(Some(first.map_or(Compared::Agrees(manifest), Compared::Differs)));
    }
    // A manifest that was damaged after the mark is another finding.
    let is_marked = path.symlink_metadata().is_err() && folder.join(MARKED).symlink_metadata().is_ok();
    let marked = || FirstDifference { name: MARKED.to_owned(), difference: Difference::Marked };
    Ok(is_marked.then(|| Compared::Differs(marked())))
}

/// Whether a tar whose entries have this length can have that length in all: two blocks follow as
/// end marker and, as most programs write it, zeros up to a record of 10,240 bytes.
pub(crate) fn can_be_whole(entries: u64, tar_bytes: u64) -> bool {
    let length = entries + END_MARKER;
    tar_bytes == length || tar_bytes == length.next_multiple_of(RECORD)
}

/// The length of a tar with these entries, as most programs write it.
pub(crate) fn whole_length(entries: u64) -> u64 {
    (entries + END_MARKER).next_multiple_of(RECORD)
}

/// The number of files of a folder that is the whole tar, by arithmetic, or why it is not.
///
/// A tar of plain files is a header block and the contents in 512-byte blocks for each; some hold an
/// entry for the folder itself.
pub(crate) fn matches(folder: &Path, tar_bytes: u64) -> io::Result<Result<u64, String>> {
    let (mut files, mut blocks) = (0_u64, 0_u64);
    for entry in visible(folder)? {
        let (name, metadata) = entry?;
        if !metadata.is_file() {
            return Ok(Err(format!("{name} in it is no plain file")));
        }
        files += 1;
        blocks += 512 + metadata.len().next_multiple_of(512);
    }
    let fits = [0, 512].iter().any(|folder_entry| can_be_whole(blocks + folder_entry, tar_bytes));
    if files > 0 && fits {
        return Ok(Ok(files));
    }
    let files_make = if files == 1 { "file makes" } else { "files make" };
    let length = whole_length(blocks);
    Ok(Err(format!("its {files} {files_make} a tar of {length} bytes and the origin's has {tar_bytes}")))
}

/// Gives a folder that was proved its manifest.
pub(crate) fn adopt(folder: &Path, wnid: Wnid, run: &str, source: &Source) -> io::Result<Manifest> {
    let files = visible(folder)?.map(|entry| {
        let (name, metadata) = entry?;
        let blake3 = digest(open_regular(&folder.join(&name))?)?;
        Ok(FileEntry { name, size: metadata.len(), blake3, next_header: 0 })
    });
    manifest::write(folder, Provenance { wnid, run, source, adopted: true, kept_tar: None }, files)
}

/// The entries of a folder, without the files that tools and desktops leave behind.
fn visible(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<(String, fs::Metadata)>>> {
    let entries = list(folder)?.map(|entry| {
        let entry = entry?;
        let unreadable =
            || io::Error::new(io::ErrorKind::InvalidData, format!("{} is no UTF-8", Path::new(entry.name()).display()));
        let name = entry.text().ok_or_else(unreadable)?.to_owned();
        Ok((name, entry.path().symlink_metadata()?))
    });
    Ok(entries.filter(|entry| entry.as_ref().map_or(true, |(name, _)| counts(name.as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(sizes: &[usize]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (number, size) in sizes.iter().enumerate() {
            fs::write(folder.path().join(format!("n_{number}.JPEG")), vec![0; *size]).unwrap();
        }
        folder
    }

    #[test]
    fn the_sizes_of_the_files_prove_the_tar() {
        let folder = folder_of(&[0, 1, 512, 513, 20_000]);
        let exact = 5 * 512 + 512 + 512 + 1024 + 20_480 + 1024;
        for length in [exact, exact + 512, 30_720] {
            assert_eq!(matches(folder.path(), length).unwrap(), Ok(5), "{length}");
        }
        for length in [0, exact - 512, exact + 1024, 20_480, 40_960] {
            assert!(matches(folder.path(), length).unwrap().is_err(), "{length}");
        }
    }

    #[test]
    fn one_file_is_told_in_the_singular() {
        for (sizes, said) in
            [(&[100][..], "its 1 file makes a tar of 10240 bytes"), (&[1, 2], "its 2 files make a tar of ")]
        {
            let why = matches(folder_of(sizes).path(), 20_480).unwrap().unwrap_err();
            assert!(why.starts_with(said), "{why}");
        }
    }

    #[test]
    fn dot_files_do_not_count_and_folders_do_not_pass() {
        let folder = folder_of(&[100]);
        fs::write(folder.path().join(".DS_Store"), [0; 6148]).unwrap();
        assert_eq!(matches(folder.path(), 10_240).unwrap(), Ok(1));
        fs::create_dir(folder.path().join("more")).unwrap();
        assert!(matches(folder.path(), 10_240).unwrap().is_err());
        assert!(matches(tempfile::tempdir().unwrap().path(), 10_240).unwrap().is_err(), "nothing proves nothing");
    }
}

//! The state of a class's final name before its download: see [`ExistingFolder`].
//!
//! A folder is proved by its manifest, or by the length of the origin's tar, which the sizes of its
//! files must add up to. A manifest proves a folder if it is valid: this program wrote it for this
//! class, it is undamaged, and no other user of the host can have put it there.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

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
        comparison::{Compared, FirstDifference, compare, is_content_file},
        digest::digest,
        manifest::{self, Listed, MANIFEST, Manifest},
        target::{self, Target},
        target_users::TargetUsers,
    },
};

/// The conflict of a tar that cannot be renamed to make room for the class's tar.
pub(crate) const TAR_OF_ANOTHER: &str =
    "the file under the tar's name is another user's and cannot be renamed";
/// Length in bytes of the end marker of a tar: two blocks of zeros.
const END_MARKER: u64 = 1024;
/// Length in bytes of a record. Most programs pad a tar to a multiple of it.
const RECORD: u64 = 10_240;

/// What is under a class's final name, as `--existing` judges it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExistingFolder {
    /// Nothing, an empty folder, or a folder that `--existing replace` replaces.
    NothingToKeep,
    /// A folder with a valid manifest. The names, number and sizes of its files agree with it,
    /// unless `--existing trust` accepts it without a comparison.
    Complete(Manifest),
    /// A folder that is not proved, and that `--existing trust` takes as it is.
    Trusted,
    /// A folder whose files differ from its manifest, or that `verify --repair` has marked.
    Differs(FirstDifference),
    /// A folder that the origin must prove.
    Unproved(Unproved),
    /// Something that is never touched, and the reason.
    InTheWay(String),
}

/// Why no manifest proves a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unproved {
    /// There is none: another tool or a person made the folder.
    #[error("the folder has no manifest")]
    WithoutManifest,
    /// Another user made the folder, in a target that every user can write to.
    #[error("the folder is another user's, so its manifest proves nothing")]
    OfAnotherUser,
}

/// Inspects the final name of a class; follows no link.
pub(crate) fn inspect(target: &Target, wnid: Wnid, job: &JobOptions) -> io::Result<ExistingFolder> {
    inspect_in(target.root(), &target.users()?, wnid, job)
}

/// As [`inspect`], in a target that is not open for work. `users`: which users can write to the
/// target.
///
/// Anything that would prevent publication is reported here, before the download. A complete class
/// needs no publication, so it is not checked.
pub(crate) fn inspect_in(
    root: &Path,
    users: &TargetUsers,
    wnid: Wnid,
    job: &JobOptions,
) -> io::Result<ExistingFolder> {
    let found = inspect_folder(root, users, wnid, job)?;
    let is_published = matches!(
        found,
        ExistingFolder::NothingToKeep | ExistingFolder::Differs(_)
    );
    if is_published && let Some(why) = in_the_way(root, users, wnid, job)? {
        return Ok(ExistingFolder::InTheWay(why));
    }
    Ok(found)
}

/// What of a class's final names this process can neither replace nor rename.
fn in_the_way(
    root: &Path,
    users: &TargetUsers,
    wnid: Wnid,
    job: &JobOptions,
) -> io::Result<Option<String>> {
    let folder = target::class_folder(root, wnid);
    // What cannot be inspected is treated as absent: publishing meets the same error and reports
    // it.
    if let Ok(found) = folder.symlink_metadata() {
        if !users.can_replace(&found) {
            let why = "the folder under the class's name is another user's and cannot be replaced";
            return Ok(Some(why.to_owned()));
        }
        // To move a folder to another parent, the system writes its entry `..`, which needs write
        // permission on the folder itself.
        if list(&folder)?.next().is_some()
            && let Err(error) = access(&folder, Access::WRITE_OK)
        {
            let error = explained(error.into(), [&folder]);
            return Ok(Some(format!(
                "the folder under the class's name cannot be replaced ({error})"
            )));
        }
    }
    if job.delete_tar {
        return Ok(None);
    }
    let Ok(found) = target::tar(root, wnid).symlink_metadata() else {
        return Ok(None);
    };
    let why = if !found.is_file() {
        Some("a folder or a link stands under the tar's name")
    } else if users.is_of_another(&found) && !users.can_replace(&found) {
        Some(TAR_OF_ANOTHER)
    } else {
        None
    };
    Ok(why.map(str::to_owned))
}

/// Inspects what is under the class's name, without what prevents its publication.
fn inspect_folder(
    root: &Path,
    users: &TargetUsers,
    wnid: Wnid,
    job: &JobOptions,
) -> io::Result<ExistingFolder> {
    let folder = target::class_folder(root, wnid);
    let found = match fs::symlink_metadata(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(ExistingFolder::NothingToKeep);
        }
        found => found?,
    };
    if !found.is_dir() {
        let kind = if found.is_symlink() {
            "symbolic link"
        } else {
            "file"
        };
        let why = format!("a {kind} stands under the class's name");
        return Ok(ExistingFolder::InTheWay(why));
    }
    let unproved = if users.is_of_another(&found) {
        Some(Unproved::OfAnotherUser)
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
        let is_damaged = folder.join(MANIFEST).symlink_metadata().is_ok();
        (!is_damaged).then_some(Unproved::WithoutManifest)
    };
    if unproved.is_some() && list(&folder)?.next().transpose()?.is_none() {
        return Ok(ExistingFolder::NothingToKeep);
    }
    Ok(unproved_folder(unproved, job.existing))
}

/// The state of a folder that is not empty and that no manifest proves. `why`: `None` if its
/// manifest is damaged.
fn unproved_folder(why: Option<Unproved>, existing: Existing) -> ExistingFolder {
    match (existing, why) {
        (Existing::Trust, _) => ExistingFolder::Trusted,
        (Existing::Replace, _) => ExistingFolder::NothingToKeep,
        (Existing::Adopt, Some(why)) => ExistingFolder::Unproved(why),
        (Existing::Adopt, None) => {
            ExistingFolder::InTheWay("its .manifest.json is damaged or was edited".to_owned())
        }
    }
}

/// Whether a tar whose entries have `entry_bytes` can have `tar_bytes`: the end marker follows, and
/// most programs pad with zeros to a whole record.
pub(crate) fn is_possible_tar_length(entry_bytes: u64, tar_bytes: u64) -> bool {
    let length = entry_bytes + END_MARKER;
    tar_bytes == length || tar_bytes == length.next_multiple_of(RECORD)
}

/// The length of a tar whose entries have `entry_bytes`, padded as most programs do.
pub(crate) fn padded_tar_length(entry_bytes: u64) -> u64 {
    (entry_bytes + END_MARKER).next_multiple_of(RECORD)
}

/// The number of files of a folder whose sizes add up to the whole tar, or why they do not, as part
/// of a sentence.
///
/// A tar of regular files has for each file a header block and the content in 512-byte blocks. Some
/// tars also have an entry for the folder itself.
pub(crate) fn compare_with_tar_length(
    folder: &Path,
    tar_bytes: u64,
) -> io::Result<Result<u64, String>> {
    let mut files = 0_u64;
    let mut blocks = 0_u64;
    for entry in content(folder)? {
        let (name, metadata) = entry?;
        if !metadata.is_file() {
            return Ok(Err(format!("{name} in it is no plain file")));
        }
        files += 1;
        blocks += 512 + metadata.len().next_multiple_of(512);
    }
    if files > 0
        && [0, 512]
            .iter()
            .any(|entry| is_possible_tar_length(blocks + entry, tar_bytes))
    {
        return Ok(Ok(files));
    }
    let files_make = if files == 1 {
        "file makes"
    } else {
        "files make"
    };
    let length = padded_tar_length(blocks);
    Ok(Err(format!(
        "its {files} {files_make} a tar of {length} bytes and the origin's has {tar_bytes}"
    )))
}

/// Writes the manifest of a folder that the origin has proved.
pub(crate) fn adopt(folder: &Path, wnid: Wnid, run: &str, source: &Source) -> io::Result<Manifest> {
    let files = content(folder)?.map(|entry| {
        let (name, metadata) = entry?;
        let blake3 = digest(open_regular(&folder.join(&name))?)?;
        Ok(Listed {
            name,
            size: metadata.len(),
            blake3,
        })
    });
    let mut manifest = Manifest::new(wnid, run, source);
    manifest.adopted = true;
    manifest::write(folder, manifest, files)
}

/// The entries of a folder that are content. Fails at a name that is not valid UTF-8, because no
/// manifest can list it.
fn content(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<(String, fs::Metadata)>>> {
    let entries = list(folder)?.map(|entry| {
        let entry = entry?;
        let unreadable = || {
            let why = format!("{} is no UTF-8", entry.name().display());
            io::Error::new(ErrorKind::InvalidData, why)
        };
        let name = entry.text().ok_or_else(unreadable)?.to_owned();
        Ok((name, entry.path().symlink_metadata()?))
    });
    Ok(entries.filter(|entry| {
        entry
            .as_ref()
            .map_or(true, |(name, _)| is_content_file(name.as_ref()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(sizes: &[usize]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (number, size) in sizes.iter().enumerate() {
            fs::write(
                folder.path().join(format!("n_{number}.JPEG")),
                vec![0; *size],
            )
            .unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_without_proof_is_judged_by_existing_alone() {
        let why = Some(Unproved::WithoutManifest);
        for (existing, why, expected) in [
            (Existing::Trust, why, ExistingFolder::Trusted),
            (Existing::Trust, None, ExistingFolder::Trusted),
            (Existing::Replace, why, ExistingFolder::NothingToKeep),
            (Existing::Replace, None, ExistingFolder::NothingToKeep),
            (
                Existing::Adopt,
                why,
                ExistingFolder::Unproved(Unproved::WithoutManifest),
            ),
        ] {
            assert_eq!(unproved_folder(why, existing), expected, "{existing:?}");
        }
        let damaged = unproved_folder(None, Existing::Adopt);
        assert!(
            matches!(damaged, ExistingFolder::InTheWay(_)),
            "{damaged:?}"
        );
    }

    #[test]
    fn files_whose_sizes_add_up_to_the_tar_match() {
        let folder = folder_of(&[0, 1, 512, 513, 20_000]);
        let exact = 5 * 512 + 512 + 512 + 1024 + 20_480 + 1024;
        for length in [exact, exact + 512, 30_720] {
            assert_eq!(
                compare_with_tar_length(folder.path(), length).unwrap(),
                Ok(5),
                "{length}"
            );
        }
        for length in [0, exact - 512, exact + 1024, 20_480, 40_960] {
            assert!(
                compare_with_tar_length(folder.path(), length)
                    .unwrap()
                    .is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn the_message_for_one_file_is_in_the_singular() {
        for (sizes, said) in [
            (&[100][..], "its 1 file makes a tar of 10240 bytes"),
            (&[1, 2], "its 2 files make a tar of "),
        ] {
            let why = compare_with_tar_length(folder_of(sizes).path(), 20_480)
                .unwrap()
                .unwrap_err();
            assert!(why.starts_with(said), "{why}");
        }
    }

    #[test]
    fn hidden_files_do_not_count_and_folders_do_not_match() {
        let folder = folder_of(&[100]);
        fs::write(folder.path().join(".DS_Store"), [0; 6148]).unwrap();
        assert_eq!(
            compare_with_tar_length(folder.path(), 10_240).unwrap(),
            Ok(1)
        );
        fs::create_dir(folder.path().join("more")).unwrap();
        assert!(
            compare_with_tar_length(folder.path(), 10_240)
                .unwrap()
                .is_err()
        );
        assert!(
            compare_with_tar_length(tempfile::tempdir().unwrap().path(), 10_240)
                .unwrap()
                .is_err(),
            "an empty folder proves nothing"
        );
    }
}

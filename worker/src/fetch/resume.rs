//! Resumes a class: moves what earlier attempts left into the staging folder of a new attempt, as
//! far as it is valid and belongs to the same version of the tar.

use std::{fs, io, path::Path};

use shared::{
    Wnid,
    own_file::{self, Access},
};

use crate::{
    extract::StagedTar,
    source::Source,
    storage::{
        digest::digest,
        file_tree::move_folder,
        journal::{self, FileEntry, Journal, Line, is_plain_file},
        part_file::{self, FoundPart},
        partial_file::{PartialFile, ProvedPartialFile},
        staging::{Staging, is_folder, left_behind},
        target::Target,
    },
};

/// The valid results of earlier attempts, from which a new attempt resumes.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The version of the tar to which they belong.
    pub(crate) source: Source,
    /// Number of finished files.
    pub(crate) files: u64,
    /// The partial file after them, if there is one.
    pub(crate) begun: Option<ProvedPartialFile>,
    /// Offset in the tar at which to resume: the next header, or the rest of the partial file.
    pub(crate) position: u64,
    /// Parts of the tar after `position`.
    pub(crate) parts: Vec<FoundPart>,
}

/// Creates a staging folder and moves into it what earlier attempts at the class left, as far as it
/// is valid and belongs to the same URL. `with_tar`: the tar is kept, so only what the staged tar
/// also contains is used.
pub(crate) fn take_over(
    target: &Target,
    wnid: Wnid,
    url: &str,
    with_tar: bool,
) -> io::Result<(Staging, Option<Checkpoint>)> {
    let staging = Staging::create(target, wnid)?;
    let mut former = Vec::new();
    for left in left_behind(target, wnid, Some(&staging))? {
        if let Some(former_folder) = staging.claim(&left)? {
            former.push(former_folder);
        }
    }
    // If an attempt was killed during this function, its files and its parts may be in two folders.
    let mut checkpoint: Option<Checkpoint> = None;
    for left in &former {
        if checkpoint.as_ref().is_none_or(|known| known.position == 0) {
            let found = adopt(&staging, left, wnid, url, with_tar)?;
            checkpoint = found
                .filter(|found| found.position > 0 || checkpoint.is_none())
                .or(checkpoint);
        }
    }
    for left in former {
        if let Some(Checkpoint { source, parts, .. }) = &mut checkpoint {
            parts.extend(part_file::adopt(&left.parts(), &staging.parts(), source)?);
        }
        // A folder that an interrupted attempt was about to replace stays in the staging folder
        // until the new class folder is published.
        if is_folder(&left.replaced()) && !is_folder(&staging.replaced()) {
            move_folder(&left.replaced(), &staging.replaced())?;
        }
        // The removal can fail: an earlier attempt may still write, or a file may be open on a
        // network disk.
        if let Err(error) = left.remove() {
            tracing::info!(%wnid, %error, "a former staging folder stays until the end of the job");
        }
    }
    let is_worth_it = |found: &Checkpoint| found.position > 0 || !found.parts.is_empty();
    Ok((staging, checkpoint.filter(is_worth_it)))
}

/// Moves the valid files of an earlier attempt into the new staging folder; none if its checkpoint
/// is at offset 0.
fn adopt(
    staging: &Staging,
    left: &Staging,
    wnid: Wnid,
    url: &str,
    with_tar: bool,
) -> io::Result<Option<Checkpoint>> {
    let Some((source, entries)) = journal::open(&left.journal()) else {
        return Ok(None);
    };
    if source.url != url || source.validator().is_none() {
        return Ok(None);
    }
    let mut journal = Journal::create(&staging.journal(), &source)?;
    let mut tar = if with_tar {
        let Some(tar) = StagedTar::open(&left.tar(), &staging.tar(), wnid, source.length)? else {
            return staging.clear().map(|()| None);
        };
        Some(tar)
    } else {
        None
    };
    let mut checkpoint = Checkpoint {
        source,
        files: 0,
        begun: None,
        position: 0,
        parts: Vec::new(),
    };
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
        if !is_valid(&entry, &file) {
            break;
        }
        if let Some(tar) = &mut tar
            && !tar.copy(&entry)?
        {
            break;
        }
        move_file(&file, &staging.class_folder().join(&entry.name))?;
        journal.append(&entry)?;
        checkpoint.files += 1;
        checkpoint.position = entry.next_header;
        begun = None;
    }
    journal.flush()?;
    if let Some(beginning) = begun {
        adopt_begun(
            staging,
            left,
            &beginning,
            &mut checkpoint,
            &mut tar,
            &mut journal,
        )?;
    }
    if let Some(tar) = &tar {
        tar.truncate(checkpoint.position)?;
    }
    if checkpoint.position == 0 {
        staging.clear()?;
    }
    Ok(Some(checkpoint))
}

/// Moves the partial file of an earlier attempt if it is valid.
fn adopt_begun(
    staging: &Staging,
    left: &Staging,
    beginning: &PartialFile,
    checkpoint: &mut Checkpoint,
    tar: &mut Option<StagedTar>,
    journal: &mut Journal,
) -> io::Result<()> {
    let file = left.class_folder().join(&beginning.name);
    let Some(begun) = beginning.verify(&file)? else {
        return Ok(());
    };
    if let Some(tar) = tar
        && !tar.copy_partial(beginning)?
    {
        return Ok(());
    }
    move_file(&file, &staging.class_folder().join(&beginning.name))?;
    journal.note_beginning(beginning)?;
    checkpoint.begun = Some(begun);
    checkpoint.position = beginning.position;
    Ok(())
}

/// Whether a finished file exists with the content that the journal records.
fn is_valid(entry: &FileEntry, path: &Path) -> bool {
    let is_whole = is_plain_file(path, &entry.name)
        && fs::metadata(path).is_ok_and(|found| found.len() == entry.size);
    is_whole
        && own_file::open(path, Access::Read)
            .and_then(digest)
            .is_ok_and(|found| found == entry.blake3)
}

/// Moves a file from an earlier staging folder. If the file system supports hard links, the file
/// also stays in the earlier folder until that is removed: if this process is killed before its own
/// journal names the file, the earlier checkpoint remains valid.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::rename(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://origin/n00000001.tar";

    /// The state that a killed process leaves: two finished files and a partial one.
    fn killed(target: &Target, wnid: Wnid) -> io::Result<Staging> {
        let staging = Staging::create(target, wnid)?;
        let source = Source {
            url: URL.to_owned(),
            length: Some(9999),
            etag: Some("\"one\"".to_owned()),
            ..Source::default()
        };
        let mut journal = Journal::create(&staging.journal(), &source)?;
        for (number, name) in (1..).zip(["a", "b"]) {
            fs::write(staging.class_folder().join(name), name)?;
            let blake3 = blake3::hash(name.as_bytes());
            journal.append(&FileEntry {
                name: name.to_owned(),
                size: 1,
                blake3,
                next_header: number * 1024,
            })?;
        }
        fs::write(
            staging.class_folder().join("c"),
            "content that no line names",
        )?;
        let name = "c".to_owned();
        let blake3 = blake3::hash(b"content");
        journal.note_beginning(&PartialFile {
            name,
            size: 100,
            written: 7,
            blake3,
            position: 2048 + 512 + 7,
        })?;
        Ok(staging)
    }

    #[test]
    fn an_attempt_killed_before_it_writes_its_journal_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let wnid = "n00000001".parse().unwrap();
        let former = killed(&target, wnid).unwrap();
        let second = Staging::create(&target, wnid).unwrap();
        assert_eq!(
            adopt(&second, &former, wnid, URL, false)
                .unwrap()
                .unwrap()
                .position,
            2567
        );
        let journal = fs::read_to_string(second.journal()).unwrap();
        fs::write(
            second.journal(),
            journal.lines().next().unwrap().to_owned() + "\n",
        )
        .unwrap();

        let (third, checkpoint) = take_over(&target, wnid, URL, false).unwrap();
        let Checkpoint {
            files, position, ..
        } = checkpoint.unwrap();
        assert_eq!((files, position), (2, 2567));
        for (name, content) in [("a", "a"), ("b", "b"), ("c", "content")] {
            assert_eq!(
                fs::read_to_string(third.class_folder().join(name)).unwrap(),
                content
            );
        }
        assert!(!former.class_folder().exists() && !second.class_folder().exists());
    }
}

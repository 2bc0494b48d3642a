//! Resumes a class: moves what earlier attempts left into the staging folder of a new attempt, as
//! far as it is valid and belongs to the same version of the tar.

use std::{fs, io, path::Path};

use shared::{
    Wnid,
    own_file::{self, Access},
};

use crate::{
    extract::{StagedTar, Start},
    storage::{
        digest::digest,
        file_tree::move_entry,
        journal::{self, FileEntry, Journal, Line, is_plain_file},
        part_file::{self, FoundPart},
        staging::{Staging, is_folder, left_behind},
        target::Target,
    },
};

/// The valid results of earlier attempts, from which a new attempt resumes.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) start: Start,
    /// Parts of the tar after the start's offset.
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
    let mut start: Option<Start> = None;
    for left in &former {
        if start.as_ref().is_none_or(|known| known.offset == 0) {
            let found = adopt(&staging, left, wnid, url, with_tar)?;
            start = found
                .filter(|found| found.offset > 0 || start.is_none())
                .or(start);
        }
    }
    let mut parts = Vec::new();
    for left in former {
        if let Some(Start { source, .. }) = &start {
            parts.extend(part_file::adopt(&left.parts(), &staging.parts(), source)?);
        }
        // A folder that an interrupted attempt was about to replace stays in the staging folder
        // until the new class folder is published.
        if is_folder(&left.replaced()) && !is_folder(&staging.replaced()) {
            move_entry(&left.replaced(), &staging.replaced())?;
        }
        // The removal can fail: an earlier attempt may still write, or a file may be open on a
        // network disk.
        if let Err(error) = left.remove() {
            tracing::info!(%wnid, %error, "a former staging folder stays until the end of the job");
        }
    }
    let checkpoint = start
        .filter(|start| start.offset > 0 || !parts.is_empty())
        .map(|start| Checkpoint { start, parts });
    Ok((staging, checkpoint))
}

/// Moves the valid files of an earlier attempt into the new staging folder; none if its checkpoint
/// is at offset 0.
fn adopt(
    staging: &Staging,
    left: &Staging,
    wnid: Wnid,
    url: &str,
    with_tar: bool,
) -> io::Result<Option<Start>> {
    let Some((source, mut lines)) = journal::open(&left.journal()) else {
        return Ok(None);
    };
    if source.url != url || source.validator().is_none() {
        return Ok(None);
    }
    let mut journal = Journal::create(&staging.journal(), &source)?;
    let mut tar = None;
    if with_tar {
        tar = StagedTar::open(&left.tar(), &staging.tar(), wnid, source.length)?;
        if tar.is_none() {
            return staging.clear().map(|()| None);
        }
    }
    let move_file = |name: &String| {
        let to = staging.class_folder().join(name);
        move_file(&left.class_folder().join(name), &to)
    };
    let mut start = Start::of(source);
    let mut unfinished = None;
    while let Some(line) = lines.next_line() {
        let entry = match line {
            Line::Finished(entry) => entry,
            Line::Begun(beginning) => {
                unfinished = Some(beginning);
                continue;
            }
        };
        let is_proved = is_valid(&entry, &left.class_folder().join(&entry.name))
            && tar.as_mut().map_or(Ok(true), |tar| tar.copy(&entry))?;
        if !is_proved {
            break;
        }
        move_file(&entry.name)?;
        journal.append(&entry)?;
        start.files += 1;
        start.offset = entry.next_header;
        unfinished = None;
    }
    journal.flush()?;
    // The partial file after them.
    if let Some(beginning) = unfinished
        && let Some(begun) = beginning.verify(&left.class_folder().join(&beginning.name))?
        && tar
            .as_mut()
            .map_or(Ok(true), |tar| tar.copy_partial(&beginning))?
    {
        move_file(&beginning.name)?;
        journal.note_beginning(&beginning)?;
        start.offset = beginning.position;
        start.begun = Some(begun);
    }
    if let Some(tar) = &tar {
        tar.truncate(start.offset)?;
    }
    if start.offset == 0 {
        staging.clear()?;
    }
    Ok(Some(start))
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
    use crate::{source::Source, storage::partial_file::PartialFile};

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
                .offset,
            2567
        );
        let journal = fs::read_to_string(second.journal()).unwrap();
        fs::write(
            second.journal(),
            journal.lines().next().unwrap().to_owned() + "\n",
        )
        .unwrap();

        let (third, checkpoint) = take_over(&target, wnid, URL, false).unwrap();
        let Checkpoint { start, .. } = checkpoint.unwrap();
        assert_eq!((start.files, start.offset), (2, 2567));
        for (name, content) in [("a", "a"), ("b", "b"), ("c", "content")] {
            assert_eq!(
                fs::read_to_string(third.class_folder().join(name)).unwrap(),
                content
            );
        }
        assert!(!former.class_folder().exists() && !second.class_folder().exists());
    }
}

//! What earlier attempts at a class have left is moved into the staging folder of a new one, as far
//! as it proves right and belongs to the same version of the tar.

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
        part_file::{self, Found},
        partial_file::{Beginning, BegunFile},
        staging::{Staging, is_folder, left_behind},
        target::Target,
    },
};

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

/// Makes a staging folder and moves into it what earlier attempts at the class have left, if it proves right and
/// belongs to the same URL. `with_tar`: the tar is kept, so its first part must be there too.
pub(crate) fn take_over(
    target: &Target,
    wnid: Wnid,
    url: &str,
    with_tar: bool,
) -> io::Result<(Staging, Option<Checkpoint>)> {
    let staging = Staging::create(target, wnid)?;
    let mut former = Vec::new();
    for left in left_behind(target, wnid, &staging)? {
        if let Some(former_folder) = staging.claim(&left)? {
            former.push(former_folder);
        }
    }
    // Of one that was killed while it took over, the files and the parts may be in two folders.
    let mut checkpoint: Option<Checkpoint> = None;
    for left in &former {
        if checkpoint.as_ref().is_none_or(|known| known.position == 0) {
            let found = adopt(&staging, left, wnid, url, with_tar)?;
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
fn adopt(staging: &Staging, left: &Staging, wnid: Wnid, url: &str, with_tar: bool) -> io::Result<Option<Checkpoint>> {
    let Some((source, entries)) = journal::open(&left.journal()) else { return Ok(None) };
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
        if !holds(&entry, &file) {
            break;
        }
        if let Some(tar) = &mut tar
            && !tar.copy(&entry)?
        {
            break;
        }
        take(&file, &staging.class_folder().join(&entry.name))?;
        journal.append(&entry)?;
        checkpoint.files += 1;
        checkpoint.position = entry.next_header;
        begun = None;
    }
    journal.flush()?;
    if let Some(beginning) = begun {
        adopt_begun(staging, left, &beginning, &mut checkpoint, &mut tar, &mut journal)?;
    }
    if let Some(tar) = &tar {
        tar.cut(checkpoint.position)?;
    }
    if checkpoint.position == 0 {
        staging.clear()?;
    }
    Ok(Some(checkpoint))
}

/// Goes on within a file, if what the former attempt has left of it holds.
fn adopt_begun(
    staging: &Staging,
    left: &Staging,
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
    take(&file, &staging.class_folder().join(&beginning.name))?;
    journal.note_beginning(beginning)?;
    checkpoint.begun = Some(begun);
    checkpoint.position = beginning.position;
    Ok(())
}

/// Whether a finished file is there with the contents that the journal says.
fn holds(entry: &FileEntry, path: &Path) -> bool {
    let is_whole = is_plain_file(path, &entry.name) && fs::metadata(path).is_ok_and(|found| found.len() == entry.size);
    is_whole && own_file::open(path, Access::Read).and_then(digest).is_ok_and(|found| found == entry.blake3)
}

/// Gives a file of a former folder its place here. Where the file system has links it stays there too, until that folder goes as
/// a whole: a process that is killed before its own journal names the file leaves the former checkpoint as good as it was.
fn take(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::rename(from, to))
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
        assert_eq!(adopt(&second, &former, wnid, URL, false).unwrap().unwrap().position, 2567);
        let journal = fs::read_to_string(second.journal()).unwrap();
        fs::write(second.journal(), journal.lines().next().unwrap().to_owned() + "\n").unwrap();

        let (third, checkpoint) = take_over(&target, wnid, URL, false).unwrap();
        let Checkpoint { files, position, .. } = checkpoint.unwrap();
        assert_eq!((files, position), (2, 2567));
        for (name, content) in [("a", "a"), ("b", "b"), ("c", "content")] {
            assert_eq!(fs::read_to_string(third.class_folder().join(name)).unwrap(), content);
        }
        assert!(!former.class_folder().exists() && !second.class_folder().exists());
    }
}

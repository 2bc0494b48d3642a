//! Snapshots of target folders, to detect changes.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Name, kind, mode and contents of everything below a folder.
pub type Snapshot = BTreeMap<PathBuf, SnapshotEntry>;

/// One entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotEntry {
    /// A file: mode and contents.
    File(u32, Vec<u8>),
    /// A folder: mode.
    Folder(u32),
    /// A symbolic link: its target.
    Link(PathBuf),
    /// Any other file type: mode.
    Special(u32),
}

/// Everything below a folder; empty if the folder does not exist.
pub fn snapshot(folder: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    collect(folder, folder, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Snapshot) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let metadata = path
            .symlink_metadata()
            .expect("no other process changes this folder");
        let thing = if metadata.is_symlink() {
            SnapshotEntry::Link(fs::read_link(&path).expect("the entry is a link"))
        } else if metadata.is_dir() {
            collect(root, &path, found);
            SnapshotEntry::Folder(metadata.mode() & 0o7777)
        } else if metadata.is_file() {
            SnapshotEntry::File(
                metadata.mode() & 0o7777,
                fs::read(&path).expect("the file can be read"),
            )
        } else {
            SnapshotEntry::Special(metadata.mode())
        };
        found.insert(
            path.strip_prefix(root)
                .expect("the path is below the root")
                .to_owned(),
            thing,
        );
    }
}

/// The class folders that have their final names.
pub fn classes(target: &Path) -> Vec<String> {
    let names = fs::read_dir(target)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name.starts_with('n') && !name.contains('.'));
    names.sort();
    names
}

/// The tars in a target.
pub fn tars(target: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(target)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect()
}

/// Whether the folder contains this name at any depth; entries that vanish during the search are
/// ignored.
pub fn holds(folder: &Path, name: &str) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        entry.file_name() == name || (is_folder && holds(&entry.path(), name))
    })
}

/// The longest file at any depth; entries that vanish during the search are ignored.
pub fn longest_file(folder: &Path) -> Option<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let path = entry.path();
        let metadata = entry.path().symlink_metadata().ok()?;
        if metadata.is_dir() {
            longest_file(&path)
        } else {
            Some((metadata.len(), path))
        }
    });
    found.max()
}

/// The staging folder: beside the target, or in the target where no other place is possible.
pub fn staging(target: &Path) -> PathBuf {
    let in_target = target.join(".partial");
    let beside = target.canonicalize().ok().and_then(|target| {
        let name = format!(".{}.partial", target.file_name()?.to_string_lossy());
        Some(target.parent()?.join(name))
    });
    beside.filter(|_| !in_target.exists()).unwrap_or(in_target)
}

/// Panics unless staging and journals are removed, as they must be after a job.
#[track_caller]
pub fn assert_no_partial(target: &Path) {
    let left = staging(target);
    assert!(
        !left.exists(),
        "{} is left behind: {:#?}",
        left.display(),
        snapshot(&left).keys()
    );
    for name in [".imagenet_downloader.storage", ".imagenet_downloader.probe"] {
        assert!(!target.join(name).exists(), "{name} is left behind");
    }
}

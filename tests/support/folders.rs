//! What stands in a target folder, and whether any of it has changed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Name, kind, mode and contents of everything below a folder.
pub type Snapshot = BTreeMap<PathBuf, Thing>;

/// One thing in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// A file: mode and contents.
    File(u32, Vec<u8>),
    /// A folder: mode.
    Folder(u32),
    /// A symbolic link: where it leads.
    Link(PathBuf),
    /// Anything else.
    Special(u32),
}

/// Everything below a folder as it is now; nothing if there is no such folder.
pub fn snapshot(folder: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    collect(folder, folder, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Snapshot) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let metadata = path.symlink_metadata().expect("nobody else works here");
        let thing = if metadata.is_symlink() {
            Thing::Link(fs::read_link(&path).expect("it is a link"))
        } else if metadata.is_dir() {
            collect(root, &path, found);
            Thing::Folder(metadata.mode() & 0o7777)
        } else if metadata.is_file() {
            Thing::File(metadata.mode() & 0o7777, fs::read(&path).expect("it can be read"))
        } else {
            Thing::Special(metadata.mode())
        };
        found.insert(path.strip_prefix(root).expect("it is below").to_owned(), thing);
    }
}

/// The class folders that stand under their final names.
pub fn classes(target: &Path) -> Vec<String> {
    let names = fs::read_dir(target).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with('n') && !name.contains('.'));
    names.sort();
    names
}

/// The tars in a target.
pub fn tars(target: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(target).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "tar")).collect()
}

/// Whether the folder holds something with this name at any depth; what vanishes while it is looked at does not count.
pub fn holds(folder: &Path, name: &str) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        entry.file_name() == name || (is_folder && holds(&entry.path(), name))
    })
}

/// The longest file at any depth; what vanishes while it is looked at does not count.
pub fn longest_file(folder: &Path) -> Option<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let (path, metadata) = (entry.path(), entry.path().symlink_metadata().ok()?);
        if metadata.is_dir() { longest_file(&path) } else { Some((metadata.len(), path)) }
    });
    found.max()
}

/// The folder in which classes are put together: beside the target, or in it where it can be
/// nowhere else.
pub fn staging(target: &Path) -> PathBuf {
    let in_target = target.join(".partial");
    let beside = target.canonicalize().ok().and_then(|target| {
        let name = format!(".{}.partial", target.file_name()?.to_string_lossy());
        Some(target.parent()?.join(name))
    });
    beside.filter(|_| !in_target.exists()).unwrap_or(in_target)
}

/// Staging and checkpoints are gone once a job is done, and so is what went with them.
#[track_caller]
pub fn assert_no_partial(target: &Path) {
    let left = staging(target);
    assert!(!left.exists(), "{} is left behind: {:#?}", left.display(), snapshot(&left).keys());
    for name in [".imagenet_downloader.storage", ".imagenet_downloader.probe"] {
        assert!(!target.join(name).exists(), "{name} is left behind");
    }
}

//! A target as folder loaders see it (torchvision's `ImageFolder`, timm): each folder in it is a class.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    mem::MaybeUninit,
    path::{Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
};

use crate::archives::{MANIFEST, difference};

/// Watches a target from now on. The kernel reports each folder that appears, however short it is there.
#[derive(Debug)]
pub struct LoaderView {
    target: PathBuf,
    tars: BTreeMap<String, Vec<u8>>,
    events: OwnedFd,
    /// Classes whose folders were compared with their tars.
    complete: BTreeSet<String>,
}

impl LoaderView {
    /// Watches a target that is there already, into which these classes are downloaded.
    pub fn of(target: &Path, tars: &[(String, Vec<u8>)]) -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("an inotify descriptor");
        let appears = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, target, appears | WatchFlags::ONLYDIR).expect("the target is there");
        let (target, tars) = (target.to_owned(), tars.iter().cloned().collect());
        Self { target, tars, events, complete: BTreeSet::new() }
    }

    /// Panics unless every folder that is in the target, or was since the last look, is a complete class.
    #[track_caller]
    pub fn assert_only_complete_classes(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.events, &mut buffer);
        while let Ok(event) = events.next() {
            let (flags, name) = (event.events(), event.file_name().unwrap_or_default().to_string_lossy());
            assert!(!flags.contains(ReadFlags::QUEUE_OVERFLOW), "events were lost");
            if flags.contains(ReadFlags::ISDIR) {
                assert!(!flags.contains(ReadFlags::CREATE), "a folder was made in the target: {name}");
                assert!(
                    self.tars.contains_key(&*name),
                    "a folder that is no class was renamed into the target: {name}"
                );
            }
        }
        for entry in fs::read_dir(&self.target).expect("the target is there").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // As os.scandir's `is_dir` does, this follows links.
            if !entry.path().is_dir() || self.complete.contains(&name) {
                continue;
            }
            let tar = self.tars.get(&name).unwrap_or_else(|| panic!("{name} is no class"));
            assert_eq!(difference(tar, &entry.path()), None, "{name}");
            assert!(entry.path().join(MANIFEST).is_file(), "{name} has no manifest");
            self.complete.insert(name);
        }
    }

    /// How many classes a loader finds.
    pub fn classes(&self) -> usize {
        self.complete.len()
    }
}

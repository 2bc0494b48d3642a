//! A target as dataset loaders see it (torchvision's `ImageFolder`, timm): each folder in it is a
//! class.

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

/// Watches a target with inotify. The kernel reports each folder that appears, even if it exists
/// only for a moment.
#[derive(Debug)]
pub struct LoaderView {
    target: PathBuf,
    tars: BTreeMap<String, Vec<u8>>,
    events: OwnedFd,
    /// Number of folders per name: during an exchange of two folders there are two for a moment,
    /// never none.
    folders: BTreeMap<String, u32>,
    /// Classes whose folders were compared with their tars.
    complete: BTreeSet<String>,
}

impl LoaderView {
    /// Watches an existing target into which these classes are downloaded.
    pub fn of(target: &Path, tars: &[(String, Vec<u8>)]) -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .expect("an inotify descriptor");
        let appears = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let vanishes = WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        inotify::add_watch(&events, target, appears | vanishes | WatchFlags::ONLYDIR)
            .expect("the target exists");
        let tars = tars.iter().cloned().collect();
        let folders = folders(target).map(|name| (name, 1)).collect();
        Self {
            target: target.to_owned(),
            tars,
            events,
            folders,
            complete: BTreeSet::new(),
        }
    }

    /// Panics unless every folder that is in the target, or was there since the last check, is a
    /// complete class.
    #[track_caller]
    pub fn assert_only_complete_classes(&mut self) {
        self.assert_no_folder_was_made_or_vanished();
        for name in folders(&self.target) {
            if self.complete.contains(&name) {
                continue;
            }
            let tar = self
                .tars
                .get(&name)
                .unwrap_or_else(|| panic!("{name} is no class"));
            assert_eq!(difference(tar, &self.target.join(&name)), None, "{name}");
            assert!(
                self.target.join(&name).join(MANIFEST).is_file(),
                "{name} has no manifest"
            );
            self.complete.insert(name);
        }
    }

    /// Panics if since the last check a folder was created in the target, or a folder lost its name
    /// without a replacement.
    #[track_caller]
    pub fn assert_no_folder_was_made_or_vanished(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.events, &mut buffer);
        while let Ok(event) = events.next() {
            let flags = event.events();
            let name = event
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            assert!(
                !flags.contains(ReadFlags::QUEUE_OVERFLOW),
                "events were lost"
            );
            if !flags.contains(ReadFlags::ISDIR) {
                continue;
            }
            assert!(
                !flags.contains(ReadFlags::CREATE),
                "a folder was made in the target: {name}"
            );
            let is_class = self.tars.contains_key(&name);
            let folders = self.folders.entry(name.clone()).or_default();
            if flags.contains(ReadFlags::MOVED_TO) {
                assert!(
                    is_class,
                    "{name} is not a class and was renamed into the target"
                );
                *folders += 1;
            } else {
                // In an exchange the kernel reports the new folder first.
                assert!(*folders > 1, "there was a moment without a folder {name}");
                *folders -= 1;
            }
        }
    }

    /// The number of classes that a loader finds.
    pub fn classes(&self) -> usize {
        self.complete.len()
    }
}

/// Folders as `os.scandir` and `is_dir` find them: symbolic links are followed.
fn folders(target: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(target).expect("the target exists").flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

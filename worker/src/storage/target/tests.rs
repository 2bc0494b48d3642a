use super::*;

/// A target in a folder of its own, which contains nothing else.
struct TargetFolder {
    folder: tempfile::TempDir,
    root: PathBuf,
}

impl TargetFolder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("target");
        Self { folder, root }
    }

    fn open(&self) -> Target {
        Target::open(&self.root, None).unwrap()
    }

    fn area(&self) -> PathBuf {
        self.folder.path().join(".target.partial")
    }

    /// Asserts that the target is empty again and that nothing is beside it.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let names = |folder: &Path| -> Vec<_> {
            fs::read_dir(folder)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect()
        };
        assert_eq!(names(self.folder.path()), ["target"]);
        assert_eq!(names(&self.root), [""; 0]);
    }
}

#[test]
fn an_area_in_use_by_another_process_stays() {
    let place = TargetFolder::new();
    let one = place.open();
    let other = place.open();
    fs::create_dir_all(one.staging().join("n00000001.1/class")).unwrap();
    assert!(one.has_neighbours() && other.has_neighbours());
    one.remove_staging();
    assert!(!other.has_neighbours());
    assert!(other.staging().join("n00000001.1").exists());
    other.remove_staging();
    place.assert_nothing_left();
}

#[test]
fn what_a_killed_process_has_left_blocks_no_other_process() {
    let place = TargetFolder::new();
    let target = place.open();
    assert_eq!(target.staging(), place.area());
    fs::write(target.staging().join("in-use.of-a-dead-process"), "").unwrap();
    for left in ["probe", "probe.renamed", "renamed"] {
        fs::create_dir(target.staging().join(left)).unwrap();
        fs::write(target.staging().join(left).join("file"), "probe").unwrap();
    }
    verify_usable(target.staging(), &place.root).unwrap();
    target.remove_staging();
    place.assert_nothing_left();
}

#[test]
fn a_cleared_storage_keeps_its_id_unless_another_process_has_made_a_new_one() {
    let place = TargetFolder::new();
    let one = place.open();
    let other = place.open();
    let id = one.storage_id();
    assert_eq!(other.storage_id(), id);
    let clear = || {
        fs::remove_dir_all(place.area()).unwrap();
        storage_id::remove(&place.root).unwrap();
    };
    clear();
    one.restore_staging().unwrap();
    assert!(
        !one.has_neighbours(),
        "only its own lock file was recreated"
    );
    assert_eq!(place.open().storage_id(), id);

    clear();
    let newcomer = place.open();
    other.restore_staging().unwrap();
    assert_ne!(newcomer.storage_id(), id);
    assert_eq!(other.storage_id(), newcomer.storage_id());
    assert!(
        newcomer.has_neighbours(),
        "the lock file of a process whose area was removed is recreated"
    );
}

#[test]
fn a_process_that_leaves_removes_nothing_of_one_that_enters() {
    let place = TargetFolder::new();
    let leaving = place.open();
    let entering = place.open();
    let probe = entering.staging().join("probe.0123456789abcdef");
    let empty = entering.staging().join("n00000001.0123456789abcdef");
    fs::create_dir(&probe).unwrap();
    fs::create_dir(&empty).unwrap();
    drop(leaving);
    assert!(probe.is_dir() && empty.is_dir());
    drop(entering);
    place.assert_nothing_left();
}

#[test]
fn every_path_to_a_target_has_the_same_area_and_storage_id() {
    let place = TargetFolder::new();
    let target = place.open();
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink(&place.root, &link).unwrap();
    for name in [
        link.clone(),
        link.join(""),
        link.join("."),
        place.root.join("../target/"),
    ] {
        let same = Target::open(&name, None).unwrap();
        assert_eq!(
            (same.storage_id(), same.staging()),
            (target.storage_id(), place.area().as_path()),
            "{name:?}"
        );
    }
}

#[test]
fn two_targets_in_one_folder_have_an_area_each() {
    let place = TargetFolder::new();
    let one = place.open();
    let other = Target::open(&place.folder.path().join("other"), None).unwrap();
    assert_ne!(one.staging(), other.staging());
    assert_ne!(one.storage_id(), other.storage_id());
    other.remove_staging();
    assert!(one.staging().exists());
}

#[test]
fn a_process_without_classes_leaves_only_the_files_of_others() {
    let place = TargetFolder::new();
    let one = place.open();
    let other = place.open();
    fs::create_dir_all(one.staging().join("n00000001.1/class")).unwrap();
    drop(one);
    assert!(place.area().join("n00000001.1").exists());
    drop(other);
    assert!(place.area().join("n00000001.1").exists(), "a checkpoint");
    let next = place.open();
    fs::remove_dir_all(next.staging().join("n00000001.1")).unwrap();
    fs::create_dir(next.staging().join("storage")).unwrap();
    drop(next);
    place.assert_nothing_left();
}

#[test]
fn an_error_of_one_class_does_not_blame_the_target() {
    let place = TargetFolder::new();
    let target = place.open();
    assert!(!target.is_at_fault(&ErrorKind::PermissionDenied.into()));
    assert!(target.is_at_fault(&ErrorKind::StorageFull.into()));
    fs::remove_dir_all(place.area()).unwrap();
    assert!(
        !target.is_at_fault(&ErrorKind::NotFound.into()),
        "another process has finished"
    );
    fs::remove_dir_all(&place.root).unwrap();
    assert!(target.is_at_fault(&ErrorKind::NotFound.into()));
    assert!(
        target.restore_staging().is_err(),
        "a target that is gone is not made again"
    );
    assert!(!place.root.exists());
}

#[test]
fn another_area_is_taken_over_unless_a_process_uses_it() {
    let place = TargetFolder::new();
    let former = place.root.join(".partial");
    fs::create_dir_all(former.join("n00000001.1/class")).unwrap();
    fs::create_dir_all(former.join("storage")).unwrap();
    fs::write(former.join("n00000001.1/journal"), "a").unwrap();
    fs::write(former.join("in-use.of-a-dead-process"), "").unwrap();
    let target = place.open();
    assert!(target.staging().join("n00000001.1/journal").exists());
    assert!(!former.exists());

    let other = StagingArea::enter(former.clone(), None).unwrap();
    fs::create_dir_all(former.join("n00000002.1/class")).unwrap();
    drop(place.open());
    target.remove_staging();
    assert!(former.join("n00000002.1").exists() && !place.area().exists());
    assert_eq!(
        place.open().storage_id(),
        target.storage_id(),
        "still known to the other process"
    );
    other.leave().unwrap();
    place.open().remove_staging();
    place.assert_nothing_left();
}

#[test]
fn a_folder_of_staging_is_used_or_refused_in_one_sentence() {
    let place = TargetFolder::new();
    let named = place.folder.path().join("staging/of-all");
    let target = Target::open(&place.root, Some(&named)).unwrap();
    let other = Target::open(&place.folder.path().join("other/target"), Some(&named)).unwrap();
    assert!(target.staging().starts_with(&named) && other.staging().starts_with(&named));
    assert_ne!(target.staging(), other.staging());
    for target in [target, other] {
        target.remove_staging();
    }
    assert_eq!(
        fs::read_dir(&named).unwrap().count(),
        0,
        "the named folder stays"
    );
    for inside in [
        place.root.clone(),
        place.root.join("new"),
        place.root.join("../target/new"),
    ] {
        let error = Target::open(&place.root, Some(&inside))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a loader would take it for a class"),
            "{error}"
        );
    }
    let error = Target::open(
        &place.root,
        Some(Path::new("/dev/shm/imagenet-staging-test")),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("it is on another file system"), "{error}");
    drop(fs::remove_dir("/dev/shm/imagenet-staging-test"));
    assert_eq!(fs::read_dir(&place.root).unwrap().count(), 0);
}

#[test]
fn a_file_or_a_link_under_the_areas_name_is_not_followed() {
    let place = TargetFolder::new();
    for way in ["file", "link"] {
        match way {
            "file" => fs::write(place.area(), "").unwrap(),
            _ => std::os::unix::fs::symlink("/tmp", place.area()).unwrap(),
        }
        let error = Target::open(&place.root, None).unwrap_err().to_string();
        assert!(
            error.contains(".target.partial") && error.contains("--staging"),
            "{error}"
        );
        fs::remove_file(place.area()).unwrap();
    }
}

#[test]
fn files_of_others_stay_beside_the_target_and_in_it() {
    let place = TargetFolder::new();
    let beside = place.area();
    for area in [beside.clone(), place.root.join(".partial")] {
        fs::create_dir_all(area.join("mine/empty")).unwrap();
        fs::write(area.join("mine/precious"), "").unwrap();
    }
    let target = place.open();
    fs::create_dir(target.staging().join("n00000001.1")).unwrap();
    target.remove_staging();
    drop(place.open());
    assert!(!beside.join("n00000001.1").exists());
    for area in [beside, place.root.join(".partial")] {
        assert!(area.join("mine/precious").exists() && area.join("mine/empty").exists());
        assert_eq!(
            fs::read_dir(&area).unwrap().count(),
            1,
            "only files of others stay"
        );
    }
}

#[test]
fn a_target_that_cannot_be_opened_is_left_unchanged() {
    let place = TargetFolder::new();
    fs::create_dir_all(place.root.join(".imagenet_downloader.storage/not ours")).unwrap();
    Target::open(&place.root, None).unwrap_err();
    assert!(!place.area().exists());
    assert!(!place.root.join(".partial").exists());
}

#[test]
fn a_probe_file_of_a_killed_process_in_the_target_is_removed() {
    let place = TargetFolder::new();
    fs::create_dir(&place.root).unwrap();
    let mine = place.root.join(".probe-mine");
    fs::write(&mine, "of the user").unwrap();
    fs::write(place.root.join(".probe-0123456789abcdef"), "probe").unwrap();
    let target = place.open();
    assert!(!place.root.join(".probe-0123456789abcdef").exists());
    assert!(mine.exists());
    fs::remove_file(mine).unwrap();
    target.remove_staging();
    place.assert_nothing_left();
}

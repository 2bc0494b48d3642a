//! A class folder that differs from its manifest does not count as complete: the difference is
//! reported, the class is downloaded again, and files that the manifest does not list are kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tests::{
    answer::Answer,
    archives::{MANIFEST, assert_class_is, images},
    cluster::{Job, Table},
    folders::snapshot,
    origin::Origin,
    running::Finished,
};

const CLASSES: [&str; 6] = [
    "n00000001",
    "n00000002",
    "n00000003",
    "n00000004",
    "n00000005",
    "n00000006",
];

fn tar(wnid: &str) -> Vec<u8> {
    images(wnid, 5, 11_000..20_000, 1)
}

/// A target with six complete classes.
fn finished(args: &[&str]) -> (Origin, Job) {
    let origin = Origin::start();
    for wnid in CLASSES {
        origin.class(wnid, tar(wnid));
    }
    let job = Job::new()
        .classes(CLASSES)
        .origin(&origin)
        .args(args.iter().copied());
    job.assert_ended(&job.run(), 0, Table::of(6, 0, 0));
    origin.forget_requests();
    (origin, job)
}

fn image(job: &Job, wnid: &str, number: u32) -> PathBuf {
    job.class_folder(wnid).join(format!("{wnid}_{number}.JPEG"))
}

fn set_len(path: &Path, length: u64) {
    let opened = fs::File::options().write(true).open(path);
    opened
        .and_then(|file| file.set_len(length))
        .expect("the folder is ours");
}

#[track_caller]
fn assert_prints(finished: &Finished, line: &str) {
    assert!(
        finished.stderr.contains(line),
        "{line:?} is not in:\n{}",
        finished.stderr
    );
}

/// The folder to which the job moves files that a manifest does not list.
fn set_aside(job: &Job) -> PathBuf {
    job.folder().join(".target.set-aside")
}

#[test]
fn classes_with_other_names_counts_or_sizes_of_files_are_downloaded_again() {
    for existing in ["adopt", "replace"] {
        let (origin, job) = finished(&["--delete-tar", "--existing", existing]);
        set_len(&image(&job, "n00000001", 2), 30_000);
        set_len(&image(&job, "n00000002", 2), 5);
        fs::remove_file(image(&job, "n00000003", 1)).unwrap();
        fs::rename(image(&job, "n00000004", 1), image(&job, "n00000004", 9)).unwrap();
        fs::remove_dir_all(job.class_folder("n00000005")).unwrap();

        let ended = job.run();
        job.assert_ended(&ended, 0, Table::of(5, 1, 0));
        let length = fs::metadata(image(&job, "n00000001", 2)).unwrap().len();
        assert_prints(
            &ended,
            &format!(
                "n00000001/n00000001_2.JPEG has 30000 bytes, the manifest says {length}: the class \
                 is fetched again"
            ),
        );
        assert_prints(
            &ended,
            "n00000003/n00000003_1.JPEG is missing: the class is fetched again",
        );
        assert_prints(
            &ended,
            "n00000004/n00000004_1.JPEG is missing: the class is fetched again",
        );
        assert_prints(
            &ended,
            "4 class folders differed from their manifests and were replaced",
        );
        for wnid in CLASSES {
            assert_class_is(&tar(wnid), &job.class_folder(wnid));
            assert_eq!(
                origin.gets(wnid).len(),
                usize::from(wnid != "n00000006"),
                "{wnid}"
            );
        }
        // The next run has nothing to do.
        origin.forget_requests();
        job.assert_ended(&job.run(), 0, Table::of(0, 6, 0));
        assert_eq!(origin.all_requests().len(), 0);
    }
}

#[test]
fn additional_files_are_detected_and_kept() {
    let (origin, job) = finished(&["--delete-tar"]);
    let folder = job.class_folder("n00000001");
    fs::write(folder.join("n00000001_99.JPEG"), "of the user").unwrap();
    fs::write(folder.join(".notes"), "hidden, of the user").unwrap();
    fs::create_dir(folder.join("more")).unwrap();
    fs::write(folder.join("more/deep"), "deep").unwrap();
    // The files that file managers write into each folder are ignored.
    for name in [".DS_Store", "Thumbs.db", "desktop.ini"] {
        fs::write(job.class_folder("n00000002").join(name), "x").unwrap();
        fs::write(folder.join(name), "x").unwrap();
    }

    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(1, 5, 0));
    assert_prints(
        &ended,
        &format!(
            "n00000001/more is not in the manifest: the class is fetched again, and files that are \
             not in the manifest are \
             moved to {}",
            set_aside(&job).display()
        ),
    );
    assert_prints(
        &ended,
        "n00000001: 3 entries are not in its manifest and kept in ",
    );
    assert_class_is(&tar("n00000001"), &folder);
    let kept = set_aside(&job).join("n00000001");
    assert_eq!(
        fs::read_to_string(kept.join("n00000001_99.JPEG")).unwrap(),
        "of the user"
    );
    assert_eq!(
        fs::read_to_string(kept.join(".notes")).unwrap(),
        "hidden, of the user"
    );
    assert_eq!(fs::read_to_string(kept.join("more/deep")).unwrap(), "deep");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 3);

    // A second set-aside folder of the same class has another name.
    fs::write(folder.join("n00000001_99.JPEG"), "again").unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    let again = set_aside(&job).join("n00000001.1/n00000001_99.JPEG");
    assert_eq!(fs::read_to_string(again).unwrap(), "again");
    assert_eq!(
        fs::read_to_string(kept.join("n00000001_99.JPEG")).unwrap(),
        "of the user"
    );
    assert_eq!(origin.gets("n00000001").len(), 2);
}

/// `--existing replace` applies only to folders without a manifest.
#[test]
fn replace_keeps_files_that_the_user_added_to_a_class() {
    let (_origin, job) = finished(&["--delete-tar", "--existing", "replace"]);
    fs::write(
        job.class_folder("n00000001").join("notes.txt"),
        "of the user",
    )
    .unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    assert_class_is(&tar("n00000001"), &job.class_folder("n00000001"));
    assert_eq!(
        fs::read_to_string(set_aside(&job).join("n00000001/notes.txt")).unwrap(),
        "of the user"
    );
}

/// An entry at the tar's path matters only if a tar is to be written.
#[test]
fn a_complete_class_is_skipped_even_if_the_path_of_its_tar_is_occupied() {
    let (origin, job) = finished(&["--delete-tar"]);
    let keeps_tars = job.args([]);
    let names = CLASSES.map(|wnid| keeps_tars.target_path().join(format!("{wnid}.tar")));
    std::os::unix::fs::symlink("elsewhere", &names[0]).unwrap();
    fs::create_dir_all(names[1].join("folder")).unwrap();
    keeps_tars.assert_ended(&keeps_tars.run(), 0, Table::of(0, 6, 0));
    assert!(origin.all_requests().is_empty());

    for wnid in &CLASSES[..2] {
        fs::remove_file(image(&keeps_tars, wnid, 1)).unwrap();
    }
    keeps_tars.assert_ended(&keeps_tars.run(), 1, Table::of(0, 4, 2));
    for wnid in &CLASSES[..2] {
        let message = "Conflict: a folder or a link stands under the tar's name";
        assert_eq!(keeps_tars.failure_of(wnid), message);
    }
    assert!(
        origin.all_requests().is_empty(),
        "the conflict is found before the first request"
    );
    assert!(names[0].is_symlink() && names[1].join("folder").is_dir());
}

/// The set-aside folder cannot be created because a file has its name.
#[test]
fn a_class_whose_additional_files_cannot_be_moved_is_a_conflict_and_stays() {
    for lacks_an_image in [false, true] {
        let (origin, job) = finished(&["--delete-tar"]);
        let folder = job.class_folder("n00000001");
        fs::write(folder.join("mine.JPEG"), "of the user").unwrap();
        if lacks_an_image {
            fs::remove_file(image(&job, "n00000001", 1)).unwrap();
        }
        fs::write(set_aside(&job), "in the way").unwrap();
        let before = snapshot(&folder);
        job.assert_ended(&job.run(), 1, Table::of(0, 5, 1));
        let failure = job.failure_of("n00000001");
        assert!(
            failure.starts_with("Conflict: its folder has files that its manifest does not list"),
            "{failure}"
        );
        assert!(
            failure.ends_with("; move them out of the folder and run the same command again"),
            "{failure}"
        );
        assert_eq!(snapshot(&folder), before);
        assert!(
            origin.all_requests().is_empty(),
            "the conflict is found before the first request"
        );
    }
}

#[test]
fn a_damaged_folder_stays_until_the_class_is_downloaded_again() {
    let (origin, job) = finished(&["--delete-tar", "--retries", "0"]);
    fs::remove_file(image(&job, "n00000001", 1)).unwrap();
    let before = snapshot(&job.class_folder("n00000001"));
    origin
        .class("n00000001", tar("n00000001"))
        .forever(Answer::status(404));
    job.assert_ended(&job.run(), 1, Table::of(0, 5, 1));
    assert_eq!(snapshot(&job.class_folder("n00000001")), before);
    origin.class("n00000001", tar("n00000001"));
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    assert_class_is(&tar("n00000001"), &job.class_folder("n00000001"));
}

#[test]
fn trust_does_not_compare_a_folder_with_its_manifest() {
    let (origin, job) = finished(&["--delete-tar", "--existing", "trust"]);
    fs::remove_file(image(&job, "n00000001", 1)).unwrap();
    let before = snapshot(&job.class_folder("n00000001"));
    job.assert_ended(&job.run(), 0, Table::of(0, 6, 0));
    assert_eq!(snapshot(&job.class_folder("n00000001")), before);
    assert_eq!(origin.all_requests().len(), 0);
}

/// The ledger of the previous run records that this worker has these classes.
#[test]
fn classes_whose_kept_tars_are_to_be_removed_do_not_count_as_missing() {
    let (origin, job) = finished(&[]);
    let job = job.args(["--delete-tar"]);
    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(0, 6, 0));
    assert!(
        !ended.stderr.contains("missing or damaged"),
        "{}",
        ended.stderr
    );
    for wnid in CLASSES {
        assert!(
            !job.target_path().join(format!("{wnid}.tar")).exists(),
            "{wnid}"
        );
    }
    assert!(origin.all_requests().is_empty());
}

#[test]
fn a_class_is_repaired_from_a_kept_tar_without_a_request() {
    let (origin, job) = finished(&[]);
    fs::remove_file(image(&job, "n00000001", 1)).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    assert_class_is(&tar("n00000001"), &job.class_folder("n00000001"));
    assert_eq!(origin.all_requests().len(), 0);
    assert_eq!(
        fs::read(job.target_path().join("n00000001.tar")).unwrap(),
        tar("n00000001")
    );
}

#[test]
fn retry_failed_checks_that_the_other_classes_are_still_complete() {
    let (origin, job) = finished(&["--delete-tar"]);
    let retry = job.args(["--delete-tar", "--retry-failed"]);
    let nothing = retry.run();
    retry.assert_ended(&nothing, 0, Table::of(0, 6, 0));
    assert_prints(
        &nothing,
        "nothing to try again: the last run has left every class of the list complete\n",
    );

    fs::remove_dir_all(retry.class_folder("n00000001")).unwrap();
    fs::remove_file(image(&retry, "n00000002", 1)).unwrap();
    fs::remove_file(retry.class_folder("n00000003").join(MANIFEST)).unwrap();
    let ended = retry.run();
    retry.assert_ended(&ended, 0, Table::of(2, 4, 0));
    assert_prints(
        &ended,
        "3 classes that the last run has left complete are not there any more",
    );
    for wnid in CLASSES {
        assert_class_is(&tar(wnid), &retry.class_folder(wnid));
    }
    assert_eq!(
        origin.gets("n00000003").len(),
        0,
        "the class is verified and adopted"
    );
}

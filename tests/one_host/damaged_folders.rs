//! A class folder that differs from its manifest is no complete class: it is said, the class is
//! fetched again, and what the manifest does not list is kept.

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

const CLASSES: [&str; 6] = ["n00000001", "n00000002", "n00000003", "n00000004", "n00000005", "n00000006"];

fn tar(wnid: &str) -> Vec<u8> {
    images(wnid, 5, 11_000..20_000, 1)
}

/// A target with six finished classes.
fn finished(args: &[&str]) -> (Origin, Job) {
    let origin = Origin::start();
    for wnid in CLASSES {
        origin.class(wnid, tar(wnid));
    }
    let job = Job::new().classes(CLASSES).origin(&origin).args(args.iter().copied());
    job.assert_ended(&job.run(), 0, Table::of(6, 0, 0));
    origin.forget_requests();
    (origin, job)
}

fn image(job: &Job, wnid: &str, number: u32) -> PathBuf {
    job.class_folder(wnid).join(format!("{wnid}_{number}.JPEG"))
}

fn set_len(path: &Path, length: u64) {
    let opened = fs::File::options().write(true).open(path);
    opened.and_then(|file| file.set_len(length)).expect("the folder is ours");
}

#[track_caller]
fn assert_says(finished: &Finished, line: &str) {
    assert!(finished.stderr.contains(line), "{line:?} is not in:\n{}", finished.stderr);
}

/// Where the job keeps what a manifest does not list.
fn set_aside(job: &Job) -> PathBuf {
    job.folder().join(".target.set-aside")
}

#[test]
fn names_number_and_sizes_are_compared_and_what_differs_is_fetched_again() {
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
        assert_says(
            &ended,
            &format!(
                "n00000001/n00000001_2.JPEG has 30000 bytes, the manifest says {length}: the class is fetched again"
            ),
        );
        assert_says(&ended, "n00000003/n00000003_1.JPEG is missing: the class is fetched again");
        assert_says(&ended, "n00000004/n00000004_1.JPEG is missing: the class is fetched again");
        assert_says(&ended, "4 class folders differed from their manifests and were replaced");
        for wnid in CLASSES {
            assert_class_is(&tar(wnid), &job.class_folder(wnid));
            assert_eq!(origin.gets(wnid).len(), usize::from(wnid != "n00000006"), "{wnid}");
        }
        // And that is all: the next run finds nothing to do.
        origin.forget_requests();
        job.assert_ended(&job.run(), 0, Table::of(0, 6, 0));
        assert_eq!(origin.all_requests().len(), 0);
    }
}

#[test]
fn an_image_more_is_noticed_and_nothing_of_the_user_is_lost() {
    let (origin, job) = finished(&["--delete-tar"]);
    let folder = job.class_folder("n00000001");
    fs::write(folder.join("n00000001_99.JPEG"), "of the user").unwrap();
    fs::write(folder.join(".notes"), "hidden, of the user").unwrap();
    fs::create_dir(folder.join("more")).unwrap();
    fs::write(folder.join("more/deep"), "deep").unwrap();
    // What a file manager leaves in each folder is no difference.
    for name in [".DS_Store", "Thumbs.db", "desktop.ini"] {
        fs::write(job.class_folder("n00000002").join(name), "x").unwrap();
        fs::write(folder.join(name), "x").unwrap();
    }

    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(1, 5, 0));
    assert_says(
        &ended,
        &format!(
            "n00000001/more is not in the manifest: the class is fetched again, and files that are not in the manifest are \
             moved to {}",
            set_aside(&job).display()
        ),
    );
    assert_says(&ended, "n00000001: 3 entries are not in its manifest and kept in ");
    assert_class_is(&tar("n00000001"), &folder);
    let kept = set_aside(&job).join("n00000001");
    assert_eq!(fs::read_to_string(kept.join("n00000001_99.JPEG")).unwrap(), "of the user");
    assert_eq!(fs::read_to_string(kept.join(".notes")).unwrap(), "hidden, of the user");
    assert_eq!(fs::read_to_string(kept.join("more/deep")).unwrap(), "deep");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 3);

    // A second time, under another name.
    fs::write(folder.join("n00000001_99.JPEG"), "again").unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    let again = set_aside(&job).join("n00000001.1/n00000001_99.JPEG");
    assert_eq!(fs::read_to_string(again).unwrap(), "again");
    assert_eq!(fs::read_to_string(kept.join("n00000001_99.JPEG")).unwrap(), "of the user");
    assert_eq!(origin.gets("n00000001").len(), 2);
}

/// The folder had a manifest, so `--existing replace` is not about it.
#[test]
fn replace_loses_nothing_that_was_added_to_a_class() {
    let (_origin, job) = finished(&["--delete-tar", "--existing", "replace"]);
    fs::write(job.class_folder("n00000001").join("notes.txt"), "of the user").unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    assert_class_is(&tar("n00000001"), &job.class_folder("n00000001"));
    assert_eq!(fs::read_to_string(set_aside(&job).join("n00000001/notes.txt")).unwrap(), "of the user");
}

/// What is under the tar's name matters only where a tar is to be written.
#[test]
fn a_complete_class_is_skipped_whatever_is_under_the_name_of_its_tar() {
    let (origin, job) = finished(&["--delete-tar"]);
    let keeping = job.args([]);
    let names = CLASSES.map(|wnid| keeping.target_path().join(format!("{wnid}.tar")));
    std::os::unix::fs::symlink("elsewhere", &names[0]).unwrap();
    fs::create_dir_all(names[1].join("folder")).unwrap();
    keeping.assert_ended(&keeping.run(), 0, Table::of(0, 6, 0));
    assert!(origin.all_requests().is_empty());

    for wnid in &CLASSES[..2] {
        fs::remove_file(image(&keeping, wnid, 1)).unwrap();
    }
    keeping.assert_ended(&keeping.run(), 1, Table::of(0, 4, 2));
    for wnid in &CLASSES[..2] {
        let said = "Conflict: a folder or a link stands under the tar's name";
        assert_eq!(keeping.failure_of(wnid), said);
    }
    assert!(origin.all_requests().is_empty(), "it is told before anything is downloaded");
    assert!(names[0].is_symlink() && names[1].join("folder").is_dir());
}

/// Where staging is in the target there is no folder beside it.
#[test]
fn where_nothing_can_be_kept_the_class_is_a_conflict_and_stays() {
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
        assert!(failure.starts_with("Conflict: its folder has files that its manifest does not list"), "{failure}");
        assert!(failure.ends_with("; move them out of the folder and run the same command again"), "{failure}");
        assert_eq!(snapshot(&folder), before);
        assert!(origin.all_requests().is_empty(), "it is told before anything is downloaded");
    }
}

#[test]
fn a_damaged_folder_stays_until_the_class_is_there_again() {
    let (origin, job) = finished(&["--delete-tar", "--retries", "0"]);
    fs::remove_file(image(&job, "n00000001", 1)).unwrap();
    let before = snapshot(&job.class_folder("n00000001"));
    origin.class("n00000001", tar("n00000001")).forever(Answer::status(404));
    job.assert_ended(&job.run(), 1, Table::of(0, 5, 1));
    assert_eq!(snapshot(&job.class_folder("n00000001")), before);
    origin.class("n00000001", tar("n00000001"));
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    assert_class_is(&tar("n00000001"), &job.class_folder("n00000001"));
}

#[test]
fn trust_takes_a_folder_with_a_manifest_as_it_is() {
    let (origin, job) = finished(&["--delete-tar", "--existing", "trust"]);
    fs::remove_file(image(&job, "n00000001", 1)).unwrap();
    let before = snapshot(&job.class_folder("n00000001"));
    job.assert_ended(&job.run(), 0, Table::of(0, 6, 0));
    assert_eq!(snapshot(&job.class_folder("n00000001")), before);
    assert_eq!(origin.all_requests().len(), 0);
}

/// The ledger of the run before knows that this worker has them.
#[test]
fn classes_whose_kept_tars_are_to_be_removed_do_not_count_as_missing() {
    let (origin, job) = finished(&[]);
    let job = job.args(["--delete-tar"]);
    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(0, 6, 0));
    assert!(!ended.stderr.contains("missing or damaged"), "{}", ended.stderr);
    for wnid in CLASSES {
        assert!(!job.target_path().join(format!("{wnid}.tar")).exists(), "{wnid}");
    }
    assert!(origin.all_requests().is_empty());
}

#[test]
fn a_kept_tar_mends_its_class_without_the_origin() {
    let (origin, job) = finished(&[]);
    fs::remove_file(image(&job, "n00000001", 1)).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 5, 0));
    assert_class_is(&tar("n00000001"), &job.class_folder("n00000001"));
    assert_eq!(origin.all_requests().len(), 0);
    assert_eq!(fs::read(job.target_path().join("n00000001.tar")).unwrap(), tar("n00000001"));
}

#[test]
fn a_retry_of_what_failed_looks_whether_the_rest_is_still_there() {
    let (origin, job) = finished(&["--delete-tar"]);
    let retry = job.args(["--delete-tar", "--retry-failed"]);
    let nothing = retry.run();
    retry.assert_ended(&nothing, 0, Table::of(0, 6, 0));
    assert_says(&nothing, "nothing to try again: the last run has left every class of the list complete\n");

    fs::remove_dir_all(retry.class_folder("n00000001")).unwrap();
    fs::remove_file(image(&retry, "n00000002", 1)).unwrap();
    fs::remove_file(retry.class_folder("n00000003").join(MANIFEST)).unwrap();
    let ended = retry.run();
    retry.assert_ended(&ended, 0, Table::of(2, 4, 0));
    assert_says(&ended, "3 classes that the last run has left complete are not there any more");
    for wnid in CLASSES {
        assert_class_is(&tar(wnid), &retry.class_folder(wnid));
    }
    assert_eq!(origin.gets("n00000003").len(), 0, "it is proved and adopted");
}

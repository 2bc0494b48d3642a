//! A disk that fills up during a job: one error message, no incomplete class, and the next run
//! resumes.

use std::time::Duration;

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    folders::staging,
    mounts::Mount,
    origin::Origin,
    running::Finished,
};

/// Panics unless there is one error message, no failed class, and the journals are kept.
#[track_caller]
fn assert_reported_once(job: &Job, finished: &Finished) {
    job.assert_could_not_run(finished, &["free some space"]);
    assert_eq!(
        finished.stderr.matches("free some space").count(),
        1,
        "{}",
        finished.stderr
    );
    assert_eq!(
        job.failures(),
        Vec::<String>::new(),
        "a full disk does not fail a class"
    );
    assert!(staging(job.target_path()).is_dir(), "the journals are kept");
}

/// Fills a disk of the size `room`, then enlarges it. `None`: this user may not mount a file
/// system.
#[track_caller]
fn fill(room: &str, more_room: &str) -> Option<()> {
    let origin = Origin::start();
    let wnids = ["n00000001", "n00000002"];
    // 12 MB and 20 MB: the disk fills up during the second class, and has no room for another class
    // like the first.
    let tars = [
        images(wnids[0], 240, 40_000..60_000, 1),
        images(wnids[1], 400, 40_000..60_000, 2),
    ];
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    let job = Job::new()
        .classes(wnids)
        .origin(&origin)
        .args(["--delete-tar", "--workers", "1"]);
    let disk = Mount::memory(room)?;
    let job = job
        .target(disk.path().join("images"))
        .deadline(Duration::from_secs(30));

    let finished = job.run();
    assert_reported_once(&job, &finished);
    assert_class_is(&tars[0], &job.class_folder(wnids[0]));
    assert!(!job.class_folder(wnids[1]).exists());

    disk.resize(more_room);
    origin.forget_requests();
    job.assert_all_there(&job.run(), 2);
    for (wnid, tar) in wnids.iter().zip(&tars) {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    assert!(
        origin.gets(wnids[0]).is_empty(),
        "a complete class is not downloaded again"
    );
    let gets = origin.gets(wnids[1]);
    assert!(
        gets.len() == 1 && gets[0].start() > 0,
        "the class was not resumed: {gets:#?}"
    );
    Some(())
}

#[test]
fn a_full_disk_stops_the_job_and_more_space_lets_it_resume() {
    if fill("size=22m", "size=60m").is_none() {
        println!("skipped: this user may not mount a file system");
    }
}

#[test]
fn a_disk_without_free_inodes_counts_as_full() {
    if fill("size=100m,nr_inodes=530", "size=100m,nr_inodes=1300").is_none() {
        println!("skipped: this user may not mount a file system");
    }
}

/// 2 MB is less than what passes between two journal entries of an undisturbed class.
#[test]
fn a_small_class_that_filled_the_disk_resumes_at_its_journal() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=5).map(|number| format!("n{number:08}")).collect();
    let tars: Vec<Vec<u8>> = (1..)
        .zip(&wnids)
        .map(|(seed, wnid)| images(wnid, 40, 40_000..60_000, seed))
        .collect();
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    let args = ["--delete-tar", "--workers", "1"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    // The disk fills up during the third class.
    let Some(disk) = Mount::memory("size=5m") else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let job = job
        .target(disk.path().join("images"))
        .deadline(Duration::from_secs(30));

    assert_reported_once(&job, &job.run());
    let begun = wnids
        .iter()
        .filter(|wnid| !origin.gets(wnid).is_empty() && !job.class_folder(wnid).exists());
    let [interrupted] = begun.collect::<Vec<_>>()[..] else {
        panic!("not one class was interrupted")
    };

    disk.resize("size=30m");
    origin.forget_requests();
    job.assert_all_there(&job.run(), 5);
    for (wnid, tar) in wnids.iter().zip(&tars) {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    let gets = origin.gets(interrupted);
    assert!(
        gets.len() == 1 && gets[0].start() > 0,
        "{interrupted} started over: {gets:#?}"
    );
}

/// A class that does not fit fails alone as long as the disk has room for classes like the others.
#[test]
fn a_class_that_does_not_fit_fails_and_the_others_are_complete() {
    let origin = Origin::start();
    let wnids = ["n00000001", "n00000002", "n00000003"];
    // 2 MB, 20 MB and 2 MB.
    let tars = [40, 400, 40].map(|count| images("n1", count, 40_000..60_000, count as u64));
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    for keeps_tar in [false, true] {
        let args = if keeps_tar {
            &["--workers", "1"][..]
        } else {
            &["--workers", "1", "--delete-tar"]
        };
        // With kept tars a class of 2 MB takes 4 MB.
        let Some(disk) = Mount::memory(if keeps_tar { "size=16m" } else { "size=12m" }) else {
            println!("skipped: this user may not mount a file system");
            return;
        };
        let job = Job::new()
            .classes(wnids)
            .origin(&origin)
            .args(args.iter().copied());
        let job = job
            .target(disk.path().join("images"))
            .deadline(Duration::from_secs(30));
        job.assert_ended(&job.run(), 1, Table::of(2, 0, 1));
        let line = job.failure_of(wnids[1]);
        let needed = tars[1].len() * if keeps_tar { 2 } else { 1 };
        assert!(
            line.starts_with("StorageError: not enough space for this class"),
            "{line}"
        );
        assert!(line.contains(&format!("it needs {needed} bytes")), "{line}");

        disk.resize("size=90m");
        job.assert_ended(&job.run(), 0, Table::of(1, 2, 0));
    }
}

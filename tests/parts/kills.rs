//! Kills and interruptions of a process during a transfer in parts.

use std::time::Duration;

use tests::{
    archives::assert_class_is,
    cluster::{Job, Table},
    fleet::Fleet,
    folders::staging,
    origin::{Origin, Request},
    running::Signal,
    wait::wait_for,
};

use super::{LARGE, extra, large, skewed};

/// Starts a job and waits until two thirds of its large class have been sent over several
/// connections, and the first connection is beyond the first checkpoint at 4 MiB.
fn start(origin: &Origin, job: &Job) -> tests::running::Running {
    let mut running = job.start();
    running.wait_until("two thirds were sent, in parts", |_| {
        let gets = origin.gets(LARGE);
        let sent: u64 = gets.iter().map(|get| get.sent).sum();
        (gets.len() >= 4 && sent > 20_000_000 && gets[0].sent > 4_400_000).then_some(())
    });
    running
}

/// Runs the same command again and panics unless it completes the job. At most `most` bytes may be
/// downloaded twice.
#[track_caller]
fn resume(origin: &Origin, job: &Job, tar: &[u8], most: u64) {
    assert!(!job.class_folder(LARGE).exists());
    let before = origin.gets(LARGE).len();
    job.assert_ended(&job.run(), 0, Table::of(5, 0, 0));
    assert_class_is(tar, &job.class_folder(LARGE));
    let gets = origin.gets(LARGE);
    assert!(
        gets[before..]
            .iter()
            .all(|get| get.if_range.is_some() && get.status == 206),
        "{gets:#?}"
    );
    assert!(
        extra(&gets, tar) <= most,
        "{} bytes were sent twice: {gets:#?}",
        extra(&gets, tar)
    );
}

/// A kill loses at most one block of each part, and the images that are not in the journal yet.
#[test]
fn the_next_run_resumes_from_the_parts_of_a_killed_worker() {
    for args in [&["--delete-tar"][..], &[]] {
        let origin = Origin::start();
        let tar = large(1);
        let (job, _) = skewed(&origin, &tar, 0);
        let job = job
            .args(args.iter().copied())
            .deadline(Duration::from_secs(40));
        start(&origin, &job).kill();
        resume(&origin, &job, &tar, 8 << 20);
    }
}

#[test]
fn the_next_run_resumes_from_all_received_bytes_of_an_interrupted_worker() {
    let origin = Origin::start();
    let tar = large(1);
    let (job, _) = skewed(&origin, &tar, 0);
    let running = start(&origin, &job);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
    resume(&origin, &job, &tar, 2 << 20);
}

/// A part is verified before it is used, so a part damaged by a power failure is downloaded again.
#[test]
fn damaged_parts_are_downloaded_again() {
    let origin = Origin::start();
    let tar = large(1);
    let (job, _) = skewed(&origin, &tar, 0);
    start(&origin, &job).kill();
    let mut damaged = 0;
    for folder in std::fs::read_dir(staging(job.target_path()))
        .unwrap()
        .flatten()
    {
        for part in std::fs::read_dir(folder.path().join("parts"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let length = part.metadata().unwrap().len();
            std::fs::write(part.path(), vec![0; usize::try_from(length).unwrap()]).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    resume(&origin, &job, &tar, 30_000_000);
}

/// At 60 KB/s per connection a block of a part takes 4 s, and its progress is recorded meanwhile.
#[test]
fn a_kill_during_slow_parts_loses_only_the_latest_bytes() {
    let origin = Origin::start();
    let tar = large(1);
    origin.class(LARGE, tar.clone());
    origin.limit_rate(60_000);
    let args = ["--delete-tar", "--workers", "4"];
    let job = Job::new()
        .classes([LARGE])
        .origin(&origin)
        .args(args)
        .deadline(Duration::from_mins(1));
    let mut running = job.start();
    running.wait_until("three parts have received about half a block", |_| {
        let gets = origin.gets(LARGE);
        let far = |get: &&Request| get.start() > 0 && get.sent > 120_000;
        (gets.iter().filter(far).count() >= 3).then_some(())
    });
    running.kill();
    assert!(
        origin
            .gets(LARGE)
            .iter()
            .all(|get| get.start() == 0 || get.sent < 256 << 10),
        "a block was complete"
    );
    origin.limit_rate(0);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(LARGE));
    let again = extra(&origin.gets(LARGE), &tar);
    println!("{again} bytes were sent twice");
    assert!(again < 150_000, "{again} bytes were sent twice");
}

/// Another worker that is granted the class resumes from the parts too.
#[test]
fn another_worker_on_the_same_storage_resumes_from_the_parts_of_a_killed_worker() {
    let tar = large(1);
    let fleet = Fleet::of(
        vec![(LARGE.to_owned(), tar.clone())],
        &["--lease-ttl", "3s"],
    );
    fleet.origin.limit_rate(1_500_000);
    let coordinator = fleet.start_coordinator();
    let holder = fleet.start_worker("holder", 4);
    wait_for(
        "the class is downloaded in parts",
        Duration::from_secs(30),
        || {
            let gets = fleet.origin.gets(LARGE);
            gets.len() >= 4 && gets.iter().map(|get| get.sent).sum::<u64>() > 12_000_000
        },
    );
    holder.kill();
    let next = fleet.start_worker("next", 4);
    fleet.assert_done(coordinator, [next], Table::of(1, 0, 0));
    let gets = fleet.origin.gets(LARGE);
    assert!(
        extra(&gets, &tar) <= 8 << 20,
        "{} bytes were sent twice: {gets:#?}",
        extra(&gets, &tar)
    );
}

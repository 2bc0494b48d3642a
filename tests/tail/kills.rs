//! The end of a process in the middle of a transfer that has been cut.

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

/// Lets a job get through two thirds of its large class, over several connections, and to its first checkpoint, 4 MiB into the tar.
fn begin(origin: &Origin, job: &Job) -> tests::running::Running {
    let mut running = job.start();
    running.wait_until("two thirds are there, in parts", |_| {
        let gets = origin.gets(LARGE);
        let sent: u64 = gets.iter().map(|get| get.sent).sum();
        (gets.len() >= 4 && sent > 20_000_000 && gets[0].sent > 4_400_000).then_some(())
    });
    running
}

/// The same command finishes it. `most`: so many bytes may come twice.
#[track_caller]
fn go_on(origin: &Origin, job: &Job, tar: &[u8], most: u64) {
    assert!(!job.class_folder(LARGE).exists());
    let before = origin.gets(LARGE).len();
    job.assert_ended(&job.run(), 0, Table::of(5, 0, 0));
    assert_class_is(tar, &job.class_folder(LARGE));
    let gets = origin.gets(LARGE);
    assert!(gets[before..].iter().all(|get| get.if_range.is_some() && get.status == 206), "{gets:#?}");
    assert!(extra(&gets, tar) <= most, "{} bytes came twice: {gets:#?}", extra(&gets, tar));
}

/// Of each part a block is lost, and of the images those that the journal did not have yet.
#[test]
fn a_killed_worker_leaves_its_parts_to_the_next() {
    for args in [&["--delete-tar"][..], &[]] {
        let (origin, tar) = (Origin::start(), large(1));
        let (job, _) = skewed(&origin, &tar, 0);
        let job = job.args(args.iter().copied()).deadline(Duration::from_secs(40));
        begin(&origin, &job).kill();
        go_on(&origin, &job, &tar, 8 << 20);
    }
}

#[test]
fn an_interrupted_worker_leaves_all_but_what_was_on_its_way() {
    let (origin, tar) = (Origin::start(), large(1));
    let (job, _) = skewed(&origin, &tar, 0);
    let running = begin(&origin, &job);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
    go_on(&origin, &job, &tar, 2 << 20);
}

/// A part is proved before it is used: what a power cut has made of it is fetched again.
#[test]
fn damaged_parts_are_fetched_again() {
    let (origin, tar) = (Origin::start(), large(1));
    let (job, _) = skewed(&origin, &tar, 0);
    begin(&origin, &job).kill();
    let mut damaged = 0;
    for folder in std::fs::read_dir(staging(job.target_path())).unwrap().flatten() {
        for part in std::fs::read_dir(folder.path().join("parts")).into_iter().flatten().flatten() {
            let length = part.metadata().unwrap().len();
            std::fs::write(part.path(), vec![0; usize::try_from(length).unwrap()]).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    go_on(&origin, &job, &tar, 30_000_000);
}

/// At 60 KB/s a connection a block of a part takes four seconds to come, and is noted on the way.
#[test]
fn of_slow_parts_a_kill_costs_no_more_than_the_bytes_of_a_moment() {
    let (origin, tar) = (Origin::start(), large(1));
    origin.class(LARGE, tar.clone());
    origin.limit_rate(60_000);
    let args = ["--delete-tar", "--workers", "4"];
    let job = Job::new().classes([LARGE]).origin(&origin).args(args).deadline(Duration::from_mins(1));
    let mut running = job.start();
    running.wait_until("three parts are on their way to a block", |_| {
        let gets = origin.gets(LARGE);
        let far = |get: &&Request| get.start() > 0 && get.sent > 120_000;
        (gets.iter().filter(far).count() >= 3).then_some(())
    });
    running.kill();
    assert!(origin.gets(LARGE).iter().all(|get| get.start() == 0 || get.sent < 256 << 10), "a block was whole");
    origin.limit_rate(0);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(LARGE));
    let again = extra(&origin.gets(LARGE), &tar);
    println!("{again} bytes came again");
    assert!(again < 150_000, "{again} bytes came again");
}

/// The worker that gets the class next goes on from the parts, too.
#[test]
fn a_worker_that_is_killed_leaves_its_parts_to_another_on_the_same_storage() {
    let tar = large(1);
    let fleet = Fleet::of(vec![(LARGE.to_owned(), tar.clone())], &["--lease-ttl", "3s"]);
    fleet.origin.limit_rate(1_500_000);
    let coordinator = fleet.start_coordinator();
    let holder = fleet.start_worker("holder", 4);
    wait_for("parts come", Duration::from_secs(30), || {
        let gets = fleet.origin.gets(LARGE);
        gets.len() >= 4 && gets.iter().map(|get| get.sent).sum::<u64>() > 12_000_000
    });
    holder.kill();
    let next = fleet.start_worker("next", 4);
    fleet.assert_done(coordinator, [next], Table::of(1, 0, 0));
    let gets = fleet.origin.gets(LARGE);
    assert!(extra(&gets, &tar) <= 8 << 20, "{} bytes came twice: {gets:#?}", extra(&gets, &tar));
}

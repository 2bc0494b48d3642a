//! A worker is killed in the middle of a large class, and another one on the same storage has it next.

use std::{fs::File, sync::Arc, time::Duration};

use tests::{
    answer::Answer,
    archives::{assert_class_is, assert_streamed_class_is, images, streamed_images},
    cluster::{Job, Table},
    content::{Content, assert_same},
    fleet::Fleet,
    origin::Origin,
    running::Running,
    wait::{wait_for, wait_until},
};

const WNID: &str = "n00000001";
const CLASS: u64 = 400_000_000;
/// Bytes per second of each connection until the kill: slower than the worker over ten of them, so that little is under way
/// in the kernel.
const RATE: u64 = 4_000_000;
const KILLED_AT: u64 = CLASS / 10 * 6;
/// From one checkpoint to the next, and five of a hundred bytes beside it.
const TWICE_AT_MOST: u64 = (16 << 20) + CLASS / 20;

/// A class of so many images is killed at 60 % and goes on elsewhere; says what that cost.
#[track_caller]
fn is_killed_and_goes_on(images: u64, delete_tar: bool) -> String {
    let origin = Origin::start();
    let tar = Arc::new(streamed_images(WNID, images, CLASS / images, 1));
    origin.class(WNID, Arc::clone(&tar));
    origin.limit_rate(RATE);
    let args = ["--lease-ttl", "3s", "--durability", "process"].into_iter().chain(delete_tar.then_some("--delete-tar"));
    let job = Job::new().classes([WNID]).origin(&origin).args(args).deadline(Duration::from_mins(2));
    let storage = job.folder().join("storage");
    let coordinator = job.start_coordinator();
    let mut killed = job.start_worker("killed", &coordinator, &storage);
    killed.wait_until("three fifths of the class are there", |_| (origin.bytes_sent() > KILLED_AT).then_some(()));
    killed.kill();
    let sent = origin.bytes_sent();
    assert!(sent < tar.length(), "all of it was sent before the kill");

    origin.limit_rate(0);
    let other = job.start_worker("other", &coordinator, &storage).wait();
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    assert_streamed_class_is(&*tar, &storage.join(WNID));
    let kept = File::open(storage.join(format!("{WNID}.tar")));
    assert_eq!(kept.is_err(), delete_tar);
    if let Ok(kept) = kept {
        assert_same(&*tar, kept);
    }
    let twice = origin.bytes_sent_again();
    assert!(twice <= TWICE_AT_MOST, "{twice} bytes were sent twice, {TWICE_AT_MOST} may be: {:#?}", origin.gets(WNID));
    format!("{images} images, killed after {sent} bytes: {twice} were sent twice")
}

#[test]
fn killed_at_three_fifths_a_class_goes_on_at_its_checkpoint_in_another_worker() {
    println!("{}", is_killed_and_goes_on(400, true));
}

#[test]
fn so_does_a_class_whose_tar_is_kept() {
    println!("{}", is_killed_and_goes_on(400, false));
}

#[test]
fn a_long_image_has_checkpoints_inside() {
    println!("{}", is_killed_and_goes_on(4, true));
}

#[test]
fn so_has_a_long_image_of_a_tar_that_is_kept() {
    println!("{}", is_killed_and_goes_on(4, false));
}

/// At most so many of a hundred bytes may come again.
const AGAIN_AT_MOST: u64 = 30;

/// Nine classes of nearly three megabytes, each with so many images, at 700 KB/s a connection.
fn short_classes(images_of_a_class: usize, args: &[&str]) -> Fleet {
    let size = 2_900_000 / images_of_a_class;
    let wnids = (1..=9).map(|number| (format!("n{number:08}"), number));
    let tars = wnids.map(|(wnid, seed)| (wnid.clone(), images(&wnid, images_of_a_class, size - 1000..size, seed)));
    let mut fleet = Fleet::of(tars.collect(), &[]).deadline(Duration::from_mins(2));
    fleet.job = fleet.job.args(args.iter().copied());
    fleet.origin.limit_rate(700_000);
    fleet
}

/// Five processes in a row, which are given their numbers, are killed when another seventh of all has come.
#[track_caller]
fn five_are_killed(fleet: &Fleet, start: impl Fn(u32) -> Running) {
    let length: u64 = fleet.tars.iter().map(|(_, tar)| tar.len() as u64).sum();
    for kill in 1..=5 {
        let here = fleet.origin.bytes_sent();
        let mut running = start(kill);
        running.wait_until("another seventh of the job has come", |_| {
            (fleet.origin.bytes_sent() > here + length / 7).then_some(())
        });
        running.kill();
    }
}

/// Says how much it was.
#[track_caller]
fn assert_little_came_again(fleet: &Fleet) -> String {
    let length: u64 = fleet.tars.iter().map(|(_, tar)| tar.len() as u64).sum();
    let again = fleet.origin.bytes_sent_again();
    assert!(again * 100 <= length * AGAIN_AT_MOST, "{again} of {length} bytes came again");
    format!("{again} of {length} bytes came again, {} %", again * 100 / length)
}

#[test]
fn five_kills_of_workers_with_short_classes_and_slow_connections_cost_little() {
    let fleet = short_classes(100, &["--delete-tar", "--lease-ttl", "3s"]);
    let coordinator = fleet.start_coordinator();
    five_are_killed(&fleet, |kill| fleet.start_worker(&format!("killed{kill}"), 4));
    let last = fleet.start_worker("last", 4);
    fleet.assert_done(coordinator, [last], Table::of(9, 0, 0));
    println!("{}", assert_little_came_again(&fleet));
}

#[test]
fn so_do_five_kills_of_a_process_that_keeps_the_tars_of_long_images() {
    let fleet = short_classes(2, &["--workers", "4"]);
    five_are_killed(&fleet, |_| fleet.job.start());
    fleet.job.assert_all_there(&fleet.job.run(), 9);
    for (wnid, tar) in &fleet.tars {
        assert_class_is(tar, &fleet.job.class_folder(wnid));
        assert!(std::fs::read(fleet.job.target_path().join(format!("{wnid}.tar"))).is_ok_and(|kept| kept == *tar));
    }
    println!("{}", assert_little_came_again(&fleet));
}

/// The origin stands still in the middle of a class, and the worker is killed a second later.
#[test]
fn what_came_before_a_silence_is_not_fetched_again_after_a_kill() {
    let origin = Origin::start();
    let tar = images(WNID, 100, 10_000..20_000, 1);
    origin.class(WNID, tar.clone()).script([Answer::stall_at(600_000)]);
    let job = Job::new().classes([WNID]).origin(&origin).args(["--delete-tar", "--lease-ttl", "5m"]);
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("w", &coordinator, job.target_path());
    wait_for("the class is under way", Duration::from_secs(20), || {
        origin.gets(WNID).first().is_some_and(|get| get.sent >= 600_000)
    });
    assert!(wait_until(Duration::from_secs(1), || origin.gets(WNID).get(1).map(drop)).is_none());
    worker.kill();
    let other = job.start_worker("w", &coordinator, job.target_path()).wait();
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    let gets = origin.gets(WNID);
    assert!(gets.len() == 2 && gets[1].start() > 550_000, "{gets:#?}");
    origin.end_stalls();
}

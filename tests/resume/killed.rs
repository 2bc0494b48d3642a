//! A worker is killed in the middle of a large class, and another one on the same storage has it next.

use std::{fs::File, sync::Arc, time::Duration};

use tests::{
    archives::{assert_streamed_class_is, streamed_images},
    cluster::{Job, Table},
    content::{Content, assert_same},
    origin::Origin,
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

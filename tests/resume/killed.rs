//! A worker is killed in the middle of a large class, and another one on the same storage leases it
//! next.

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
/// Bytes per second of each connection until the kill: less than the worker processes over ten of
/// them, so that little data is in kernel buffers.
const RATE: u64 = 4_000_000;
const KILLED_AT: u64 = CLASS / 10 * 6;
/// The distance of two journal entries, and 5 % of the class.
const MAX_REPEATED: u64 = (16 << 20) + CLASS / 20;

/// Kills a worker at 60 % of a class of `images` images and lets another one complete it; returns a
/// summary of the cost.
#[track_caller]
fn kill_and_resume(images: u64, delete_tar: bool) -> String {
    let origin = Origin::start();
    let tar = Arc::new(streamed_images(WNID, images, CLASS / images, 1));
    origin.class(WNID, Arc::clone(&tar));
    origin.limit_rate(RATE);
    let args = ["--lease-ttl", "3s", "--durability", "process"]
        .into_iter()
        .chain(delete_tar.then_some("--delete-tar"));
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(args)
        .deadline(Duration::from_mins(2));
    let storage = job.folder().join("storage");
    let coordinator = job.start_coordinator();
    let mut killed = job.start_worker("killed", &coordinator, &storage);
    killed.wait_until("three fifths of the class were sent", |_| {
        (origin.bytes_sent() > KILLED_AT).then_some(())
    });
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
    assert!(
        twice <= MAX_REPEATED,
        "{twice} bytes were sent twice, {MAX_REPEATED} may be: {:#?}",
        origin.gets(WNID)
    );
    format!("{images} images, killed after {sent} bytes: {twice} were sent twice")
}

#[test]
fn a_class_killed_at_60_percent_resumes_at_its_journal_in_another_worker() {
    println!("{}", kill_and_resume(400, true));
}

#[test]
fn a_class_with_a_kept_tar_resumes_at_its_journal_in_another_worker() {
    println!("{}", kill_and_resume(400, false));
}

#[test]
fn a_long_image_has_journal_entries_inside() {
    println!("{}", kill_and_resume(4, true));
}

#[test]
fn a_long_image_of_a_kept_tar_has_journal_entries_inside() {
    println!("{}", kill_and_resume(4, false));
}

/// In percent of all bytes.
const MAX_REPEATED_PERCENT: u64 = 30;

/// Nine classes of nearly 3 MB, each with `images_of_a_class` images, at 700 KB/s per connection.
fn short_classes(images_of_a_class: usize, args: &[&str]) -> Fleet {
    let size = 2_900_000 / images_of_a_class;
    let wnids = (1..=9).map(|number| (format!("n{number:08}"), number));
    let tars = wnids.map(|(wnid, seed)| {
        (
            wnid.clone(),
            images(&wnid, images_of_a_class, size - 1000..size, seed),
        )
    });
    let mut fleet = Fleet::of(tars.collect(), &[]).deadline(Duration::from_mins(2));
    fleet.job = fleet.job.args(args.iter().copied());
    fleet.origin.limit_rate(700_000);
    fleet
}

/// Starts five processes in a row, numbered, and kills each when another seventh of all bytes was
/// sent.
#[track_caller]
fn kill_five(fleet: &Fleet, start: impl Fn(u32) -> Running) {
    let length: u64 = fleet.tars.iter().map(|(_, tar)| tar.len() as u64).sum();
    for kill in 1..=5 {
        let here = fleet.origin.bytes_sent();
        let mut running = start(kill);
        running.wait_until("another seventh of the job was sent", |_| {
            (fleet.origin.bytes_sent() > here + length / 7).then_some(())
        });
        running.kill();
    }
}

/// Panics if too many bytes were sent twice; returns a summary.
#[track_caller]
fn assert_few_repeated_bytes(fleet: &Fleet) -> String {
    let length: u64 = fleet.tars.iter().map(|(_, tar)| tar.len() as u64).sum();
    let again = fleet.origin.bytes_sent_again();
    assert!(
        again * 100 <= length * MAX_REPEATED_PERCENT,
        "{again} of {length} bytes were sent again"
    );
    format!(
        "{again} of {length} bytes were sent again, {} %",
        again * 100 / length
    )
}

#[test]
fn five_kills_of_workers_with_short_classes_and_slow_connections_cost_few_bytes() {
    let fleet = short_classes(100, &["--delete-tar", "--lease-ttl", "3s"]);
    let coordinator = fleet.start_coordinator();
    kill_five(&fleet, |kill| {
        fleet.start_worker(&format!("killed{kill}"), 4)
    });
    let last = fleet.start_worker("last", 4);
    fleet.assert_done(coordinator, [last], Table::of(9, 0, 0));
    println!("{}", assert_few_repeated_bytes(&fleet));
}

#[test]
fn five_kills_of_a_process_that_keeps_the_tars_of_long_images_cost_few_bytes() {
    let fleet = short_classes(2, &["--workers", "4"]);
    kill_five(&fleet, |_| fleet.job.start());
    fleet.job.assert_all_there(&fleet.job.run(), 9);
    for (wnid, tar) in &fleet.tars {
        assert_class_is(tar, &fleet.job.class_folder(wnid));
        assert!(
            std::fs::read(fleet.job.target_path().join(format!("{wnid}.tar")))
                .is_ok_and(|kept| kept == *tar)
        );
    }
    println!("{}", assert_few_repeated_bytes(&fleet));
}

/// The origin stalls in the middle of a class, and the worker is killed a second later.
#[test]
fn data_received_before_a_stall_is_not_fetched_again_after_a_kill() {
    let origin = Origin::start();
    let tar = images(WNID, 100, 10_000..20_000, 1);
    origin
        .class(WNID, tar.clone())
        .script([Answer::stall_at(600_000)]);
    let job =
        Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(["--delete-tar", "--lease-ttl", "5m"]);
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("w", &coordinator, job.target_path());
    wait_for("the class is in progress", Duration::from_secs(20), || {
        origin
            .gets(WNID)
            .first()
            .is_some_and(|get| get.sent >= 600_000)
    });
    assert!(
        wait_until(Duration::from_secs(1), || origin
            .gets(WNID)
            .get(1)
            .map(drop))
        .is_none()
    );
    worker.kill();
    let other = job
        .start_worker("w", &coordinator, job.target_path())
        .wait();
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    let gets = origin.gets(WNID);
    assert!(gets.len() == 2 && gets[1].start() > 550_000, "{gets:#?}");
    origin.end_stalls();
}

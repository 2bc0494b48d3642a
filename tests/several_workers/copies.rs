//! Second copies: workers with disks of their own, one of which holds up the end of the job.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tests::{
    answer::Answer,
    archives::{difference, images},
    cluster::Table,
    fleet::Fleet,
    folders::assert_no_partial,
    http::Scrape,
    running::{Finished, Running},
    wait::{wait_for, wait_until},
};

const SOON: Duration = Duration::from_secs(30);
const LAST: &str = "n00000001";
/// Patience is one lease.
const ARGS: [&str; 2] = ["--lease-ttl", "3s"];

/// The class that is copied, which is first in the list, and as many others as it takes before that may be.
fn fleet() -> Fleet {
    let others = (2..=13_u64).map(|number| (number, format!("n{number:08}")));
    let others = others.map(|(number, wnid)| (wnid.clone(), images(&wnid, 20, 50_000..60_000, number)));
    let last = (LAST.to_owned(), images(LAST, 30, 9000..11_000, 1));
    Fleet::of([last].into_iter().chain(others).collect(), &ARGS)
}

/// A worker on a disk of its own.
fn worker(fleet: &Fleet, name: &str, slots: u32) -> (Running, PathBuf) {
    let target = fleet.job.folder().join(name);
    std::fs::create_dir(&target).expect("the folder is ours");
    (fleet.start_worker_in(&target, &fleet.url(), name, slots), target)
}

/// It ended well, and what it leaves is whole classes.
#[track_caller]
fn assert_ended_cleanly(fleet: &Fleet, finished: &Finished, target: &Path) -> Vec<String> {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_no_partial(target);
    let here = fleet.tars.iter().filter(|(wnid, _)| target.join(wnid).exists());
    let here = here.map(|(wnid, tar)| {
        assert_eq!(difference(tar, &target.join(wnid)), None);
        wnid.clone()
    });
    here.collect()
}

#[test]
fn what_one_worker_takes_too_long_for_ends_on_the_disk_of_another_and_counts_once() {
    let fleet = fleet();
    // Forty seconds for a class that takes a moment.
    fleet.origin.limit_rate(8000);
    let coordinator = fleet.start_coordinator();
    let (slow, slow_target) = worker(&fleet, "slow", 1);
    wait_for("the class is under way", SOON, || fleet.origin.gets(LAST).iter().any(|get| get.sent > 0));
    fleet.origin.limit_rate(0);
    let (quick, quick_target) = worker(&fleet, "quick", 2);
    assert_eq!(assert_ended_cleanly(&fleet, &quick.wait(), &quick_target).len(), 13);
    let slow = slow.wait();
    assert_eq!(assert_ended_cleanly(&fleet, &slow, &slow_target), [""; 0]);
    let told = coordinator.wait();
    fleet.job.assert_ended(&told, 0, Table::of(13, 0, 0));
    let log = std::fs::read_to_string(fleet.job.target_path().join("imagenet_downloader.log")).expect("it has a log");
    let copied =
        format!("worker quick tries it as well, because slow takes too long ({} bytes)", fleet.tars[0].1.len());
    for line in [copied.as_str(), "worker quick was first with its copy"] {
        assert_eq!(log.matches(line).count(), 1, "{line}:\n{log}");
    }
    let gets = fleet.origin.gets(LAST);
    assert_eq!(gets.len(), 2, "{gets:#?}");
    assert!(gets[0].sent < fleet.tars[0].1.len() as u64, "the slow one stopped in the middle: {gets:#?}");
}

#[test]
fn two_that_try_one_class_at_once_and_go_on_together_count_it_once() {
    let fleet = fleet();
    let length = u32::try_from(fleet.tars[0].1.len()).expect("a small class");
    let stalls = [100_000, 150_000].map(Answer::stall_at);
    fleet.origin.script_of(LAST).expect("it is served").script(stalls);
    let mut coordinator = fleet.start_coordinator();
    let seen = coordinator.wait_for_http();
    let (one, one_target) = worker(&fleet, "one", 1);
    fleet.wait_for_gets(LAST, 1, SOON);
    let (other, other_target) = worker(&fleet, "other", 2);
    fleet.wait_for_gets(LAST, 2, SOON);
    let now =
        wait_until(SOON, || Scrape::of(seen).filter(|now| now.value("imagenet_classes{state=\"success\"}") > 11.5));
    let now = now.expect("all others are there");
    for (sample, value) in [
        ("imagenet_classes{state=\"leased\"}", 1),
        ("imagenet_classes{state=\"pending\"}", 0),
        ("imagenet_coordinator_copies_total{event=\"granted\"}", 1),
        ("imagenet_coordinator_copies_granted_bytes_total", length),
    ] {
        assert!((now.value(sample) - f64::from(value)).abs() < 0.5, "{sample} is not {value}:\n{}", now.text);
    }
    fleet.origin.end_stalls();
    let here = assert_ended_cleanly(&fleet, &one.wait(), &one_target);
    let there = assert_ended_cleanly(&fleet, &other.wait(), &other_target);
    fleet.job.assert_ended(&coordinator.wait(), 0, Table::of(13, 0, 0));
    let has_it = |classes: &[String]| classes.iter().any(|wnid| wnid == LAST);
    assert!(has_it(&here) || has_it(&there), "{here:?} {there:?}");
    let settled = fleet.settled();
    assert!(settled.len() == 13 && settled.values().all(|(outcome, ..)| outcome == "success"), "{settled:?}");
}

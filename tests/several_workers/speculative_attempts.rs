//! Speculative attempts: workers with separate disks, one of which delays the end of the job.

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
    log::assert_lines,
    running::{Finished, Running},
    wait::{wait_for, wait_until},
};

const TIMEOUT: Duration = Duration::from_secs(30);
const LAST: &str = "n00000001";
/// A speculative attempt starts after one lease.
const ARGS: [&str; 2] = ["--lease-ttl", "3s"];

/// The straggling class, which is first in the list, and as many others as are needed before a
/// speculative attempt.
fn fleet() -> Fleet {
    let others = (2..=13_u64).map(|number| (number, format!("n{number:08}")));
    let others =
        others.map(|(number, wnid)| (wnid.clone(), images(&wnid, 20, 50_000..60_000, number)));
    let last = (LAST.to_owned(), images(LAST, 30, 9000..11_000, 1));
    Fleet::of([last].into_iter().chain(others).collect(), &ARGS)
}

/// Starts a worker with its own disk.
fn worker(fleet: &Fleet, name: &str, slots: u32) -> (Running, PathBuf) {
    let target = fleet.job.folder().join(name);
    std::fs::create_dir(&target).expect("the folder is ours");
    (
        fleet.start_worker_in(&target, &fleet.url(), name, slots),
        target,
    )
}

/// Panics unless the worker ended without an error and left only complete classes.
#[track_caller]
fn assert_ended_cleanly(fleet: &Fleet, finished: &Finished, target: &Path) -> Vec<String> {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_no_partial(target);
    let here = fleet
        .tars
        .iter()
        .filter(|(wnid, _)| target.join(wnid).exists());
    let here = here.map(|(wnid, tar)| {
        assert_eq!(difference(tar, &target.join(wnid)), None);
        wnid.clone()
    });
    here.collect()
}

#[test]
fn a_straggler_is_completed_by_a_speculative_attempt_and_counts_once() {
    let fleet = fleet();
    // 40 s for a class that otherwise takes less than a second.
    fleet.origin.limit_rate(8000);
    let coordinator = fleet.start_coordinator();
    let (slow, slow_target) = worker(&fleet, "slow", 1);
    wait_for("the class is in progress", TIMEOUT, || {
        fleet.origin.gets(LAST).iter().any(|get| get.sent > 0)
    });
    fleet.origin.limit_rate(0);
    let (quick, quick_target) = worker(&fleet, "quick", 2);
    assert_eq!(
        assert_ended_cleanly(&fleet, &quick.wait(), &quick_target).len(),
        13
    );
    let slow = slow.wait();
    assert_eq!(assert_ended_cleanly(&fleet, &slow, &slow_target), [""; 0]);
    let finished = coordinator.wait();
    fleet.job.assert_ended(&finished, 0, Table::of(13, 0, 0));
    let log = fleet.job.log();
    let copied = format!(
        "worker quick tries it as well, because slow takes too long ({} bytes)",
        fleet.tars[0].1.len()
    );
    for line in [copied.as_str(), "worker quick was first with its copy"] {
        assert_lines(&log, 1, &[line]);
    }
    let gets = fleet.origin.gets(LAST);
    assert_eq!(gets.len(), 2, "{gets:#?}");
    assert!(
        gets[0].sent < fleet.tars[0].1.len() as u64,
        "the slow worker stopped in the middle: {gets:#?}"
    );
}

#[test]
fn two_attempts_at_one_class_that_both_finish_count_once() {
    let fleet = fleet();
    let length = u32::try_from(fleet.tars[0].1.len()).expect("a small class");
    let stalls = [100_000, 150_000].map(Answer::stall_at);
    fleet
        .origin
        .script_of(LAST)
        .expect("the class is served")
        .script(stalls);
    let mut coordinator = fleet.start_coordinator();
    let seen = coordinator.wait_for_http();
    let (one, one_target) = worker(&fleet, "one", 1);
    fleet.wait_for_gets(LAST, 1, TIMEOUT);
    let (other, other_target) = worker(&fleet, "other", 2);
    fleet.wait_for_gets(LAST, 2, TIMEOUT);
    let now = wait_until(TIMEOUT, || {
        Scrape::of(seen).filter(|now| now.value("imagenet_classes{state=\"success\"}") > 11.5)
    });
    let now = now.expect("all other classes are complete");
    for (sample, value) in [
        ("imagenet_classes{state=\"leased\"}", 1),
        ("imagenet_classes{state=\"pending\"}", 0),
        ("imagenet_coordinator_copies_total{event=\"granted\"}", 1),
        ("imagenet_coordinator_copies_granted_bytes_total", length),
    ] {
        assert!(
            (now.value(sample) - f64::from(value)).abs() < 0.5,
            "{sample} is not {value}:\n{}",
            now.text
        );
    }
    fleet.origin.end_stalls();
    let here = assert_ended_cleanly(&fleet, &one.wait(), &one_target);
    let there = assert_ended_cleanly(&fleet, &other.wait(), &other_target);
    fleet
        .job
        .assert_ended(&coordinator.wait(), 0, Table::of(13, 0, 0));
    let has_it = |classes: &[String]| classes.iter().any(|wnid| wnid == LAST);
    assert!(has_it(&here) || has_it(&there), "{here:?} {there:?}");
    let settled = fleet.settled();
    assert!(
        settled.len() == 13 && settled.values().all(|(outcome, ..)| outcome == "success"),
        "{settled:?}"
    );
}

//! SIGSTOP of the coordinator for three times the leases' time to live, while one worker downloads
//! and another one has free slots: no session expires, and no class is downloaded twice.
//!
//! `STOPS` is the number of stops (2 by default), spread over clusters that run concurrently.

use std::{thread, time::Duration};

use tests::{
    answer::Answer,
    cluster::Table,
    fleet::Fleet,
    log::{assert_lines, lines_with},
    running::{Running, Signal},
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

/// The leases' time to live. With the margin of ten seconds after it, a session expires after 16 s
/// of silence.
const LEASE: [&str; 4] = ["--lease-ttl", "6s", "--timeout", "10m"];
const STOPPED: Duration = Duration::from_secs(18);
/// Clusters that run concurrently.
const CLUSTERS: u32 = 10;
/// Stops of one cluster during the same downloads.
const STOPS_IN_A_JOB: u32 = 5;
const TIMEOUT: Duration = Duration::from_mins(1);

/// Waits until a worker has registered this many times.
#[track_caller]
fn wait_for_registrations(fleet: &Fleet, worker: &str, count: usize) {
    wait_for(
        &format!("{worker} has registered {count} times"),
        TIMEOUT,
        || {
            lines_with(
                &fleet.job.log_of(worker),
                &["registered with the coordinator"],
            )
            .len()
                >= count
        },
    );
}

fn stop_for(coordinator: &Running, span: Duration) {
    coordinator.signal(Signal::STOP);
    let stopped = Instant::now();
    wait_until(TIMEOUT, || (stopped.elapsed() > span).then_some(()));
    coordinator.signal(Signal::CONT);
}

/// Runs a job whose coordinator is stopped this many times; returns the longest time until a worker
/// was back.
fn job(stops: u32) -> Duration {
    let fleet = Fleet::new(2, 25, 15_000..25_000, &LEASE).deadline(Duration::from_mins(8));
    for (wnid, _) in &fleet.tars {
        fleet
            .origin
            .script_of(wnid)
            .expect("the class is served")
            .script([Answer::stall_at(100_000)]);
    }
    let coordinator = fleet.start_coordinator();
    let busy = fleet.start_worker("busy", 2);
    for (wnid, _) in &fleet.tars {
        fleet.wait_for_gets(wnid, 1, TIMEOUT);
    }
    let free = fleet.start_worker("free", 4);
    wait_for_registrations(&fleet, "free", 1);
    let mut longest = Duration::ZERO;
    for stop in 1..=stops {
        stop_for(&coordinator, STOPPED);
        let awake = Instant::now();
        for worker in ["busy", "free"] {
            wait_for_registrations(&fleet, worker, 1 + stop as usize);
        }
        longest = longest.max(awake.elapsed());
        // No class was requested by a second worker.
        fleet.assert_no_repeated_request();
    }
    fleet.origin.end_stalls();
    fleet.assert_done(coordinator, [busy, free], Table::of(2, 0, 0));
    assert_eq!(fleet.origin.bytes_sent_again(), 0);
    let log = fleet.job.log();
    assert_lines(&log, 0, &["was silent for too long"]);
    assert_lines(&log, stops as usize, &["the coordinator stood still for"]);
    longest
}

#[test]
fn a_coordinator_that_was_stopped_expires_no_session_and_no_class_is_downloaded_twice() {
    let stops: u32 = std::env::var("STOPS")
        .ok()
        .and_then(|stops| stops.parse().ok())
        .unwrap_or(2);
    let mut left = stops;
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    while left > 0 {
        let clusters = left.min(CLUSTERS);
        let each = left.div_ceil(clusters).min(STOPS_IN_A_JOB);
        let mut jobs = Vec::new();
        for _ in 0..clusters {
            let share = left.min(each);
            left -= share;
            if share > 0 {
                jobs.push(thread::spawn(move || job(share)));
            }
        }
        for job in jobs {
            longest = longest.max(job.join().expect("the job does not panic"));
        }
    }
    let took = began.elapsed();
    println!(
        "{stops} stops of {STOPPED:?} in {took:.0?}: no session ended, nothing came twice; both \
         workers were back within \
         {longest:.1?}"
    );
}

//! `coordinator --stay`, under a supervisor that always restarts it: the job is done once, and its
//! result is shown afterwards.

use tests::{
    cluster::{Job, Table},
    fleet::Fleet,
    running::{Running, Signal},
};

use crate::wnid;

const STAYS: [&str; 2] = ["--delete-tar", "--stay"];
const RETRIES: [&str; 3] = ["--delete-tar", "--stay", "--retry-failed"];

/// Waits until the outcome is printed; panics if it differs from the table or if the process ends.
#[track_caller]
fn assert_shows(coordinator: &mut Running, table: Table) {
    coordinator.wait_until("the job is done", |running| {
        running.stderr().contains("stays to tell").then_some(())
    });
    assert_eq!(coordinator.stdout(), table.text());
    assert!(coordinator.is_running());
}

/// Panics unless a worker that registers after the end of the job is told that it is done.
#[track_caller]
fn assert_late_worker_ends(fleet: &Fleet) {
    let late = fleet.start_worker("late", 1).wait();
    assert_eq!(late.code, Some(0), "{}", late.stderr);
}

/// A job of these classes at the address that the fleet's workers use.
fn job_of(fleet: &Fleet, classes: &[u64], args: &[&str]) -> Job {
    let wnids: Vec<String> = classes.iter().copied().map(wnid).collect();
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&fleet.origin);
    job.args(args.iter().copied())
        .target(fleet.job.target_path())
}

#[test]
fn a_finished_job_is_shown_until_a_stop_and_again_after_every_restart() {
    let fleet = Fleet::new(2, 5, 10_000..20_000, &[]);
    let job = job_of(&fleet, &[1, 2, 9], &STAYS);
    let mut coordinator = job.start_coordinator_at(fleet.address());
    let worker = fleet.start_worker("worker", 2).wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    assert_shows(&mut coordinator, Table::of(2, 0, 1));
    assert_late_worker_ends(&fleet);
    coordinator.kill();

    fleet.origin.forget_requests();
    let mut coordinator = job.start_coordinator_at(fleet.address());
    assert_shows(&mut coordinator, Table::of(2, 0, 1));
    let stderr = coordinator.stderr();
    assert!(
        stderr.contains(&format!("{} failed: HTTPError: 404", wnid(9))),
        "the cause is printed again: {stderr}"
    );
    assert_late_worker_ends(&fleet);
    let url = fleet.url();
    let status = job
        .start_with(["status", "--json", "--connect", &url])
        .wait();
    assert!(
        status.stdout.contains("\"phase\":\"done\""),
        "{}\n{}",
        status.stdout,
        status.stderr
    );
    coordinator.signal(Signal::TERM);
    job.assert_ended(&coordinator.wait(), 1, Table::of(2, 0, 1));
    assert_eq!(job.failures().len(), 1);
    assert_eq!(
        fleet.origin.all_requests().len(),
        0,
        "the origin got no request"
    );
}

#[test]
fn another_list_is_a_new_job() {
    let fleet = Fleet::new(2, 5, 10_000..20_000, &[]);
    for (classes, table) in [
        (&[1][..], Table::of(1, 0, 0)),
        (&[1, 2], Table::of(1, 1, 0)),
    ] {
        let job = job_of(&fleet, classes, &STAYS);
        let mut coordinator = job.start_coordinator_at(fleet.address());
        assert_late_worker_ends(&fleet);
        assert_shows(&mut coordinator, table);
        coordinator.signal(Signal::TERM);
        job.assert_ended(&coordinator.wait(), 0, table);
    }
}

#[test]
fn failed_classes_are_retried_once_and_then_shown() {
    let fleet = Fleet::new(2, 5, 10_000..20_000, &[]);
    let runs = [
        (&STAYS[..], Table::of(2, 0, 1), 2),
        (&RETRIES, Table::of(0, 2, 1), 1),
        // Every retried class has failed again: this start shows the same attempt.
        (&RETRIES, Table::of(0, 2, 1), 0),
        (&STAYS, Table::of(0, 2, 1), 1),
    ];
    for (args, table, least) in runs {
        fleet.origin.forget_requests();
        let job = job_of(&fleet, &[1, 2, 9], args);
        let mut coordinator = job.start_coordinator_at(fleet.address());
        assert_late_worker_ends(&fleet);
        assert_shows(&mut coordinator, table);
        coordinator.signal(Signal::TERM);
        job.assert_ended(&coordinator.wait(), 1, table);
        let requests = fleet.origin.all_requests().len();
        assert!(
            requests >= least && (requests == 0) == (least == 0),
            "{args:?}: {requests}"
        );
    }
}

#[test]
fn a_retry_without_failed_classes_shows_the_last_run() {
    let fleet = Fleet::new(1, 5, 10_000..20_000, &[]);
    for (args, table) in [
        (&STAYS[..], Table::of(1, 0, 0)),
        (&RETRIES, Table::of(0, 1, 0)),
        (&RETRIES, Table::of(0, 1, 0)),
    ] {
        let job = job_of(&fleet, &[1], args);
        let mut coordinator = job.start_coordinator_at(fleet.address());
        assert_late_worker_ends(&fleet);
        assert_shows(&mut coordinator, table);
        coordinator.signal(Signal::TERM);
        job.assert_ended(&coordinator.wait(), 0, table);
    }
    assert_eq!(fleet.gets(&wnid(1)), 1);
}

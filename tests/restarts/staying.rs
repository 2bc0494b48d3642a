//! `coordinator --stay`, under a manager that starts again whatever ends: the job is done once, and then shown.

use tests::{
    cluster::{Job, Table},
    fleet::Fleet,
    running::{Running, Signal},
};

use crate::wnid;

const STAYS: [&str; 2] = ["--delete-tar", "--stay"];
const RETRIES: [&str; 3] = ["--delete-tar", "--stay", "--retry-failed"];

/// Waits until it has told the outcome, and panics if that is another one or if it ends then.
#[track_caller]
fn assert_shows(coordinator: &mut Running, table: Table) {
    coordinator.wait_until("the job is done", |running| running.stderr().contains("stays to tell").then_some(()));
    assert_eq!(coordinator.stdout(), table.text());
    assert!(coordinator.is_running());
}

/// A worker that comes when all is done.
#[track_caller]
fn assert_late_worker_is_sent_home(fleet: &Fleet) {
    let late = fleet.start_worker("late", 1).wait();
    assert_eq!(late.code, Some(0), "{}", late.stderr);
}

/// The job of these classes, where the fleet's workers look for it.
fn job_of(fleet: &Fleet, classes: &[u64], args: &[&str]) -> Job {
    let wnids: Vec<String> = classes.iter().copied().map(wnid).collect();
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&fleet.origin);
    job.args(args.iter().copied()).target(fleet.job.target_path())
}

#[test]
fn a_finished_job_is_shown_until_it_is_told_to_stop_and_shown_again_after_every_start() {
    let fleet = Fleet::new(2, 5, 10_000..20_000, &[]);
    let job = job_of(&fleet, &[1, 2, 9], &STAYS);
    let mut coordinator = job.start_coordinator_at(fleet.address());
    let worker = fleet.start_worker("worker", 2).wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    assert_shows(&mut coordinator, Table::of(2, 0, 1));
    assert_late_worker_is_sent_home(&fleet);
    coordinator.kill();

    fleet.origin.forget_requests();
    let mut coordinator = job.start_coordinator_at(fleet.address());
    assert_shows(&mut coordinator, Table::of(2, 0, 1));
    let stderr = coordinator.stderr();
    assert!(stderr.contains(&format!("{} failed: HTTPError: 404", wnid(9))), "why is told again: {stderr}");
    assert_late_worker_is_sent_home(&fleet);
    let url = fleet.url();
    let status = job.start_with(["status", "--json", "--connect", &url]).wait();
    assert!(status.stdout.contains("\"phase\":\"done\""), "{}\n{}", status.stdout, status.stderr);
    coordinator.signal(Signal::TERM);
    job.assert_ended(&coordinator.wait(), 1, Table::of(2, 0, 1));
    assert_eq!(job.failures().len(), 1);
    assert_eq!(fleet.origin.all_requests().len(), 0, "nobody was asked again");
}

#[test]
fn another_list_is_a_new_job() {
    let fleet = Fleet::new(2, 5, 10_000..20_000, &[]);
    for (classes, table) in [(&[1][..], Table::of(1, 0, 0)), (&[1, 2], Table::of(1, 1, 0))] {
        let job = job_of(&fleet, classes, &STAYS);
        let mut coordinator = job.start_coordinator_at(fleet.address());
        assert_late_worker_is_sent_home(&fleet);
        assert_shows(&mut coordinator, table);
        coordinator.signal(Signal::TERM);
        job.assert_ended(&coordinator.wait(), 0, table);
    }
}

#[test]
fn what_failed_is_tried_again_once_and_then_shown() {
    let fleet = Fleet::new(2, 5, 10_000..20_000, &[]);
    let runs = [
        (&STAYS[..], Table::of(2, 0, 1), 2),
        (&RETRIES, Table::of(0, 2, 1), 1),
        // Every class that was asked for has failed again: this is the same attempt, shown.
        (&RETRIES, Table::of(0, 2, 1), 0),
        (&STAYS, Table::of(0, 2, 1), 1),
    ];
    for (args, table, least) in runs {
        fleet.origin.forget_requests();
        let job = job_of(&fleet, &[1, 2, 9], args);
        let mut coordinator = job.start_coordinator_at(fleet.address());
        assert_late_worker_is_sent_home(&fleet);
        assert_shows(&mut coordinator, table);
        coordinator.signal(Signal::TERM);
        job.assert_ended(&coordinator.wait(), 1, table);
        let asked = fleet.origin.all_requests().len();
        assert!(asked >= least && (asked == 0) == (least == 0), "{args:?}: {asked}");
    }
}

#[test]
fn where_nothing_is_to_be_tried_again_that_is_shown_too() {
    let fleet = Fleet::new(1, 5, 10_000..20_000, &[]);
    for (args, table) in
        [(&STAYS[..], Table::of(1, 0, 0)), (&RETRIES, Table::of(0, 1, 0)), (&RETRIES, Table::of(0, 1, 0))]
    {
        let job = job_of(&fleet, &[1], args);
        let mut coordinator = job.start_coordinator_at(fleet.address());
        assert_late_worker_is_sent_home(&fleet);
        assert_shows(&mut coordinator, table);
        coordinator.signal(Signal::TERM);
        job.assert_ended(&coordinator.wait(), 0, table);
    }
    assert_eq!(fleet.gets(&wnid(1)), 1);
}

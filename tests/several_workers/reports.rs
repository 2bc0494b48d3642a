//! Reports that fail, are not acknowledged, or are rejected.

use tests::{answer::Answer, archives::images};

use crate::scripted_coordinator::{WNID, fixture, lease, start_worker};

#[test]
fn a_result_is_repeated_until_it_is_acknowledged() {
    let (_origin, _, job, coordinator) = fixture();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().failing_reports = 2;
    coordinator.answers().unsettled_reports = 3;
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("the result is settled", |calls| calls.reports.len() == 4);
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    let calls = coordinator.calls();
    assert!(
        calls
            .results()
            .iter()
            .all(|result| result.wnid == WNID && result.token == 5),
        "{calls:#?}"
    );
    assert_eq!(
        calls.reports.len(),
        4,
        "the result is repeated until it is acknowledged, and not after"
    );
}

#[test]
fn unacknowledged_results_limit_the_leases_that_a_worker_requests() {
    let (_origin, _, job, coordinator) = fixture();
    // The origin has none of these classes, so each fails at once.
    coordinator.answers().leases = (1..=1200)
        .map(|number| lease(&format!("n1{number:07}"), number))
        .collect();
    coordinator.answers().unsettled_reports = u32::MAX;
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("unacknowledged results accumulate", |calls| {
        calls
            .reports
            .iter()
            .filter(|(_, report)| report.results.len() >= 1024)
            .count()
            >= 2
    });
    let left = coordinator.answers().leases.len();
    assert!(left >= 1200 - 1024 - 3, "{left} leases were not requested");
    coordinator.answers().unsettled_reports = 0;
    coordinator.wait_for("all are settled", |calls| {
        let named = calls
            .results()
            .iter()
            .map(|result| result.wnid.clone())
            .collect::<std::collections::BTreeSet<_>>();
        named.len() == 1200
    });
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

#[test]
fn a_rejected_report_ends_the_worker_and_releases_its_leases() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .class("n00000002", images("n00000002", 20, 10_000..20_000, 2))
        .forever(Answer::stall_at(100_000));
    coordinator.answers().leases = vec![lease(WNID, 5), lease("n00000002", 6)];
    coordinator.answers().refuses_reports = true;
    let finished = start_worker(&job, &coordinator, job.target_path()).wait();
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("these are no results"),
        "{}",
        finished.stderr
    );
    let calls = coordinator.calls();
    assert_eq!(calls.leave_requests.len(), 1, "{calls:#?}");
    assert!(
        calls.leave_requests[0]
            .reason
            .contains("these are no results")
    );
}

//! How a worker reacts to directives of its coordinator, and to a coordinator that does not answer.

use std::{fs, time::Duration};

use proto::outcome::Kind;
use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    folders::{assert_no_partial, staging},
    origin::Request,
    running::Signal,
};

use crate::scripted_coordinator::{Acquires, WNID, fixture, lease, start_worker};

#[test]
fn a_drained_worker_finishes_its_leases_and_requests_no_more() {
    let (origin, tar, job, coordinator) = fixture();
    origin.limit_rate(100_000);
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    coordinator.answers().directive = proto::Directive::Drain;
    let renewals = coordinator.calls().renewals;
    coordinator.wait_for("the directive is delivered", |calls| {
        calls.renewals > renewals + 1
    });
    let acquires = coordinator.calls().acquires;
    coordinator.answers().leases = vec![lease("n00000002", 6)];
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let calls = coordinator.calls();
    assert!(
        calls.acquires <= acquires + 1,
        "`Acquire` calls after the drain: {} before, then {}",
        acquires,
        calls.acquires
    );
    assert!(
        matches!(
            calls.results()[..],
            [proto::Result {
                outcome: Some(_),
                token: 5,
                ..
            }]
        ),
        "{calls:#?}"
    );
    assert_eq!(calls.leave_requests.len(), 1);
    assert_class_is(&tar, &job.class_folder(WNID));
}

#[test]
fn a_probe_is_one_request() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::status(503));
    coordinator.answers().leases = vec![proto::Lease {
        probe: true,
        ..lease(WNID, 5)
    }];
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("its failure is reported", |calls| !calls.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    assert_eq!(origin.gets(WNID).len(), 1);
    let calls = coordinator.calls();
    let Some(Kind::Failure(failure)) = calls.results()[0]
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.kind.as_ref())
    else {
        panic!("{calls:#?}")
    };
    assert_eq!(failure.suspect(), proto::Suspect::Origin);
}

#[test]
fn a_renewal_with_an_older_epoch_renews_no_lease_and_the_worker_registers_again() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(100_000)]);
    coordinator.answers().ttl = Duration::from_millis(1500);
    coordinator.answers().epoch = 4;
    coordinator.answers().renewals_epoch = Some(3);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("it registers again with its leases", |calls| {
        calls
            .registrations
            .iter()
            .skip(1)
            .any(|registration| registration.held.iter().any(|held| held.token == 5))
    });
    coordinator.answers().renewals_epoch = None;
    origin.end_stalls();
    coordinator.wait_for("the continued class is reported", |calls| {
        !calls.reports.is_empty()
    });
    coordinator.answers().job_done = true;
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("a coordinator of the past"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_vanished_target_is_reported_and_not_recreated() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(100_000)]);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let target = job.folder().join("disk");
    let worker = start_worker(&job, &coordinator, &target);
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    fs::rename(&target, job.folder().join("elsewhere")).expect("the folder is ours");
    origin.end_stalls();
    let finished = worker.wait();
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("is it still mounted?"),
        "{}",
        finished.stderr
    );
    assert!(
        !target.exists(),
        "the path could be the mount point of a disk that is not mounted"
    );
    let calls = coordinator.calls();
    assert!(
        calls.reports.is_empty(),
        "the failure is not one of the class: {calls:#?}"
    );
    assert_eq!(calls.leave_requests.len(), 1, "{calls:#?}");
    assert!(
        calls.leave_requests[0]
            .reason
            .contains("; mount that folder again"),
        "{calls:#?}"
    );
}

#[test]
fn a_worker_without_a_coordinator_ends_at_a_signal() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::stall_at(100_000));
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().ttl = Duration::from_millis(1500);
    let mut worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    drop(coordinator);
    worker.wait_until("it prints that its leases may be revoked", |worker| {
        worker
            .stderr()
            .contains("no renewal was answered in time")
            .then_some(())
    });
    worker.signal(Signal::TERM);
    let finished = worker.wait();
    assert_eq!(finished.code, Some(143), "{}", finished.stderr);
}

#[test]
fn an_interrupted_download_resumes_with_the_next_lease_and_an_attempt_without_data_leaves_no_files()
{
    let (origin, tar, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::reset_at(150_000), Answer::status(503)]);
    let empty = "n00000002";
    origin
        .class(empty, images(empty, 3, 100..200, 2))
        .forever(Answer::status(503));
    let small = "n00000003";
    origin
        .class(small, images(small, 3, 10_000..20_000, 3))
        .forever(Answer::cut_at(500));
    let probe = |wnid, token| proto::Lease {
        probe: true,
        ..lease(wnid, token)
    };
    coordinator.answers().leases = vec![probe(WNID, 5), probe(empty, 6), probe(small, 7)];
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("all classes have failed", |calls| {
        calls.results().len() == 3
    });
    let partial = fs::read_dir(staging(job.target_path())).expect("the staging folder exists");
    let names = partial.map(|entry| {
        entry
            .expect("the folder is ours")
            .file_name()
            .into_string()
            .expect("plain")
    });
    let staged: Vec<String> = names.filter(|name| name.starts_with('n')).collect();
    assert!(
        matches!(&staged[..], [one] if one.starts_with(WNID)),
        "{staged:?}"
    );
    for token in [8, 9] {
        coordinator.answers().leases = vec![probe(WNID, token)];
        coordinator.wait_for("the attempt has ended", |calls| {
            calls.results().iter().any(|result| result.token == token)
        });
    }
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    let starts: Vec<u64> = origin.gets(WNID).iter().map(Request::start).collect();
    assert!(
        matches!(starts[..], [0, once, again] if once > 100_000 && again == once),
        "{starts:?}"
    );
    assert_class_is(&tar, &job.class_folder(WNID));
    assert_no_partial(job.target_path());
}

#[test]
fn leases_of_the_previous_run_are_released_at_once_in_a_new_run() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::stall_at(100_000));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    coordinator.answers().run = 2;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it registers without leases", |calls| {
        calls.registrations.len() > 2
            && calls
                .registrations
                .last()
                .is_some_and(|last| last.held.is_empty())
    });
    let calls = coordinator.calls();
    assert_eq!(
        calls.leave_requests.len(),
        1,
        "the worker releases its leases in the new run once: {calls:#?}"
    );
    let held = |registration: &proto::RegisterRequest| {
        registration.held.iter().map(|held| held.token).collect()
    };
    let held: Vec<Vec<u64>> = calls.registrations.iter().take(3).map(held).collect();
    assert_eq!(held, [vec![], vec![5], vec![]]);
    coordinator.answers().directive = proto::Directive::Continue;
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

/// The coordinator may end right after the answer that says that the job is done.
#[test]
fn a_worker_leaves_at_the_first_answer_that_the_job_is_done() {
    for with_a_registration in [true, false] {
        let (_origin, _, job, coordinator) = fixture();
        if !with_a_registration {
            coordinator.answers().leases = vec![lease(WNID, 5)];
        }
        coordinator.answers().settled = u64::from(with_a_registration);
        let worker = start_worker(&job, &coordinator, job.target_path());
        if !with_a_registration {
            coordinator.wait_for("it has requested more leases", |calls| calls.acquires > 1);
            coordinator.answers().acquires = Acquires::Held;
            coordinator.answers().settled = 1;
            let reports = coordinator.calls().reports.len();
            coordinator.answers().leases = vec![lease("n00000002", 6)];
            coordinator.answers().acquires = Acquires::Answered;
            coordinator.wait_for("one more class is reported", |calls| {
                calls.reports.len() > reports
            });
        }
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_no_partial(job.target_path());
    }
}

/// The `Acquire` call was in flight when its session ended, and is answered after the worker has a
/// new session.
#[test]
fn an_answer_to_a_previous_session_neither_ends_the_current_session_nor_starts_a_class() {
    let (origin, _, job, coordinator) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::stall_at(100_000));
    let other = "n00000002";
    origin.class(other, images(other, 3, 100..200, 2));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    coordinator.answers().acquires = Acquires::Held;
    let acquires = coordinator.calls().acquires;
    coordinator.wait_for("it requests more leases", |calls| calls.acquires > acquires);
    coordinator.answers().session = 8;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it has registered again", |calls| {
        calls.registrations.len() == 2
    });
    coordinator.answers().directive = proto::Directive::Continue;
    let renewals = coordinator.calls().renewals;
    coordinator.wait_for("it renews its new session", |calls| {
        calls.renewals > renewals + 1
    });
    let registrations = coordinator.calls().registrations.len();
    coordinator.answers().leases = vec![lease(other, 6)];
    let acquires = coordinator.calls().acquires;
    coordinator.answers().acquires = Acquires::Answered;
    coordinator.wait_for("it requests leases again", |calls| {
        calls.acquires > acquires + 1
    });
    let calls = coordinator.calls();
    assert_eq!(calls.registrations.len(), registrations, "{calls:#?}");
    assert!(
        origin.gets(other).is_empty(),
        "the lease belongs to the old session"
    );
    origin.end_stalls();
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

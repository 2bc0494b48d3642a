//! How a worker reacts to directives of its coordinator, and to a coordinator that does not answer.

use std::{fs, path::Path, time::Duration};

use proto::outcome::Kind;
use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::Job,
    folders::{assert_no_partial, staging},
    origin::{Origin, Request},
    running::{Running, Signal},
};

use crate::{
    finished::complete,
    scripted::{Acquires, Scripted, lease},
};

const WNID: &str = "n00000001";

fn start(job: &Job, coordinator: &Scripted, target: &Path) -> Running {
    let target = target.to_str().expect("a plain path");
    job.start_worker_with([
        "--connect",
        &coordinator.url(),
        "--name",
        "w",
        "--workers",
        "2",
        "--target",
        target,
    ])
}

/// An origin with one class, its tar, a job, and a scripted coordinator.
fn setting() -> (Origin, Vec<u8>, Job, Scripted) {
    let origin = Origin::start();
    let tar = images(WNID, 20, 10_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let coordinator = Scripted::start(&origin);
    (origin, tar, Job::new(), coordinator)
}

#[test]
fn a_drained_worker_finishes_its_leases_and_requests_no_more() {
    let (origin, tar, job, coordinator) = setting();
    origin.limit_rate(100_000);
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    coordinator.answers().directive = proto::Directive::Drain;
    let renewals = coordinator.told().renewals;
    coordinator.wait_for("the directive is delivered", |calls| {
        calls.renewals > renewals + 1
    });
    let acquires = coordinator.told().acquires;
    coordinator.answers().leases = vec![lease("n00000002", 6)];
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let calls = coordinator.told();
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
    assert_eq!(calls.farewells.len(), 1);
    assert_class_is(&tar, &job.class_folder(WNID));
}

#[test]
fn a_probe_is_one_request() {
    let (origin, _, job, coordinator) = setting();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::status(503));
    coordinator.answers().leases = vec![proto::Lease {
        probe: true,
        ..lease(WNID, 5)
    }];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("its failure is reported", |calls| !calls.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    assert_eq!(origin.gets(WNID).len(), 1);
    let calls = coordinator.told();
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
fn the_inventory_of_the_target_is_reported_before_the_first_lease() {
    let (origin, _, job, coordinator) = setting();
    let wnids: Vec<String> = (1..=6000).map(|number| format!("n{number:08}")).collect();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let first = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("one class is complete", |calls| !calls.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(first.wait().code, Some(0));
    origin.forget_requests();
    complete(&job, WNID, &wnids[1..]);
    fs::create_dir(job.class_folder("n00009999")).expect("the folder is ours");

    let reports = coordinator.told().reports.len();
    let acquires = coordinator.told().acquires;
    coordinator.answers().needs_inventory = true;
    coordinator.answers().unsettled_reports = 1;
    let finished = start(&job, &coordinator, job.target_path()).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut calls = coordinator.told();
    let inventory = calls.reports.split_off(reports);
    assert!(
        inventory
            .iter()
            .all(|(before, report)| *before == acquires && report.results.len() <= 4096)
    );
    let mut found: Vec<&str> = inventory
        .iter()
        .flat_map(|(_, report)| &report.results)
        .map(|it| it.wnid.as_str())
        .collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, wnids, "exactly the complete classes");
    assert!(
        inventory
            .iter()
            .flat_map(|(_, report)| &report.results)
            .all(|result| result.token == 0)
    );
    assert_eq!(origin.all_requests().len(), 0);
    assert_no_partial(job.target_path());
}

/// As after a restart of the coordinator. The worker has published a class whose report was not
/// acknowledged.
#[test]
fn an_inventory_reports_leased_classes_only_with_their_tokens() {
    let (origin, _, job, coordinator) = setting();
    let stalled = "n00000002";
    let complete_class = "n00000003";
    origin
        .class(stalled, images(stalled, 20, 10_000..20_000, 2))
        .forever(Answer::stall_at(100_000));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().unsettled_reports = u32::MAX;
    coordinator.answers().leases = vec![lease(stalled, 6), lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("a class is reported", |calls| {
        calls.results().iter().any(|result| result.token == 5)
    });
    complete(&job, WNID, &[complete_class.to_owned()]);
    coordinator.answers().needs_inventory = true;
    coordinator.answers().session = 8;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it reports its inventory", |calls| {
        calls
            .results()
            .iter()
            .any(|result| result.wnid == complete_class)
    });
    coordinator.answers().directive = proto::Directive::Continue;
    coordinator.answers().unsettled_reports = 0;
    let reports = coordinator.told().reports.len();
    coordinator.wait_for("the whole inventory is settled", |calls| {
        calls.reports.len() > reports
    });
    let calls = coordinator.told();
    let held: Vec<u64> = calls.registrations[1]
        .held
        .iter()
        .map(|held| held.token)
        .collect();
    assert!(held.contains(&5) && held.contains(&6), "{held:?}");
    let result_of = |wnid: &str, token| {
        calls
            .results()
            .iter()
            .any(|result| result.wnid == wnid && result.token == token)
    };
    assert!(
        result_of(complete_class, 0) && !result_of(WNID, 0),
        "{:#?}",
        calls.results()
    );
    origin.end_stalls();
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

#[test]
fn a_result_is_repeated_until_it_is_acknowledged() {
    let (_origin, _, job, coordinator) = setting();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().failing_reports = 2;
    coordinator.answers().unsettled_reports = 3;
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the result is settled", |calls| calls.reports.len() == 4);
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    let calls = coordinator.told();
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
    let (_origin, _, job, coordinator) = setting();
    // The origin has none of these classes, so each fails at once.
    coordinator.answers().leases = (1..=1200)
        .map(|number| lease(&format!("n1{number:07}"), number))
        .collect();
    coordinator.answers().unsettled_reports = u32::MAX;
    let worker = start(&job, &coordinator, job.target_path());
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
    let (origin, _, job, coordinator) = setting();
    origin
        .class("n00000002", images("n00000002", 20, 10_000..20_000, 2))
        .forever(Answer::stall_at(100_000));
    coordinator.answers().leases = vec![lease(WNID, 5), lease("n00000002", 6)];
    coordinator.answers().refuses_reports = true;
    let finished = start(&job, &coordinator, job.target_path()).wait();
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("these are no results"),
        "{}",
        finished.stderr
    );
    let calls = coordinator.told();
    assert_eq!(calls.farewells.len(), 1, "{calls:#?}");
    assert!(calls.farewells[0].reason.contains("these are no results"));
}

#[test]
fn a_renewal_with_an_older_epoch_renews_no_lease_and_the_worker_registers_again() {
    let (origin, _, job, coordinator) = setting();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(100_000)]);
    coordinator.answers().ttl = Duration::from_millis(1500);
    coordinator.answers().epoch = 4;
    coordinator.answers().renewals_epoch = Some(3);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
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
    let (origin, _, job, coordinator) = setting();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(100_000)]);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let target = job.folder().join("disk");
    let worker = start(&job, &coordinator, &target);
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
    let calls = coordinator.told();
    assert!(
        calls.reports.is_empty(),
        "the failure is not one of the class: {calls:#?}"
    );
    assert_eq!(calls.farewells.len(), 1, "{calls:#?}");
    assert!(
        calls.farewells[0]
            .reason
            .contains("; mount that folder again"),
        "{calls:#?}"
    );
}

#[test]
fn one_storage_has_one_id_on_every_path_and_two_disks_have_two_ids() {
    let (_origin, _, job, coordinator) = setting();
    let disk = job.folder().join("disk");
    let other = job.folder().join("other");
    let link = job.folder().join("link");
    fs::create_dir(&disk).expect("the folder is ours");
    std::os::unix::fs::symlink(&disk, &link).expect("the folder is ours");
    let workers = [&disk, &link, &disk, &other].map(|target| start(&job, &coordinator, target));
    coordinator.wait_for("all workers have registered", |calls| {
        calls.registrations.len() == 4
    });
    coordinator.answers().job_done = true;
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    let mut ids: Vec<String> = coordinator
        .told()
        .registrations
        .into_iter()
        .map(|it| it.storage_id)
        .collect();
    ids.sort_unstable();
    let different = ids
        .chunk_by(|one, next| one == next)
        .map(<[String]>::len)
        .collect::<Vec<_>>();
    assert!(different == [1, 3] || different == [3, 1], "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
}

#[test]
fn a_worker_without_a_coordinator_ends_at_a_signal() {
    let (origin, _, job, coordinator) = setting();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::stall_at(100_000));
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().ttl = Duration::from_millis(1500);
    let mut worker = start(&job, &coordinator, job.target_path());
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
fn an_inventory_removes_no_tar_and_ignores_tars_of_the_user() {
    let (origin, _, job, coordinator) = setting();
    let wnids: Vec<String> = (1..=4).map(|number| format!("n{number:08}")).collect();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let first = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("one class is complete", |calls| !calls.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(first.wait().code, Some(0));
    complete(&job, WNID, &wnids[1..]);
    origin.forget_requests();
    let tar = |wnid: &str| job.target_path().join(format!("{wnid}.tar"));
    for wnid in &wnids[2..] {
        fs::write(tar(wnid), "of another job, perhaps").expect("the folder is ours");
    }

    let reports = coordinator.told().reports.len();
    coordinator.answers().needs_inventory = true;
    coordinator.answers().job_done = false;
    coordinator.answers().leases = vec![lease(&wnids[2], 6)];
    let second = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the leased class is reported", |calls| {
        calls.results().iter().any(|result| result.token == 6)
    });
    coordinator.answers().job_done = true;
    assert_eq!(second.wait().code, Some(0));
    let calls = coordinator.told();
    let found = calls.reports[reports..]
        .iter()
        .flat_map(|(_, report)| &report.results);
    let mut found: Vec<(&str, u64)> = found
        .map(|result| (result.wnid.as_str(), result.token))
        .collect();
    found.sort_unstable();
    let expected = [
        (&*wnids[0], 0),
        (&*wnids[1], 0),
        (&*wnids[2], 0),
        (&*wnids[2], 6),
        (&*wnids[3], 0),
    ];
    assert_eq!(found, expected);
    assert!(
        tar(&wnids[2]).exists() && tar(&wnids[3]).exists(),
        "this program did not write them"
    );
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn an_interrupted_download_resumes_with_the_next_lease_and_an_attempt_without_data_leaves_no_files()
{
    let (origin, tar, job, coordinator) = setting();
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
    let worker = start(&job, &coordinator, job.target_path());
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
    let (origin, _, job, coordinator) = setting();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::stall_at(100_000));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
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
    let calls = coordinator.told();
    assert_eq!(
        calls.farewells.len(),
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
        let (_origin, _, job, coordinator) = setting();
        if !with_a_registration {
            coordinator.answers().leases = vec![lease(WNID, 5)];
        }
        coordinator.answers().settled = u64::from(with_a_registration);
        let worker = start(&job, &coordinator, job.target_path());
        if !with_a_registration {
            coordinator.wait_for("it has requested more leases", |calls| calls.acquires > 1);
            coordinator.answers().acquires = Acquires::Held;
            coordinator.answers().settled = 1;
            let reports = coordinator.told().reports.len();
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
    let (origin, _, job, coordinator) = setting();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .forever(Answer::stall_at(100_000));
    let other = "n00000002";
    origin.class(other, images(other, 3, 100..200, 2));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is in progress", |_| {
        !origin.gets(WNID).is_empty()
    });
    coordinator.answers().acquires = Acquires::Held;
    let acquires = coordinator.told().acquires;
    coordinator.wait_for("it requests more leases", |calls| calls.acquires > acquires);
    coordinator.answers().session = 8;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it has registered again", |calls| {
        calls.registrations.len() == 2
    });
    coordinator.answers().directive = proto::Directive::Continue;
    let renewals = coordinator.told().renewals;
    coordinator.wait_for("it renews its new session", |calls| {
        calls.renewals > renewals + 1
    });
    let registrations = coordinator.told().registrations.len();
    coordinator.answers().leases = vec![lease(other, 6)];
    let acquires = coordinator.told().acquires;
    coordinator.answers().acquires = Acquires::Answered;
    coordinator.wait_for("it requests leases again", |calls| {
        calls.acquires > acquires + 1
    });
    let calls = coordinator.told();
    assert_eq!(calls.registrations.len(), registrations, "{calls:#?}");
    assert!(
        origin.gets(other).is_empty(),
        "the lease belongs to the old session"
    );
    origin.end_stalls();
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

//! What a worker does when a coordinator says so, or says nothing.

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
    job.start_worker_with(["--connect", &coordinator.url(), "--name", "w", "--workers", "2", "--target", target])
}

fn setting() -> (Origin, Vec<u8>, Job, Scripted) {
    let origin = Origin::start();
    let tar = images(WNID, 20, 10_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let coordinator = Scripted::start(&origin);
    (origin, tar, Job::new(), coordinator)
}

#[test]
fn a_drained_worker_finishes_what_it_holds_and_asks_for_nothing_more() {
    let (origin, tar, job, coordinator) = setting();
    origin.limit_rate(100_000);
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is under way", |_| !origin.gets(WNID).is_empty());
    coordinator.answers().directive = proto::Directive::Drain;
    let renewals = coordinator.told().renewals;
    coordinator.wait_for("it was told", |told| told.renewals > renewals + 1);
    let acquires = coordinator.told().acquires;
    coordinator.answers().leases = vec![lease("n00000002", 6)];
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let told = coordinator.told();
    assert!(told.acquires <= acquires + 1, "it asked on: {} times, then {}", acquires, told.acquires);
    assert!(matches!(told.results()[..], [proto::Result { outcome: Some(_), token: 5, .. }]), "{told:#?}");
    assert_eq!(told.farewells.len(), 1);
    assert_class_is(&tar, &job.class_folder(WNID));
}

#[test]
fn a_probe_is_one_request() {
    let (origin, _, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").forever(Answer::status(503));
    coordinator.answers().leases = vec![proto::Lease { probe: true, ..lease(WNID, 5) }];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("its failure is reported", |told| !told.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    assert_eq!(origin.gets(WNID).len(), 1);
    let told = coordinator.told();
    let Some(Kind::Failure(failure)) = told.results()[0].outcome.as_ref().and_then(|outcome| outcome.kind.as_ref())
    else {
        panic!("{told:#?}")
    };
    assert_eq!(failure.suspect(), proto::Suspect::Origin);
}

#[test]
fn what_the_target_has_is_reported_before_the_first_lease() {
    let (origin, _, job, coordinator) = setting();
    let wnids: Vec<String> = (1..=6000).map(|number| format!("n{number:08}")).collect();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let first = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("there is one class", |told| !told.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(first.wait().code, Some(0));
    origin.forget_requests();
    complete(&job, WNID, &wnids[1..]);
    fs::create_dir(job.class_folder("n00009999")).expect("the folder is ours");

    let (reports, acquires) = (coordinator.told().reports.len(), coordinator.told().acquires);
    coordinator.answers().survey = true;
    coordinator.answers().unsettled_reports = 1;
    let finished = start(&job, &coordinator, job.target_path()).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut told = coordinator.told();
    let surveyed = told.reports.split_off(reports);
    assert!(surveyed.iter().all(|(before, report)| *before == acquires && report.results.len() <= 4096));
    let mut found: Vec<&str> =
        surveyed.iter().flat_map(|(_, report)| &report.results).map(|it| it.wnid.as_str()).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, wnids, "all that is complete, and nothing else");
    assert!(surveyed.iter().flat_map(|(_, report)| &report.results).all(|result| result.token == 0));
    assert_eq!(origin.all_requests().len(), 0);
    assert_no_partial(job.target_path());
}

/// As after a restart of the coordinator. The worker has published a class and has no receipt for it.
#[test]
fn a_worker_with_leases_that_is_asked_what_it_has_reports_what_it_has_leased_under_its_lease_only() {
    let (origin, _, job, coordinator) = setting();
    let (stalled, there) = ("n00000002", "n00000003");
    origin.class(stalled, images(stalled, 20, 10_000..20_000, 2)).forever(Answer::stall_at(100_000));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().unsettled_reports = u32::MAX;
    coordinator.answers().leases = vec![lease(stalled, 6), lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("a class is reported", |told| told.results().iter().any(|result| result.token == 5));
    complete(&job, WNID, &[there.to_owned()]);
    coordinator.answers().survey = true;
    coordinator.answers().session = 8;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it says what it has", |told| told.results().iter().any(|result| result.wnid == there));
    coordinator.answers().directive = proto::Directive::Continue;
    coordinator.answers().unsettled_reports = 0;
    let reports = coordinator.told().reports.len();
    coordinator.wait_for("all that it has is settled", |told| told.reports.len() > reports);
    let told = coordinator.told();
    let held: Vec<u64> = told.registrations[1].held.iter().map(|held| held.token).collect();
    assert!(held.contains(&5) && held.contains(&6), "{held:?}");
    let result_of =
        |wnid: &str, token| told.results().iter().any(|result| result.wnid == wnid && result.token == token);
    assert!(result_of(there, 0) && !result_of(WNID, 0), "{:#?}", told.results());
    origin.end_stalls();
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

#[test]
fn a_result_is_kept_until_it_is_settled() {
    let (_origin, _, job, coordinator) = setting();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().failing_reports = 2;
    coordinator.answers().unsettled_reports = 3;
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("it is settled", |told| told.reports.len() == 4);
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    let told = coordinator.told();
    assert!(told.results().iter().all(|result| result.wnid == WNID && result.token == 5), "{told:#?}");
    assert_eq!(told.reports.len(), 4, "neither lost nor sent for ever");
}

#[test]
fn a_coordinator_that_settles_nothing_is_asked_for_no_more_than_can_be_told() {
    let (_origin, _, job, coordinator) = setting();
    // None of them is there, so each is done with at once.
    coordinator.answers().leases = (1..=1200).map(|number| lease(&format!("n1{number:07}"), number)).collect();
    coordinator.answers().unsettled_reports = u32::MAX;
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("results pile up", |told| {
        told.reports.iter().filter(|(_, report)| report.results.len() >= 1024).count() >= 2
    });
    let left = coordinator.answers().leases.len();
    assert!(left >= 1200 - 1024 - 3, "{left} leases were not asked for");
    coordinator.answers().unsettled_reports = 0;
    coordinator.wait_for("all are settled", |told| {
        let named = told.results().iter().map(|result| result.wnid.clone()).collect::<std::collections::BTreeSet<_>>();
        named.len() == 1200
    });
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

#[test]
fn a_refused_report_ends_the_worker_with_its_leases_handed_back() {
    let (origin, _, job, coordinator) = setting();
    origin.class("n00000002", images("n00000002", 20, 10_000..20_000, 2)).forever(Answer::stall_at(100_000));
    coordinator.answers().leases = vec![lease(WNID, 5), lease("n00000002", 6)];
    coordinator.answers().refuses_reports = true;
    let finished = start(&job, &coordinator, job.target_path()).wait();
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("these are no results"), "{}", finished.stderr);
    let told = coordinator.told();
    assert_eq!(told.farewells.len(), 1, "{told:#?}");
    assert!(told.farewells[0].reason.contains("these are no results"));
}

#[test]
fn a_coordinator_of_the_past_renews_nothing_and_the_worker_looks_for_its_successor() {
    let (origin, _, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").script([Answer::stall_at(100_000)]);
    coordinator.answers().ttl = Duration::from_millis(1500);
    coordinator.answers().epoch = 4;
    coordinator.answers().renewals_epoch = Some(3);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("it registers again, with what it holds", |told| {
        told.registrations.iter().skip(1).any(|registration| registration.held.iter().any(|held| held.token == 5))
    });
    coordinator.answers().renewals_epoch = None;
    origin.end_stalls();
    coordinator.wait_for("the class that went on is reported", |told| !told.reports.is_empty());
    coordinator.answers().job_done = true;
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("a coordinator of the past"), "{}", finished.stderr);
}

#[test]
fn a_target_that_vanishes_is_said_and_not_made_again() {
    let (origin, _, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").script([Answer::stall_at(100_000)]);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let target = job.folder().join("disk");
    let worker = start(&job, &coordinator, &target);
    coordinator.wait_for("the class is under way", |_| !origin.gets(WNID).is_empty());
    fs::rename(&target, job.folder().join("elsewhere")).expect("the folder is ours");
    origin.end_stalls();
    let finished = worker.wait();
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("is it still mounted?"), "{}", finished.stderr);
    assert!(!target.exists(), "it could be the place of a disk that is not mounted");
    let told = coordinator.told();
    assert!(told.reports.is_empty(), "the class is not at fault: {told:#?}");
    assert_eq!(told.farewells.len(), 1, "{told:#?}");
    assert!(told.farewells[0].reason.contains("; mount that folder again"), "{told:#?}");
}

#[test]
fn one_storage_has_one_name_by_any_way_and_two_disks_have_two() {
    let (_origin, _, job, coordinator) = setting();
    let (disk, other) = (job.folder().join("disk"), job.folder().join("other"));
    let link = job.folder().join("link");
    fs::create_dir(&disk).expect("the folder is ours");
    std::os::unix::fs::symlink(&disk, &link).expect("the folder is ours");
    let workers = [&disk, &link, &disk, &other].map(|target| start(&job, &coordinator, target));
    coordinator.wait_for("all have registered", |told| told.registrations.len() == 4);
    coordinator.answers().job_done = true;
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    let mut ids: Vec<String> = coordinator.told().registrations.into_iter().map(|it| it.storage_id).collect();
    ids.sort_unstable();
    let different = ids.chunk_by(|one, next| one == next).map(<[String]>::len).collect::<Vec<_>>();
    assert!(different == [1, 3] || different == [3, 1], "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
}

#[test]
fn a_worker_whose_coordinator_is_away_ends_when_it_is_told_to() {
    let (origin, _, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").forever(Answer::stall_at(100_000));
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().ttl = Duration::from_millis(1500);
    let mut worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is under way", |_| !origin.gets(WNID).is_empty());
    drop(coordinator);
    worker.wait_until("it says that its leases may be gone", |worker| {
        worker.stderr().contains("no renewal was answered in time").then_some(())
    });
    worker.signal(Signal::TERM);
    let finished = worker.wait();
    assert_eq!(finished.code, Some(143), "{}", finished.stderr);
}

#[test]
fn a_survey_removes_no_tar_and_passes_over_one_of_the_user() {
    let (origin, _, job, coordinator) = setting();
    let wnids: Vec<String> = (1..=4).map(|number| format!("n{number:08}")).collect();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let first = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("there is one class", |told| !told.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(first.wait().code, Some(0));
    complete(&job, WNID, &wnids[1..]);
    origin.forget_requests();
    let tar = |wnid: &str| job.target_path().join(format!("{wnid}.tar"));
    for wnid in &wnids[2..] {
        fs::write(tar(wnid), "of another job, perhaps").expect("the folder is ours");
    }

    let reports = coordinator.told().reports.len();
    coordinator.answers().survey = true;
    coordinator.answers().job_done = false;
    coordinator.answers().leases = vec![lease(&wnids[2], 6)];
    let second = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the leased class is reported", |told| told.results().iter().any(|result| result.token == 6));
    coordinator.answers().job_done = true;
    assert_eq!(second.wait().code, Some(0));
    let told = coordinator.told();
    let found = told.reports[reports..].iter().flat_map(|(_, report)| &report.results);
    let mut found: Vec<(&str, u64)> = found.map(|result| (result.wnid.as_str(), result.token)).collect();
    found.sort_unstable();
    let expected = [(&*wnids[0], 0), (&*wnids[1], 0), (&*wnids[2], 0), (&*wnids[2], 6), (&*wnids[3], 0)];
    assert_eq!(found, expected);
    assert!(tar(&wnids[2]).exists() && tar(&wnids[3]).exists(), "this program did not write them");
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn what_the_origin_cut_goes_on_there_under_the_next_lease_and_nothing_is_left_of_what_never_began() {
    let (origin, tar, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").script([Answer::reset_at(150_000), Answer::status(503)]);
    let empty = "n00000002";
    origin.class(empty, images(empty, 3, 100..200, 2)).forever(Answer::status(503));
    let small = "n00000003";
    origin.class(small, images(small, 3, 10_000..20_000, 3)).forever(Answer::cut_at(500));
    let probe = |wnid, token| proto::Lease { probe: true, ..lease(wnid, token) };
    coordinator.answers().leases = vec![probe(WNID, 5), probe(empty, 6), probe(small, 7)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("all have failed", |told| told.results().len() == 3);
    let partial = fs::read_dir(staging(job.target_path())).expect("the worker is here");
    let names = partial.map(|entry| entry.expect("the folder is ours").file_name().into_string().expect("plain"));
    let staged: Vec<String> = names.filter(|name| name.starts_with('n')).collect();
    assert!(matches!(&staged[..], [one] if one.starts_with(WNID)), "{staged:?}");
    for token in [8, 9] {
        coordinator.answers().leases = vec![probe(WNID, token)];
        coordinator.wait_for("it has ended", |told| told.results().iter().any(|result| result.token == token));
    }
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    let starts: Vec<u64> = origin.gets(WNID).iter().map(Request::start).collect();
    assert!(matches!(starts[..], [0, once, again] if once > 100_000 && again == once), "{starts:?}");
    assert_class_is(&tar, &job.class_folder(WNID));
    assert_no_partial(job.target_path());
}

#[test]
fn another_run_is_told_at_once_that_nothing_of_the_former_goes_on() {
    let (origin, _, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").forever(Answer::stall_at(100_000));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is under way", |_| !origin.gets(WNID).is_empty());
    coordinator.answers().run = 2;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it begins anew", |told| {
        told.registrations.len() > 2 && told.registrations.last().is_some_and(|last| last.held.is_empty())
    });
    let told = coordinator.told();
    assert_eq!(told.farewells.len(), 1, "the leases that went over to the other run: {told:#?}");
    let held = |registration: &proto::RegisterRequest| registration.held.iter().map(|held| held.token).collect();
    let held: Vec<Vec<u64>> = told.registrations.iter().take(3).map(held).collect();
    assert_eq!(held, [vec![], vec![5], vec![]]);
    coordinator.answers().directive = proto::Directive::Continue;
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

/// The coordinator that says so may be gone before it can be asked for anything.
#[test]
fn a_worker_leaves_with_the_job_as_soon_as_any_answer_says_that_it_is_done() {
    for with_a_registration in [true, false] {
        let (_origin, _, job, coordinator) = setting();
        if !with_a_registration {
            coordinator.answers().leases = vec![lease(WNID, 5)];
        }
        coordinator.answers().settled = u64::from(with_a_registration);
        let worker = start(&job, &coordinator, job.target_path());
        if !with_a_registration {
            coordinator.wait_for("it has asked for more", |told| told.acquires > 1);
            coordinator.answers().acquires = Acquires::Held;
            coordinator.answers().settled = 1;
            let reports = coordinator.told().reports.len();
            coordinator.answers().leases = vec![lease("n00000002", 6)];
            coordinator.answers().acquires = Acquires::Answered;
            coordinator.wait_for("one more is reported", |told| told.reports.len() > reports);
        }
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_no_partial(job.target_path());
    }
}

/// Its question for leases was in flight when its session ended, and is answered when it has another one.
#[test]
fn an_answer_about_a_former_session_neither_ends_the_session_of_now_nor_begins_anything() {
    let (origin, _, job, coordinator) = setting();
    origin.script_of(WNID).expect("it is served").forever(Answer::stall_at(100_000));
    let other = "n00000002";
    origin.class(other, images(other, 3, 100..200, 2));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let worker = start(&job, &coordinator, job.target_path());
    coordinator.wait_for("the class is under way", |_| !origin.gets(WNID).is_empty());
    coordinator.answers().acquires = Acquires::Held;
    let acquires = coordinator.told().acquires;
    coordinator.wait_for("it asks for more", |told| told.acquires > acquires);
    coordinator.answers().session = 8;
    coordinator.answers().directive = proto::Directive::Reregister;
    coordinator.wait_for("it has registered again", |told| told.registrations.len() == 2);
    coordinator.answers().directive = proto::Directive::Continue;
    let renewals = coordinator.told().renewals;
    coordinator.wait_for("it renews its new session", |told| told.renewals > renewals + 1);
    let registrations = coordinator.told().registrations.len();
    coordinator.answers().leases = vec![lease(other, 6)];
    let acquires = coordinator.told().acquires;
    coordinator.answers().acquires = Acquires::Answered;
    coordinator.wait_for("it asks again", |told| told.acquires > acquires + 1);
    let told = coordinator.told();
    assert_eq!(told.registrations.len(), registrations, "{told:#?}");
    assert!(origin.gets(other).is_empty(), "a lease of the session that has ended");
    origin.end_stalls();
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
}

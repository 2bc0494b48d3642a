//! What a worker finds in its target: the storage's id, and the complete classes, which it reports
//! before its first lease.

use std::{fs, time::Duration};

use tests::{answer::Answer, archives::images, folders::assert_no_partial};

use crate::{
    finished::complete,
    scripted_coordinator::{WNID, fixture, lease, start_worker},
};

#[test]
fn the_inventory_of_the_target_is_reported_before_the_first_lease() {
    let (origin, _, job, coordinator) = fixture();
    let wnids: Vec<String> = (1..=6000).map(|number| format!("n{number:08}")).collect();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let first = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("one class is complete", |calls| !calls.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(first.wait().code, Some(0));
    origin.forget_requests();
    complete(&job, WNID, &wnids[1..]);
    fs::create_dir(job.class_folder("n00009999")).expect("the folder is ours");

    let reports = coordinator.calls().reports.len();
    let acquires = coordinator.calls().acquires;
    coordinator.answers().needs_inventory = true;
    coordinator.answers().unsettled_reports = 1;
    let finished = start_worker(&job, &coordinator, job.target_path()).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let mut calls = coordinator.calls();
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
    let (origin, _, job, coordinator) = fixture();
    let stalled = "n00000002";
    let complete_class = "n00000003";
    origin
        .class(stalled, images(stalled, 20, 10_000..20_000, 2))
        .forever(Answer::stall_at(100_000));
    coordinator.answers().ttl = Duration::from_millis(900);
    coordinator.answers().unsettled_reports = u32::MAX;
    coordinator.answers().leases = vec![lease(stalled, 6), lease(WNID, 5)];
    let worker = start_worker(&job, &coordinator, job.target_path());
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
    let reports = coordinator.calls().reports.len();
    coordinator.wait_for("the whole inventory is settled", |calls| {
        calls.reports.len() > reports
    });
    let calls = coordinator.calls();
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
fn an_inventory_removes_no_tar_and_ignores_tars_of_the_user() {
    let (origin, _, job, coordinator) = fixture();
    let wnids: Vec<String> = (1..=4).map(|number| format!("n{number:08}")).collect();
    coordinator.answers().leases = vec![lease(WNID, 5)];
    let first = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("one class is complete", |calls| !calls.reports.is_empty());
    coordinator.answers().job_done = true;
    assert_eq!(first.wait().code, Some(0));
    complete(&job, WNID, &wnids[1..]);
    origin.forget_requests();
    let tar = |wnid: &str| job.target_path().join(format!("{wnid}.tar"));
    for wnid in &wnids[2..] {
        fs::write(tar(wnid), "of another job, perhaps").expect("the folder is ours");
    }

    let reports = coordinator.calls().reports.len();
    coordinator.answers().needs_inventory = true;
    coordinator.answers().job_done = false;
    coordinator.answers().leases = vec![lease(&wnids[2], 6)];
    let second = start_worker(&job, &coordinator, job.target_path());
    coordinator.wait_for("the leased class is reported", |calls| {
        calls.results().iter().any(|result| result.token == 6)
    });
    coordinator.answers().job_done = true;
    assert_eq!(second.wait().code, Some(0));
    let calls = coordinator.calls();
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
fn one_storage_has_one_id_on_every_path_and_two_disks_have_two_ids() {
    let (_origin, _, job, coordinator) = fixture();
    let disk = job.folder().join("disk");
    let other = job.folder().join("other");
    let link = job.folder().join("link");
    fs::create_dir(&disk).expect("the folder is ours");
    std::os::unix::fs::symlink(&disk, &link).expect("the folder is ours");
    let workers =
        [&disk, &link, &disk, &other].map(|target| start_worker(&job, &coordinator, target));
    coordinator.wait_for("all workers have registered", |calls| {
        calls.registrations.len() == 4
    });
    coordinator.answers().job_done = true;
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    let mut ids: Vec<String> = coordinator
        .calls()
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

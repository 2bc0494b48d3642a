//! Restarts with another list or another origin in the same target: a new run, which skips complete
//! classes.

use tests::{
    archives::assert_class_is,
    cluster::{Job, Table},
    fleet::{Fleet, fixed_address},
    origin::Origin,
    running::Signal,
    wait::wait_for,
};

use crate::{TIMEOUT, wnid};

/// A job of three classes that was interrupted when the first one was complete.
fn interrupted() -> Fleet {
    let fleet = crate::fleet(3, 50_000);
    let mut coordinator = fleet.start_coordinator();
    let worker = fleet.start_worker("worker", 1);
    coordinator.wait_until("the first class is settled", |_| {
        fleet.settled().contains_key(&wnid(1)).then_some(())
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(143));
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.wait().code, Some(143));
    fleet.origin.limit_rate(0);
    fleet
}

#[test]
fn another_list_is_another_run_that_skips_complete_classes() {
    let fleet = interrupted();
    let lists: [(&[u64], Table); 2] = [
        (&[1, 2], Table::of(1, 1, 0)),
        (&[2, 3, 1], Table::of(1, 2, 0)),
    ];
    for (classes, table) in lists {
        let wnids: Vec<String> = classes.iter().copied().map(wnid).collect();
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&fleet.origin)
            .args(["--delete-tar"]);
        let job = job.target(fleet.job.target_path());
        let coordinator = job.start_coordinator_at(fleet.address());
        let worker = fleet.start_worker("worker", 1);
        assert_eq!(worker.wait().code, Some(0));
        job.assert_ended(&coordinator.wait(), 0, table);
    }
    for (wnid, tar) in &fleet.tars {
        assert_class_is(tar, &fleet.job.class_folder(wnid));
    }
    assert_eq!(fleet.gets(&wnid(1)), 1, "the class was complete");
}

#[test]
fn another_origin_is_another_run_that_skips_complete_classes() {
    let fleet = interrupted();
    let elsewhere = Origin::start();
    for (wnid, tar) in &fleet.tars {
        elsewhere.class(wnid, tar.clone());
    }
    let wnids = fleet.tars.iter().map(|(wnid, _)| wnid.as_str());
    let job = Job::new()
        .classes(wnids)
        .origin(&elsewhere)
        .args(["--delete-tar"])
        .target(fleet.job.target_path());
    let coordinator = job.start_coordinator_at(fleet.address());
    let worker = fleet.start_worker("worker", 1);
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.wait(), 0, Table::of(2, 1, 0));
    assert!(
        elsewhere.gets(&wnid(1)).is_empty(),
        "the class was complete"
    );
}

/// As a user or log rotation may do.
#[test]
fn a_failure_log_that_is_removed_during_the_job_gets_later_failures() {
    let fleet = Fleet::new(2, 25, 15_000..25_000, &[]);
    fleet.origin.limit_rate(100_000);
    let wnids = [wnid(1), wnid(2), wnid(8), wnid(9)];
    let job = Job::new().classes([&wnids[2], &wnids[0], &wnids[3], &wnids[1]].map(String::as_str));
    let job = job.origin(&fleet.origin).args(["--delete-tar"]);
    let coordinator = job.start_coordinator_at(fleet.address());
    let worker = fleet.start_worker_in(job.target_path(), &fleet.url(), "worker", 1);
    let log = job.target_path().join("failed_downloads.log");
    wait_for("the first failure is logged", TIMEOUT, || {
        !job.failures().is_empty()
    });
    std::fs::remove_file(&log).expect("the log exists");
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.wait(), 1, Table::of(2, 0, 2));
    assert!(job.failure_of(&wnids[3]).starts_with("HTTPError"));
    assert_eq!(
        job.failures().len(),
        1,
        "only the later failure is in the new file: {:?}",
        job.failures()
    );
}

/// A second coordinator would empty the failure log and write into the log of the first one.
#[test]
fn a_second_coordinator_on_one_target_is_rejected_with_any_ledger() {
    let fleet = crate::fleet(1, 100_000);
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_until("the ledger exists", |_| {
        fleet
            .job
            .target_path()
            .join(".imagenet_downloader.ledger")
            .exists()
            .then_some(())
    });
    let worker = fleet.start_worker("worker", 1);
    fleet.wait_for_gets(&wnid(1), 1, TIMEOUT);
    let ledger = fleet.job.folder().join("another.ledger");
    let ledger = ledger.to_str().expect("a plain path");
    let job = Job::new()
        .classes([wnid(1).as_str()])
        .origin(&fleet.origin)
        .args(["--ledger", ledger]);
    let job = job.target(fleet.job.target_path());
    let second = job.start_coordinator_at(fixed_address()).wait();
    job.assert_could_not_run(&second, &["another coordinator works in it", "--target"]);
    fleet.assert_done(coordinator, [worker], Table::of(1, 0, 0));
}

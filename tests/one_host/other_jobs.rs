//! Workers that share a host, a name or a storage without belonging to one job.

use std::path::Path;

use tests::{
    archives::{assert_class_is, difference, images},
    cluster::{Job, Table},
    folders::assert_no_partial,
    log::assert_lines,
    origin::Origin,
    running::Signal,
};

const SHORT: &str = "n00000001";
const LONG: &str = "n00000002";

#[test]
fn of_two_workers_of_one_name_the_older_ends_with_a_message_and_the_newer_finishes_the_job() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=6).map(|number| format!("n{number:08}")).collect();
    let tars: Vec<Vec<u8>> = (1..)
        .zip(&wnids)
        .map(|(seed, wnid)| images(wnid, 20, 10_000..20_000, seed))
        .collect();
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    // A class takes three seconds until the second worker has registered.
    origin.limit_rate(100_000);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let disks = ["disk1", "disk2"].map(|name| job.folder().join(name));
    let start = |disk: &Path| {
        let disk = disk.to_str().expect("a plain path");
        job.start_worker_with(["--connect", &connect, "--workers", "1", "--target", disk])
    };

    let mut first = start(&disks[0]);
    first.wait_until("its download is in progress", |_| {
        (origin.bytes_sent() > 50_000).then_some(())
    });
    // The newest process with a name keeps it: usually it is a restart.
    let mut second = start(&disks[1]);
    let first = first.wait();
    job.assert_could_not_run(&first, &["--name"]);
    assert_eq!(
        first.stderr.matches("--name").count(),
        1,
        "reported once: {}",
        first.stderr
    );
    assert!(second.is_running(), "the newer worker keeps running");

    origin.limit_rate(0);
    let second = second.wait();
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(6, 0, 0));
    for (wnid, tar) in wnids.iter().zip(&tars) {
        let complete = disks
            .iter()
            .any(|disk| difference(tar, &disk.join(wnid)).is_none());
        assert!(complete, "{wnid} is on neither disk");
    }
    assert_no_partial(&disks[1]);
    let log = job.log();
    assert!(!log.is_empty());
    assert_lines(&log, 0, &["LeaseLost"]);
}

/// Two jobs, each with its own coordinator and logs, whose workers write into the same folder.
fn two_jobs() -> (Origin, [Vec<u8>; 2], [Job; 2]) {
    let origin = Origin::start();
    let tars = [
        images(SHORT, 3, 1000..9000, 1),
        images(LONG, 400, 40_000..60_000, 2),
    ];
    for (wnid, tar) in [SHORT, LONG].iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    origin.limit_rate(2_000_000);
    // One slot, so that no slot is free to fetch parts of the long class.
    let job = |wnid| {
        Job::new()
            .classes([wnid])
            .origin(&origin)
            .args(["--delete-tar"])
    };
    let jobs = [SHORT, LONG].map(|wnid| job(wnid).variable("IMAGENET_WORKERS", "1"));
    (origin, tars, jobs)
}

/// Runs the short job to its end on a storage.
#[track_caller]
fn run_short_job(job: &Job, storage: &Path) {
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("short", &coordinator, storage).wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
}

#[test]
fn a_job_that_ends_does_not_affect_another_jobs_worker_on_the_same_storage() {
    let (origin, tars, [short, long]) = two_jobs();
    let storage = long.folder().join("storage");
    let coordinator = long.start_coordinator();
    let mut worker = long.start_worker("long", &coordinator, &storage);
    worker.wait_until("six megabytes were sent", |_| {
        (origin.bytes_sent() > 6_000_000).then_some(())
    });
    run_short_job(&short, &storage);
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    long.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    for (wnid, tar) in [SHORT, LONG].iter().zip(&tars) {
        assert_class_is(tar, &storage.join(wnid));
    }
    let gets = origin.gets(LONG);
    assert!(
        gets.len() == 1 && gets[0].sent == tars[1].len() as u64,
        "some bytes were sent twice: {gets:#?}"
    );
    assert_no_partial(&storage);
}

#[test]
fn a_job_that_ends_keeps_the_journal_of_another_jobs_worker() {
    let (origin, tars, [short, long]) = two_jobs();
    let storage = long.folder().join("storage");
    let coordinator = long.start_coordinator();
    let mut worker = long.start_worker("long", &coordinator, &storage);
    worker.wait_until("six megabytes were sent", |_| {
        (origin.bytes_sent() > 6_000_000).then_some(())
    });
    run_short_job(&short, &storage);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(143));

    origin.limit_rate(0);
    origin.forget_requests();
    let finished = long.start_worker("long", &coordinator, &storage).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    long.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tars[1], &storage.join(LONG));
    let gets = origin.gets(LONG);
    assert!(
        gets.len() == 1 && gets[0].start() > 3_000_000,
        "the class was not resumed: {gets:#?}"
    );
    assert_no_partial(&storage);
}

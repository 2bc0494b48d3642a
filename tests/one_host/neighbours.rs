//! Workers that share a host, a name or a storage, and do not belong together.

use std::path::Path;

use tests::{
    archives::{assert_class_is, difference, images},
    cluster::{Job, Table},
    folders::assert_no_partial,
    origin::Origin,
    running::Signal,
};

const SHORT: &str = "n00000001";
const LONG: &str = "n00000002";

#[test]
fn of_two_workers_of_one_name_the_older_is_told_so_and_the_newer_finishes_the_job() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=6).map(|number| format!("n{number:08}")).collect();
    let tars: Vec<Vec<u8>> = (1..).zip(&wnids).map(|(seed, wnid)| images(wnid, 20, 10_000..20_000, seed)).collect();
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    // Three seconds a class, until the second worker has had its answer.
    origin.limit_rate(100_000);
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin).args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let disks = ["disk1", "disk2"].map(|name| job.folder().join(name));
    let start = |disk: &Path| {
        let disk = disk.to_str().expect("a plain path");
        job.start_worker_with(["--connect", &connect, "--workers", "1", "--target", disk])
    };

    let mut first = start(&disks[0]);
    first.wait_until("its download is under way", |_| (origin.bytes_sent() > 50_000).then_some(()));
    // The newest process of a name has it: usually it is the one that was started again.
    let mut second = start(&disks[1]);
    let first = first.wait();
    job.assert_could_not_run(&first, &["--name"]);
    assert_eq!(first.stderr.matches("--name").count(), 1, "told once: {}", first.stderr);
    assert!(second.is_running(), "the newer one is not sent away");

    origin.limit_rate(0);
    let second = second.wait();
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(6, 0, 0));
    for (wnid, tar) in wnids.iter().zip(&tars) {
        let complete = disks.iter().any(|disk| difference(tar, &disk.join(wnid)).is_none());
        assert!(complete, "{wnid} is on neither disk");
    }
    assert_no_partial(&disks[1]);
    let log = std::fs::read_to_string(job.target_path().join("imagenet_downloader.log")).unwrap();
    assert!(!log.contains("LeaseLost"), "{log}");
}

/// Two jobs, each with a coordinator and logs of its own, whose workers write into one folder.
fn two_jobs() -> (Origin, [Vec<u8>; 2], [Job; 2]) {
    let origin = Origin::start();
    let tars = [images(SHORT, 3, 1000..9000, 1), images(LONG, 400, 40_000..60_000, 2)];
    for (wnid, tar) in [SHORT, LONG].iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    origin.limit_rate(2_000_000);
    // No slot is free to fetch parts of the long class.
    let job = |wnid| Job::new().classes([wnid]).origin(&origin).args(["--delete-tar"]);
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
fn a_job_that_ends_leaves_another_jobs_worker_on_the_same_storage_alone() {
    let (origin, tars, [short, long]) = two_jobs();
    let storage = long.folder().join("storage");
    let coordinator = long.start_coordinator();
    let mut worker = long.start_worker("long", &coordinator, &storage);
    worker.wait_until("six megabytes are under way", |_| (origin.bytes_sent() > 6_000_000).then_some(()));
    run_short_job(&short, &storage);
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    long.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    for (wnid, tar) in [SHORT, LONG].iter().zip(&tars) {
        assert_class_is(tar, &storage.join(wnid));
    }
    let gets = origin.gets(LONG);
    assert!(gets.len() == 1 && gets[0].sent == tars[1].len() as u64, "some of it came twice: {gets:#?}");
    assert_no_partial(&storage);
}

#[test]
fn a_job_that_ends_leaves_the_checkpoint_of_another_jobs_worker_alone() {
    let (origin, tars, [short, long]) = two_jobs();
    let storage = long.folder().join("storage");
    let coordinator = long.start_coordinator();
    let mut worker = long.start_worker("long", &coordinator, &storage);
    worker.wait_until("six megabytes are under way", |_| (origin.bytes_sent() > 6_000_000).then_some(()));
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
    assert!(gets.len() == 1 && gets[0].start() > 3_000_000, "the checkpoint is lost: {gets:#?}");
    assert_no_partial(&storage);
}

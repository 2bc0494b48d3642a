//! Coordinator and workers as separate programs on loopback.

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    folders::{assert_no_partial, classes},
    origin::Origin,
};

fn fixture(count: u64) -> (Origin, Vec<(String, Vec<u8>)>) {
    let origin = Origin::start();
    let tars: Vec<(String, Vec<u8>)> = (1..=count)
        .map(|n| {
            (
                format!("n{n:08}"),
                images(&format!("n{n:08}"), 5, 1000..20_000, n),
            )
        })
        .collect();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    (origin, tars)
}

#[test]
fn one_worker_does_the_job_and_exits_with_success() {
    let (origin, tars) = fixture(3);
    let wnids = tars.iter().map(|(wnid, _)| wnid.as_str());
    let job = Job::new()
        .classes(wnids.chain(["n99999999"]))
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let finished = worker.wait();
    assert_eq!(
        finished.code,
        Some(0),
        "failed classes do not change a worker's exit code: {}",
        finished.stderr
    );
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(3, 0, 1));
    for (wnid, tar) in &tars {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    assert!(
        job.failure_of("n99999999")
            .starts_with("HTTPError: 404 Client Error")
    );
    assert!(job.target_path().join("imagenet_downloader.log").is_file());
    assert!(
        job.target_path()
            .join("imagenet_downloader.w1.log")
            .is_file()
    );
}

#[test]
fn two_workers_on_one_storage_download_each_class_once() {
    let (origin, tars) = fixture(12);
    origin.limit_rate(200_000);
    let wnids = tars.iter().map(|(wnid, _)| wnid.as_str());
    let job = Job::new()
        .classes(wnids)
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let workers = ["w1", "w2"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(12, 0, 0));
    for (wnid, tar) in &tars {
        assert_class_is(tar, &job.class_folder(wnid));
        assert_eq!(origin.gets(wnid).len(), 1);
    }
}

#[test]
fn two_workers_with_separate_disks_share_the_classes() {
    let (origin, tars) = fixture(8);
    origin.limit_rate(200_000);
    let wnids = tars.iter().map(|(wnid, _)| wnid.as_str());
    let job = Job::new()
        .classes(wnids)
        .origin(&origin)
        .args(["--delete-tar"]);
    let disks = ["disk1", "disk2"].map(|name| job.folder().join(name));
    let coordinator = job.start_coordinator();
    let workers = disks.each_ref().map(|disk| {
        let name = disk
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a plain name");
        job.start_worker(name, &coordinator, disk)
    });
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(8, 0, 0));
    let found = disks.each_ref().map(|disk| classes(disk));
    assert_eq!(found[0].len() + found[1].len(), 8, "{found:?}");
    for (wnid, tar) in &tars {
        let disk = if found[0].contains(wnid) {
            &disks[0]
        } else {
            &disks[1]
        };
        assert_class_is(tar, &disk.join(wnid));
    }
    for disk in &disks {
        assert_no_partial(disk);
    }
}

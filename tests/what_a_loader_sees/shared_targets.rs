//! Workers that share a target and see it at different paths.

use std::{fs, path::Path};

use tests::{
    cluster::{Coordinator, Job, Table},
    mounts::{Mount, skipped},
    running::Running,
};

use crate::{Served, names, parent};

/// A job whose workers share a folder.
fn cluster(served: &Served) -> (Job, Coordinator) {
    let job = served
        .job()
        .args(["--delete-tar", "--lease-ttl", "3s"])
        .variable("IMAGENET_WORKERS", "1");
    let coordinator = job.start_coordinator();
    (job, coordinator)
}

/// The storage ids of the workers, as known to the coordinator.
fn storages(coordinator: &Coordinator, job: &Job) -> Vec<String> {
    let connect = format!("http://{}", coordinator.address);
    let status = job
        .start_with(["status", "--json", "--connect", &connect])
        .wait();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("one object");
    let workers = status["workers"].as_array().expect("a list");
    workers
        .iter()
        .map(|worker| worker["storage_id"].as_str().expect("text").to_owned())
        .collect()
}

#[track_caller]
fn assert_done(
    served: &Served,
    job: &Job,
    coordinator: Coordinator,
    workers: impl IntoIterator<Item = Running>,
) {
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(
        &coordinator.running.wait(),
        0,
        Table::of(served.tars.len() as u64, 0, 0),
    );
}

#[track_caller]
fn assert_whole(served: &Served, images: &Path) {
    let mut view = served.view(images);
    view.assert_only_complete_classes();
    assert_eq!(view.classes(), served.tars.len());
    assert_eq!(
        names(parent(images)).len(),
        1,
        "something is left beside the target: {:?}",
        names(parent(images))
    );
    tests::folders::assert_no_partial(images);
}

/// One worker sees the folder above the target as well; for the other one the target is the mount
/// point.
#[test]
fn workers_with_only_the_target_in_common_lose_no_class_and_count_as_sharing_it() {
    let served = Served::new(8);
    let (job, coordinator) = cluster(&served);
    let images = job.folder().join("share/images");
    fs::create_dir_all(&images).unwrap();
    let Some(mount) = Mount::bind(&images, &job.folder().join("mounted")) else {
        return skipped();
    };
    served.origin.limit_rate(2_000_000);
    let beside = job.start_worker("beside", &coordinator, &images);
    let mut within = job.start_worker("within", &coordinator, mount.path());
    within.wait_until("both workers download", |_| {
        (served.origin.most_transfers() > 1).then_some(())
    });
    assert!(images.join(".partial").is_dir() && parent(&images).join(".images.partial").is_dir());
    let storages = storages(&coordinator, &job);
    assert!(
        storages.len() == 2 && storages[0] == storages[1],
        "{storages:?}"
    );
    served.origin.limit_rate(0);
    assert_done(&served, &job, coordinator, [beside, within]);
    for (wnid, _) in &served.tars {
        assert_eq!(
            served.origin.gets(wnid).len(),
            1,
            "{wnid} was downloaded twice"
        );
    }
    assert_whole(&served, &images);
}

#[test]
fn staging_of_a_killed_worker_is_removed_by_the_other() {
    let served = Served::new(6);
    let (job, coordinator) = cluster(&served);
    let images = job.folder().join("share/images");
    fs::create_dir_all(&images).unwrap();
    let Some(mount) = Mount::bind(&images, &job.folder().join("mounted")) else {
        return skipped();
    };
    served.origin.limit_rate(400_000);
    let beside = job.start_worker("beside", &coordinator, &images);
    let mut within = job.start_worker("within", &coordinator, mount.path());
    within.wait_until("both workers download", |_| {
        (served.origin.most_transfers() > 1).then_some(())
    });
    within.kill();
    served.origin.limit_rate(0);
    assert_done(&served, &job, coordinator, [beside]);
    assert_whole(&served, &images);
}

/// Both workers see the folder above the target, each at another path.
#[test]
fn a_journal_is_found_under_another_path() {
    let served = Served::new(1);
    let (wnid, tar) = &served.tars[0];
    let (job, coordinator) = cluster(&served);
    let images = job.folder().join("share/images");
    fs::create_dir_all(&images).unwrap();
    let Some(mount) = Mount::bind(parent(&images), &job.folder().join("mounted")) else {
        return skipped();
    };
    served.origin.limit_rate(tar.len() as u64);
    let half = tar.len() as u64 / 2;
    let mut first = job.start_worker("first", &coordinator, &images);
    first.wait_until("half of the tar was sent", |_| {
        (served.origin.bytes_sent() > half).then_some(())
    });
    first.signal(tests::running::Signal::TERM);
    assert_eq!(first.wait().code, Some(143));
    served.origin.limit_rate(0);
    let second = job.start_worker("second", &coordinator, &mount.path().join("images"));
    assert_done(&served, &job, coordinator, [second]);
    let starts: Vec<u64> = served
        .origin
        .gets(wnid)
        .iter()
        .map(tests::request_log::Request::start)
        .collect();
    assert!(
        matches!(starts[..], [0, start] if start > 0),
        "the class was not resumed: {starts:?}"
    );
    assert_whole(&served, &images);
}

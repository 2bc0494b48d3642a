//! Workers that cannot continue: the coordinator's log names the worker, the reason and the remedy
//! on its machine.

use std::time::Duration;

use tests::{
    archives::images,
    cluster::{Coordinator, Job, Table},
    log::lines_with,
    mounts::Mount,
    origin::Origin,
};

const WNIDS: [&str; 2] = ["n00000001", "n00000002"];

/// Waits for the line about a stopped worker, which the coordinator prints once.
#[track_caller]
fn line_about(coordinator: &mut Coordinator, worker: &str) -> String {
    let begins = format!("WARN worker {worker} stopped: ");
    coordinator
        .running
        .wait_until("it prints that the worker has stopped", |it| {
            let stderr = it.stderr();
            let lines = lines_with(&stderr, &[&begins]);
            assert!(lines.len() < 2, "{lines:?}");
            lines.first().map(|line| (*line).to_owned())
        })
}

#[test]
fn a_worker_with_a_full_disk_is_reported_with_name_folder_and_remedy() {
    let origin = Origin::start();
    // The disk fills up during the second class, and has no room for another class like the first.
    let tars = [
        images(WNIDS[0], 240, 40_000..60_000, 1),
        images(WNIDS[1], 400, 40_000..60_000, 2),
    ];
    for (wnid, tar) in WNIDS.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    let Some(disk) = Mount::memory("size=22m") else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let job = Job::new()
        .classes(WNIDS)
        .origin(&origin)
        .args(["--delete-tar"]);
    let mut coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let target = disk.path().join("images");
    let folder = target.to_str().expect("a plain path");
    let small = job.start_worker_at(&connect, "small", 1, &target).wait();
    assert_eq!(small.code, Some(2));
    let line = line_about(&mut coordinator, "small");
    for words in [
        &format!("in its target folder {folder}: "),
        "No space left on device (os error 28); free some space there. Then start that worker \
         again; 1 of its classes",
    ] {
        assert!(line.contains(words), "no {words:?} in {line}");
    }
    let large = job.start_worker("large", &coordinator, job.target_path());
    assert_eq!(large.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(2, 0, 0));
}

/// As after an unmount.
#[test]
fn a_worker_whose_folder_vanished_is_reported_too() {
    let origin = Origin::start();
    for (wnid, seed) in WNIDS.iter().zip(1..) {
        origin.class(wnid, images(wnid, 10, 40_000..60_000, seed));
    }
    origin.limit_rate(20_000);
    let job = Job::new()
        .classes(WNIDS)
        .origin(&origin)
        .args(["--delete-tar"])
        .deadline(Duration::from_mins(2));
    let mut coordinator = job.start_coordinator();
    let folders = ["gone", "moved"].map(|name| job.folder().join(name));
    std::fs::create_dir(&folders[0]).expect("the folder is ours");
    let lost = job.start_worker("lost", &coordinator, &folders[0]);
    coordinator.running.wait_until("a class is requested", |_| {
        (!origin.gets(WNIDS[0]).is_empty()).then_some(())
    });
    std::fs::rename(&folders[0], &folders[1]).expect("the folder is ours");
    std::fs::remove_dir_all(job.folder().join(".gone.partial")).expect("the folder is ours");
    origin.limit_rate(0);
    assert_eq!(lost.wait().code, Some(2));
    let line = line_about(&mut coordinator, "lost");
    assert!(
        line.contains("; mount that folder again. Then start that worker again; "),
        "{line}"
    );
    let other = job.start_worker("other", &coordinator, job.target_path());
    assert_eq!(other.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(2, 0, 0));
}

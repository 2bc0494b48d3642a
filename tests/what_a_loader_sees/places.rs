//! Targets without a possible staging folder beside them, and `--staging`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tests::{
    archives::assert_class_is,
    cluster::{Job, Table},
    folders::staging,
    mounts::{Mount, skipped},
    running::Finished,
};

use crate::{Served, names, parent};

const WARNING: &str = "a folder loader would take for a class until the job is done";

/// Runs a job whose only possible staging folder is in the target.
#[track_caller]
fn run_in_target(served: &Served, job: &Job, why: &str) {
    let target = job.target_path();
    let beside = names(parent(target));
    served.origin.limit_rate(2_000_000);
    let mut running = job.start();
    running.wait_until("the staging folder exists", |_| {
        target.join(".partial").is_dir().then_some(())
    });
    served.origin.limit_rate(0);
    let finished = running.wait();
    job.assert_ended(&finished, 0, Table::of(1, 0, 0));
    assert_eq!(
        finished.stderr.matches(WARNING).count(),
        1,
        "{}",
        finished.stderr
    );
    for word in [
        why,
        "--staging DIR",
        target.join("images").to_str().expect("a plain path"),
    ] {
        assert!(
            finished.stderr.contains(word),
            "no {word:?} in:\n{}",
            finished.stderr
        );
    }
    let (wnid, tar) = &served.tars[0];
    assert_class_is(tar, &target.join(wnid));
    assert_eq!(
        names(parent(target)),
        beside,
        "something is left beside the target"
    );
}

#[test]
fn a_mount_point_as_the_target_causes_a_warning_and_a_folder_below_it_does_not() {
    let served = Served::new(1);
    let Some(disk) = Mount::memory("size=30m") else {
        return skipped();
    };
    run_in_target(
        &served,
        &served.job().target(disk.path()),
        "the target is the root of a mounted file system",
    );

    let job = served.job().target(disk.path().join("images"));
    let finished = job.run();
    job.assert_ended(&finished, 0, Table::of(1, 0, 0));
    assert!(!finished.stderr.contains(WARNING), "{}", finished.stderr);
}

/// A bind mount has the device of its parent, but files cannot be renamed across it.
#[test]
fn a_bind_mount_counts_as_a_mount_point() {
    let served = Served::new(1);
    let job = served.job();
    let Some(mount) = Mount::bind(job.target_path(), &job.folder().join("mounted")) else {
        return skipped();
    };
    run_in_target(
        &served,
        &job.target(mount.path()),
        "the target is the root of a mounted file system",
    );
}

#[test]
fn a_parent_without_write_permission_causes_a_warning() {
    let served = Served::new(1);
    let job = served.job();
    let target = job.folder().join("closed/images");
    fs::create_dir_all(&target).unwrap();
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let job = if rustix::process::getuid().is_root() {
        // Root may write everywhere, so another user runs the job.
        mode(job.folder(), 0o755);
        std::os::unix::fs::chown(&target, Some(54321), Some(54321)).unwrap();
        job.under([
            "setpriv",
            "--reuid",
            "54321",
            "--regid",
            "54321",
            "--clear-groups",
        ])
    } else {
        job
    };
    mode(parent(&target), 0o555);
    let job = job.target(&target);
    run_in_target(&served, &job, "the target's parent cannot be written");
    mode(parent(&target), 0o755);
}

#[track_caller]
fn assert_refused(served: &Served, job: &Job, finished: &Finished, words: &[&str]) {
    job.assert_could_not_run(finished, words);
    assert_eq!(served.origin.all_requests().len(), 0);
    served
        .view(job.target_path())
        .assert_only_complete_classes();
}

#[test]
fn a_configured_staging_folder_is_used_and_is_empty_at_the_end() {
    let served = Served::new(1);
    let job = served.job();
    let folder = job.folder().join("elsewhere/staging");
    let beside = names(job.folder());
    let folder = folder.to_str().unwrap();
    let job = job.args(["--delete-tar", "--staging", folder]);
    served.origin.limit_rate(2_000_000);
    let mut running = job.start();
    running.wait_until("the staging folder is used", |_| {
        let areas = fs::read_dir(folder).ok()?.flatten().next()?.path();
        names(&areas)
            .iter()
            .any(|name| name.to_string_lossy().starts_with('n'))
            .then_some(())
    });
    assert!(!staging(job.target_path()).exists());
    served.origin.limit_rate(0);
    job.assert_ended(&running.wait(), 0, Table::of(1, 0, 0));
    assert!(
        names(Path::new(folder)).is_empty(),
        "{:?}",
        names(Path::new(folder))
    );
    fs::remove_dir_all(parent(Path::new(folder))).unwrap();
    assert_eq!(names(job.folder()), beside);
}

#[test]
fn an_unusable_staging_folder_is_rejected() {
    let served = Served::new(1);
    let job = served.job();
    let inside = job
        .target_path()
        .join("staging")
        .to_str()
        .unwrap()
        .to_owned();
    let job = job.args(["--staging", &inside]);
    assert_refused(
        &served,
        &job,
        &job.run(),
        &[&inside, "a loader would take it for a class", "--staging"],
    );
    let file = job.folder().join("data.csv").to_str().unwrap().to_owned();
    let job = job.args(["--staging", &file]);
    assert_refused(&served, &job, &job.run(), &[&file, "--staging"]);

    let Some(disk) = Mount::memory("size=1m") else {
        return skipped();
    };
    let elsewhere = disk.path().to_str().unwrap().to_owned();
    let job = job.args(["--staging", &elsewhere]);
    assert_refused(
        &served,
        &job,
        &job.run(),
        &[&elsewhere, "another file system", "--staging"],
    );
    assert!(names(disk.path()).is_empty());
}

//! `--existing replace`, and targets in which a folder cannot be renamed.

use std::{fs, os::unix::fs::chown, path::Path};

use tests::{
    archives::{assert_class_is, unpack_by_hand},
    cluster::{Job, Table},
    folders::{snapshot, staging},
    mounts::{Mount, skipped},
    running::Signal,
};

use crate::{Served, names, parent};

/// A job with `--existing replace`, and a folder of another tool with the class's name.
fn replacing(served: &Served) -> Job {
    let job = served
        .job()
        .args(["--delete-tar", "--existing", "replace", "--workers", "1"]);
    let (wnid, tar) = &served.tars[0];
    unpack_by_hand(tar, &job.class_folder(wnid));
    fs::write(job.class_folder(wnid).join("other.JPEG"), "of another tool")
        .expect("the folder is ours");
    job
}

#[test]
fn at_every_instant_the_old_folder_or_the_new_one_has_the_name() {
    let served = Served::new(1);
    let (wnid, tar) = &served.tars[0];
    let job = replacing(&served);
    let mut view = served.view(job.target_path());
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    view.assert_no_folder_was_made_or_vanished();
    assert_class_is(tar, &job.class_folder(wnid));
}

#[test]
fn killed_in_the_middle_of_a_replacement_the_next_run_finishes_it() {
    let served = Served::new(1);
    let (wnid, tar) = &served.tars[0];
    let job = replacing(&served);
    let class = job.class_folder(wnid);
    let old = snapshot(&class);
    served.origin.limit_rate(tar.len() as u64);
    let mut running = job.start();
    let half = tar.len() as u64 / 2;
    running.wait_until("half of the tar was sent", |_| {
        (served.origin.bytes_sent() > half).then_some(())
    });
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
    // The state after a kill between two renames, on a file system that cannot exchange names.
    let area = staging(job.target_path());
    let folder = fs::read_dir(&area)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with('n'));
    fs::rename(&class, folder.unwrap().path().join("replaced")).unwrap();

    served.origin.limit_rate(0);
    served
        .origin
        .script_of(wnid)
        .unwrap()
        .script([tests::answer::Answer::status(404)]);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert_eq!(snapshot(&class), old, "the old folder is lost");
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(tar, &class);
}

/// Runs a job in an overlay whose lower layer is the target as prepared by `prepare`. Returns
/// whether the overlay could be mounted.
#[track_caller]
fn in_a_lower_layer(served: &Served, existing: &str, prepare: impl FnOnce(&Job)) -> bool {
    let (wnid, tar) = &served.tars[0];
    let lower = served.job();
    let inside = lower.folder().join("lower/images");
    fs::create_dir_all(&inside).expect("the folder is ours");
    let lower = lower.target(&inside);
    prepare(&lower);
    served.origin.limit_rate(0);
    served.origin.forget_requests();
    let Some(layers) = Mount::overlay(parent(&inside), &lower.folder().join("layers")) else {
        return false;
    };
    let job = served.job().target(layers.path().join("images")).args([
        "--delete-tar",
        "--existing",
        existing,
    ]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(tar, &job.class_folder(wnid));
    assert_eq!(
        names(layers.path()).len(),
        1,
        "something is left beside the target"
    );
    true
}

#[test]
fn folders_in_the_lower_layer_of_an_overlay_are_resumed_and_replaced() {
    let served = Served::new(1);
    let (wnid, tar) = &served.tars[0];
    let could_mount = in_a_lower_layer(&served, "replace", |job| {
        unpack_by_hand(tar, &job.class_folder(wnid));
        fs::write(job.class_folder(wnid).join("other.JPEG"), "of another tool")
            .expect("the folder is ours");
    });
    if !could_mount {
        return skipped();
    }
    in_a_lower_layer(&served, "adopt", |job| {
        fs::create_dir(job.class_folder(wnid)).expect("the folder is ours");
    });
    for signal in [Signal::TERM, Signal::KILL] {
        in_a_lower_layer(&served, "adopt", |job| {
            served.origin.forget_requests();
            served.origin.limit_rate(tar.len() as u64);
            let sent = served.origin.bytes_sent();
            let half = tar.len() as u64 / 2;
            let mut running = job.start();
            running.wait_until("half of the tar was sent", |_| {
                (served.origin.bytes_sent() - sent > half).then_some(())
            });
            running.signal(signal);
            running.wait();
            assert!(staging(job.target_path()).is_dir());
        });
        let start = served.origin.gets(wnid)[0].start();
        assert!(
            signal == Signal::KILL || start > 0,
            "the class was not resumed"
        );
    }
}

/// Root ran the program first; now the owner of the folder runs it.
#[test]
fn a_file_of_another_user_that_blocks_the_job_is_reported_with_its_owner() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let served = Served::new(1);
    let (wnid, _) = &served.tars[0];
    let user = [
        "setpriv",
        "--reuid",
        "54321",
        "--regid",
        "54321",
        "--clear-groups",
    ];
    let begun = |in_the_way: &dyn Fn(&Path)| {
        let job = served.job().under(user);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(job.folder(), mode).expect("the folder is ours");
        let target = job.folder().join("data/images");
        fs::create_dir_all(&target).expect("the folder is ours");
        in_the_way(&target);
        for folder in [&target, parent(&target)] {
            chown(folder, Some(54321), Some(54321)).expect("root may change the owner");
        }
        job.target(target)
    };
    for name in [
        "imagenet_downloader.log",
        ".imagenet_downloader.ledger",
        "failed_downloads.log",
    ] {
        let job = begun(&|target| fs::write(target.join(name), "").expect("the folder is ours"));
        job.assert_could_not_run(
            &job.run(),
            &[&format!(
                "{name} belongs to root, and this program runs as user 54321"
            )],
        );
    }
    let job = begun(&|target| {
        fs::create_dir(parent(target).join(".images.partial")).expect("the folder is ours");
    });
    job.assert_could_not_run(&job.run(), &[".images.partial belongs to root"]);
    let job = begun(&|target| fs::create_dir(target.join(".partial")).expect("the folder is ours"));
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));

    // A folder of one class blocks only that class.
    let job = begun(&|target| {
        fs::create_dir(target.join(wnid)).expect("the folder is ours");
        fs::write(target.join(wnid).join("other.JPEG"), "").expect("the folder is ours");
    });
    let job = job.args(["--delete-tar", "--existing", "replace"]);
    let finished = job.run();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let failure = job.failure_of(wnid);
    assert!(
        failure.contains(&format!("{wnid} belongs to root")),
        "{failure}"
    );
}

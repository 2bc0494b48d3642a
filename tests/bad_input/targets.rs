//! Targets that cannot be used, and one that is in use.

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
};

const WNID: &str = "n00000001";

#[test]
fn a_target_that_is_not_a_writable_folder_is_rejected() {
    let origin = Origin::start();
    let job = Job::new().classes([WNID]).origin(&origin);
    let file = job.folder().join("file");
    std::fs::write(&file, "mine").unwrap();
    let job = job.target(&file);
    job.assert_could_not_run(&job.run(), &["file"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    let mut job = job;
    // Folders that are not writable even for root.
    for target in ["/dev/null/x", "/proc/nowhere/x"] {
        job = job.target(target);
        job.assert_could_not_run(&job.run(), &[target]);
    }
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn a_target_without_write_permission_is_rejected() {
    let origin = Origin::start();
    let job = Job::new().classes([WNID]).origin(&origin);
    let target = job.target_path().to_path_buf();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&target, mode(0o555)).unwrap();
    if std::fs::write(target.join("probe"), "").is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    job.assert_could_not_run(&job.run(), &["target"]);
    std::fs::set_permissions(&target, mode(0o755)).unwrap();
}

#[test]
fn a_missing_target_is_created_and_a_link_to_a_target_is_followed() {
    let origin = Origin::start();
    let tar = images(WNID, 2, 100..900, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar"]);
    let deep = job.folder().join("not/yet/there");
    let job = job.target(&deep);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &deep.join(WNID));
    let link = job.folder().join("link");
    std::os::unix::fs::symlink(&deep, &link).unwrap();
    let job = job.target(&link);
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
}

#[test]
fn a_second_coordinator_on_the_same_target_is_refused() {
    let origin = Origin::start();
    let tar = images(WNID, 20, 10_000..20_000, 1);
    origin.class(WNID, tar.clone());
    origin.limit_rate(20_000);
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar"]);
    let mut first = job.start();
    first.wait_until("the download is under way", |_| {
        (origin.bytes_sent() > 10_000).then_some(())
    });
    let second = job.run();
    job.assert_could_not_run(&second, &["coordinator", "--target"]);
    assert!(first.is_running(), "the first coordinator keeps running");
    origin.limit_rate(0);
    job.assert_ended(&first.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    assert_eq!(origin.gets(WNID).len(), 1);
}

//! Errors that occur only on a broken disk.

use std::{fs, process::Command};

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
    running::Signal,
};

const WNID: &str = "n00000001";
/// Replaces `closedir` of the C library, which the standard library calls.
const CLOSEDIR: &str =
    "#include <errno.h>\nint closedir(void *folder) { (void)folder; errno = EIO; return -1; }\n";

/// The job is interrupted, resumes and cleans up, so all code that lists folders runs.
#[test]
fn a_folder_whose_listing_cannot_be_closed_does_not_fail_the_job() {
    let origin = Origin::start();
    let tar = images(WNID, 20, 10_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar", "--workers", "1"]);
    let [source, library] = ["closedir.c", "closedir.so"].map(|name| job.folder().join(name));
    fs::write(&source, CLOSEDIR).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        return println!("skipped: needs a C compiler that makes libraries");
    }
    let job = job.variable("LD_PRELOAD", library.to_str().expect("a plain path"));
    origin.limit_rate(tar.len() as u64);
    let mut running = job.start();
    let half = tar.len() as u64 / 2;
    running.wait_until("half of the tar was sent", |_| {
        (origin.bytes_sent() > half).then_some(())
    });
    running.signal(Signal::KILL);
    running.wait();
    origin.limit_rate(0);
    let finished = job.run();
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    job.assert_ended(&finished, 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
}

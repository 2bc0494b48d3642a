//! Few threads, and a limit on file sizes: success, or one error message with a remedy.

use std::time::Duration;

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    folders::classes,
    origin::Origin,
};

/// A user without other processes: the limit on threads applies to all processes of a user.
const UNUSED_USER: &str = "54399";

#[test]
fn few_threads_mean_fewer_downloads_or_one_message() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become a user with no other process");
        return;
    }
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=12).map(|number| format!("n{number:08}")).collect();
    for (number, wnid) in (1..).zip(&wnids) {
        origin.class(wnid, images(wnid, 2, 500..1000, number));
    }
    let mut done = 0;
    let mut refused = 0;
    for (limit, workers) in [
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
        (6, 0),
        (8, 0),
        (10, 0),
        (12, 0),
        (14, 0),
        (20, 0),
        (40, 0),
        (25, 24),
    ] {
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin);
        let job = job.args(["--delete-tar", "--workers", "16", "--durability", "process"]);
        let job = if workers > 0 {
            job.variable("TOKIO_WORKER_THREADS", &workers.to_string())
        } else {
            job
        };
        let limits = format!("--nproc={limit}");
        let user = [
            "setpriv",
            "--reuid",
            UNUSED_USER,
            "--regid",
            UNUSED_USER,
            "--clear-groups",
            "prlimit",
            &limits,
        ];
        let job = job.under(user).deadline(Duration::from_secs(30));
        for folder in [job.target_path(), job.folder()] {
            std::os::unix::fs::chown(folder, Some(54399), Some(54399))
                .expect("root may change the owner");
        }
        let finished = job.run();
        let stderr = &finished.stderr;
        assert!(!stderr.contains("panicked"), "{limit}: {stderr}");
        if finished.code == Some(0) {
            assert_eq!(classes(job.target_path()).len(), 12);
            done += 1;
        } else {
            assert_eq!(
                (finished.code, stderr.matches("error: failed to ").count()),
                (Some(2), 1),
                "{limit}: {stderr}"
            );
            assert!(
                stderr.contains("allow the process more threads"),
                "{limit}: {stderr}"
            );
            refused += 1;
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}

/// The second class has an image longer than the limit.
#[test]
fn a_limit_on_the_size_of_files_is_reported_like_a_full_disk() {
    let origin = Origin::start();
    let tars = [
        images("n00000001", 20, 1000..2000, 1),
        images("n00000002", 4, 400_000..500_000, 2),
    ];
    let wnids = ["n00000001", "n00000002"];
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    let args = ["--delete-tar", "--workers", "1"];
    let job = Job::new()
        .classes(wnids)
        .origin(&origin)
        .args(args)
        .deadline(Duration::from_secs(30));
    // The unit is blocks of 1024 bytes.
    let job = job.under(["bash", "-c", "ulimit -f 300; exec \"$@\"", "bash"]);
    let finished = job.run();
    job.assert_could_not_run(
        &finished,
        &["File too large", "raise the limit on file sizes, ulimit -f"],
    );
    assert_eq!(
        finished.stderr.matches("ulimit -f").count(),
        1,
        "{}",
        finished.stderr
    );
    assert_eq!(
        job.failures(),
        Vec::<String>::new(),
        "the limit does not fail a class"
    );
    assert_class_is(&tars[0], &job.class_folder(wnids[0]));

    let job = job.under([]);
    job.assert_ended(&job.run(), 0, Table::of(2, 0, 0));
    assert_class_is(&tars[1], &job.class_folder(wnids[1]));
}

#[test]
fn a_ledger_that_may_not_grow_is_reported_in_one_message() {
    let origin = Origin::start();
    origin.class("n00000001", images("n00000001", 2, 100..200, 1));
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .deadline(Duration::from_secs(30));
    for blocks in ["0", "1", "8"] {
        let limit = format!("ulimit -f {blocks}; exec \"$@\"");
        let piped = format!("({limit}) 2>&1 >/dev/null | cat >&2; exit ${{PIPESTATUS[0]}}");
        let mut running = std::process::Command::new("bash");
        running
            .args(["-c", &piped, "bash"])
            .arg(tests::programs::program("coordinator"));
        running
            .args(["--dev", "--fname"])
            .arg(job.folder().join("data.csv"));
        running
            .args(["--url", &origin.url(), "--http", "127.0.0.1:0", "--target"])
            .arg(job.target_path().join(blocks));
        let finished = job.start_program(running).wait();
        assert_eq!(
            (finished.code, finished.signal),
            (Some(2), None),
            "{blocks}: {}",
            finished.stderr
        );
        assert_eq!(
            finished.stderr.matches("error: failed to ").count(),
            1,
            "{blocks}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains("File too large") || finished.stderr.contains("ulimit -f"),
            "{}",
            finished.stderr
        );
    }
}

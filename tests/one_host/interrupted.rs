//! Ctrl-C and SIGTERM: the exit code tells the signal, finished work is kept, and the same command
//! resumes.

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images, unpack_by_hand},
    cluster::{Job, Table},
    folders::staging,
    log::{assert_lines, has_line},
    origin::Origin,
    running::{Running, Signal},
};
use tokio::time::Instant;

const SMALL: &str = "n00000001";
const LARGE: &str = "n00000002";

/// Interrupts a job in the middle of its large class and lets the same command finish it; returns
/// the table of the second run.
#[track_caller]
fn interrupt(signal: Signal, code: i32, args: &[&str]) -> Table {
    let origin = Origin::start();
    let small = images(SMALL, 2, 1000..2000, 1);
    // Too short to be downloaded in parts.
    let large = images(LARGE, 150, 40_000..60_000, 2);
    origin.class(SMALL, small.clone());
    origin.class(LARGE, large.clone());
    origin.limit_rate(1_000_000);
    let deadline = Duration::from_secs(15);
    let job = Job::new()
        .classes([SMALL, LARGE])
        .origin(&origin)
        .args(args.iter().copied())
        .deadline(deadline);

    let mut running = job.start();
    running.wait_until("three megabytes were sent", |_| {
        (origin.bytes_sent() > 3_000_000 && job.class_folder(SMALL).exists()).then_some(())
    });
    running.signal(signal);
    let finished = running.wait();
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert!(staging(job.target_path()).is_dir(), "the journal is kept");
    assert!(!job.class_folder(LARGE).exists());
    let sent = origin.gets(LARGE)[0].sent;

    origin.limit_rate(0);
    origin.forget_requests();
    let table = job.assert_all_there(&job.run(), 2);
    assert_class_is(&small, &job.class_folder(SMALL));
    assert_class_is(&large, &job.class_folder(LARGE));
    let gets = origin.gets(LARGE);
    assert_eq!(gets.len(), 1, "{gets:#?}");
    assert!(gets[0].if_range.is_some());
    // Data in kernel buffers at the interruption and the incomplete image may be sent again.
    assert!(
        gets[0].start() >= sent / 2,
        "resumed at {} of {sent}",
        gets[0].start()
    );
    assert_eq!(gets[0].start() + gets[0].sent, large.len() as u64);
    assert_eq!(origin.gets(SMALL).len(), 0);
    table
}

#[test]
fn ctrl_c_keeps_the_work() {
    interrupt(Signal::INT, 130, &["--delete-tar"]);
}

#[test]
fn sigterm_keeps_the_work() {
    interrupt(Signal::TERM, 143, &["--delete-tar", "--workers", "2"]);
}

#[test]
fn an_interrupted_tar_that_is_kept_resumes_too() {
    interrupt(Signal::INT, 130, &[]);
}

#[test]
fn an_interrupted_run_continues_its_counts() {
    let table = interrupt(Signal::INT, 130, &["--delete-tar"]);
    assert_eq!(
        table,
        Table::of(2, 0, 0),
        "classes that an earlier process of the same run completed do not count as skipped"
    );
}

#[test]
fn a_job_that_waits_for_a_silent_origin_ends_at_once() {
    let origin = Origin::start();
    origin
        .class(SMALL, images(SMALL, 2, 1000..2000, 1))
        .forever(Answer::silence());
    let job = Job::new()
        .classes([SMALL])
        .origin(&origin)
        .deadline(Duration::from_secs(15));
    let mut running = job.start();
    running.wait_until("the origin gets the request", |_| {
        (!origin.gets(SMALL).is_empty()).then_some(())
    });
    running.signal(Signal::INT);
    assert_eq!(running.wait().code, Some(130));
}

#[test]
fn a_job_that_waits_for_a_retry_after_ends_at_once() {
    let origin = Origin::start();
    origin
        .class(SMALL, images(SMALL, 2, 1000..2000, 1))
        .forever(Answer::too_many_requests(600));
    let job = Job::new()
        .classes([SMALL])
        .origin(&origin)
        .deadline(Duration::from_secs(15));
    let mut running = job.start();
    running.wait_until("the origin answers", |_| {
        origin
            .gets(SMALL)
            .first()
            .filter(|get| get.status == 429)
            .map(drop)
    });
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
}

/// Sends a signal and panics unless the process ends before its deadline, regardless of what it
/// waits for.
#[track_caller]
fn assert_ends(running: Running, signal: Signal, code: i32) {
    running.signal(signal);
    let finished = running.wait();
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
}

#[test]
fn sigterm_does_not_wait_for_the_verification_of_a_folder() {
    let origin = Origin::start();
    let tar = images(SMALL, 2, 1000..2000, 1);
    origin.class(SMALL, tar.clone()).forever(Answer::silence());
    // A request may be unanswered for two minutes.
    let job = Job::new()
        .classes([SMALL])
        .origin(&origin)
        .deadline(Duration::from_mins(1));
    unpack_by_hand(&tar, &job.class_folder(SMALL));
    let is_asked = |_: &Running| {
        origin
            .requests(SMALL)
            .iter()
            .any(|request| request.method == "HEAD")
            .then_some(())
    };

    let mut in_one_process = job.start();
    in_one_process.wait_until("the origin gets the request", is_asked);
    assert_ends(in_one_process, Signal::TERM, 143);
    let log = job.log();
    assert!(has_line(&log, &[" INFO "]), "{log}");
    assert_lines(&log, 0, &["workers did not leave in time"]);

    origin.forget_requests();
    let coordinator = job.start_coordinator();
    let mut worker = job.start_worker("w1", &coordinator, job.target_path());
    worker.wait_until("the origin gets the request", is_asked);
    assert_ends(worker, Signal::TERM, 143);
}

#[test]
fn ctrl_c_does_not_wait_for_a_backoff() {
    let origin = Origin::start();
    // Each class waits for a random backoff; with 40 classes some waits are long.
    let wnids: Vec<String> = (1..=40).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        let tar = images(wnid, 4, 1000..2000, 1);
        let cut = Answer::body(tar[..2048].to_vec()).without_length();
        origin.class(wnid, tar).forever(cut);
    }
    let args = ["--workers", "40", "--retries", "30"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    let mut running = job.start();
    running.wait_until("every class was cut three times and one five times", |_| {
        let most = wnids.iter().map(|wnid| origin.gets(wnid).len()).max()?;
        (most >= 5 && wnids.iter().all(|wnid| origin.gets(wnid).len() >= 3)).then_some(())
    });
    let signalled_at = Instant::now();
    assert_ends(running, Signal::INT, 130);
    let took = signalled_at.elapsed();
    // The longest of the waits takes more than four seconds.
    assert!(took < Duration::from_secs(3), "it took {took:?}");
}

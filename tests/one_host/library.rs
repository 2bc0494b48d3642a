//! The library in a separate example program: limits, progress, and cancellation.

use std::{process::Command, time::Duration};

use tests::{
    archives::{assert_class_is, images},
    cluster::Job,
    folders::{assert_no_partial, classes},
    origin::Origin,
    programs::program,
    running::{Running, Signal},
};
use tokio::time::Instant;

const COUNT: usize = 6;

fn tars() -> Vec<(String, Vec<u8>)> {
    let wnids = (1..)
        .map(|number| (number, format!("n{number:08}")))
        .take(COUNT);
    wnids
        .map(|(number, wnid)| (wnid.clone(), images(&wnid, 10, 20_000..40_000, number)))
        .collect()
}

/// An origin with the classes, and a job whose list names them.
fn prepared() -> (Origin, Vec<(String, Vec<u8>)>, Job) {
    let origin = Origin::start();
    let tars = tars();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    let job = Job::new().classes(tars.iter().map(|(wnid, _)| wnid.as_str()));
    (origin, tars, job)
}

/// Starts the example program with these limits.
fn start(job: &Job, origin: &Origin, connections: &str, bytes_per_second: &str) -> Running {
    start_list(job, origin, "data.csv", [connections, bytes_per_second])
}

/// Starts the example program for a list in the job's folder.
fn start_list(job: &Job, origin: &Origin, list: &str, limits: [&str; 2]) -> Running {
    let mut command = Command::new(program("examples/download_gently"));
    command.arg(job.folder().join(list)).arg(job.target_path());
    command.arg(origin.url()).args(limits);
    job.start_program(command)
}

#[test]
fn a_cancelled_batch_writes_checkpoints_and_the_next_call_resumes_within_its_limits() {
    let (origin, tars, job) = prepared();

    // Slow enough for an interruption in the middle of two classes.
    let mut first = start(&job, &origin, "2", "100000");
    first.wait_until("two classes receive bytes", |running| {
        running
            .stdout()
            .contains("0 of 6, 6 under way, ")
            .then_some(())?;
        (origin.bytes_sent() > 100_000).then_some(())
    });
    first.signal(Signal::INT);
    let stopped = first.wait();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    assert!(
        stopped.stdout.contains("stopped after "),
        "{}",
        stopped.stdout
    );
    assert!(
        classes(job.target_path()).len() < COUNT,
        "the batch was stopped before its end"
    );

    let total: usize = tars.iter().map(|(_, tar)| tar.len()).sum();
    let rate: u64 = 800_000;
    let left = (total as u64).saturating_sub(origin.bytes_sent());
    let began = Instant::now();
    let finished = start(&job, &origin, "2", &rate.to_string()).wait();
    let took = began.elapsed();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        finished.stdout.contains("downloaded, 0 failed"),
        "{}",
        finished.stdout
    );
    assert!(
        finished.stdout.contains("6 of 6, 0 under way"),
        "{}",
        finished.stdout
    );
    for (wnid, tar) in &tars {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    assert_no_partial(job.target_path());
    assert!(
        origin.most_transfers() <= 2,
        "{} transfers at once",
        origin.most_transfers()
    );
    // Bytes that the first program left unread in its socket buffers are sent again, and the rate
    // limit does not delay bytes that already are in a socket buffer.
    let buffered = 2 * 256_000;
    let least = Duration::from_millis(left.saturating_sub(buffered) * 1000 / rate / 2);
    assert!(took >= least, "{left} bytes arrived in {took:?}");
}

#[test]
fn a_call_for_other_classes_keeps_the_checkpoints_of_an_interrupted_one() {
    let (origin, tars, job) = prepared();
    let mut first = start(&job, &origin, "2", "100000");
    first.wait_until("two classes have some of their files", |running| {
        let stdout = running.stdout();
        let received = stdout.lines().filter_map(|line| {
            let bytes = line.rsplit(", ").next()?.strip_suffix(" bytes")?;
            bytes.parse::<u64>().ok()
        });
        (received.max() > Some(200_000)).then_some(())
    });
    first.signal(Signal::INT);
    assert_eq!(first.wait().code, Some(0));
    let there = classes(job.target_path());
    let begun = origin
        .all_requests()
        .into_iter()
        .map(|request| request.wnid);
    let begun: Vec<String> = begun.filter(|wnid| !there.contains(wnid)).collect();
    assert!(!begun.is_empty(), "the call was interrupted in a class");

    let (other, _) = tars.last().unwrap();
    std::fs::write(job.folder().join("other.csv"), format!("wnid\n{other}\n")).unwrap();
    let between = start_list(&job, &origin, "other.csv", ["2", "1000000"]).wait();
    assert_eq!(between.code, Some(0), "{}", between.stderr);
    origin.forget_requests();
    let finished = start(&job, &origin, "2", "1000000").wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // The other class may have been interrupted before its first file.
    let gets: Vec<_> = begun.iter().flat_map(|wnid| origin.gets(wnid)).collect();
    let continues = gets.iter().any(|get| get.range.is_some());
    assert!(continues, "of {begun:?} each was requested from its start");
    for (wnid, tar) in &tars {
        assert_class_is(tar, &job.class_folder(wnid));
    }
    assert_no_partial(job.target_path());
}

#[test]
fn a_second_call_for_the_same_target_waits_and_then_finds_the_classes_complete() {
    let (origin, tars, job) = prepared();
    let mut first = start(&job, &origin, "2", "200000");
    first.wait_until("a class receives bytes", |_| {
        (origin.bytes_sent() > 10_000).then_some(())
    });
    let second = start(&job, &origin, "2", "200000").wait();
    let first = first.wait();
    for finished in [&first, &second] {
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(
            finished.stdout.contains("6 of 6, 0 under way"),
            "{}",
            finished.stdout
        );
    }
    assert!(
        first.stdout.contains("6 downloaded, 0 failed"),
        "{}",
        first.stdout
    );
    assert!(
        second.stdout.contains("0 downloaded, 0 failed"),
        "{}",
        second.stdout
    );
    for (wnid, tar) in &tars {
        assert_eq!(origin.gets(wnid).len(), 1, "{wnid}");
        assert_class_is(tar, &job.class_folder(wnid));
    }
}

#[test]
fn an_origin_that_rejects_every_class_ends_the_batch_after_a_sample_without_failed_classes() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=500).map(|number| format!("n{number:08}")).collect();
    let job = Job::new().classes(wnids.iter().map(String::as_str));
    let finished = start(&job, &origin, "4", "1000000").wait();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    for words in [
        &format!("cannot get any class from http://{}", origin.address()),
        "404 Client Error",
        "Options::url",
    ] {
        assert!(
            finished.stderr.contains(words),
            "no {words:?} in {}",
            finished.stderr
        );
    }
    let requests = origin.all_requests().len();
    assert!((20..=25).contains(&requests), "{requests} requests");

    // If the origin has one class of the sample, the others fail one by one.
    let last = images(&wnids[499], 2, 1000..2000, 1);
    origin.class(&wnids[499], last.clone());
    for _ in 0..2 {
        origin.forget_requests();
        let finished = start(&job, &origin, "4", "1000000").wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(
            finished.stdout.contains("499 failed"),
            "{}",
            finished.stdout
        );
        assert!(
            origin.all_requests().len() >= 499,
            "each class was requested"
        );
        assert_class_is(&last, &job.class_folder(&wnids[499]));
    }
}

#[test]
fn a_missing_list_has_an_error_message_of_its_own() {
    let origin = Origin::start();
    let finished = start(&Job::new(), &origin, "1", "1000000").wait();
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("cannot read ")
            && finished.stderr.contains("there is no such file"),
        "{}",
        finished.stderr
    );
}

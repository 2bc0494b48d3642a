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

/// Starts the example program with these limits.
fn start(job: &Job, origin: &Origin, connections: &str, bytes_per_second: &str) -> Running {
    let mut command = Command::new(program("examples/download_gently"));
    command
        .arg(job.folder().join("data.csv"))
        .arg(job.target_path());
    command
        .arg(origin.url())
        .args([connections, bytes_per_second]);
    job.start_program(command)
}

#[test]
fn a_cancelled_batch_writes_checkpoints_and_the_next_call_resumes_within_its_limits() {
    let origin = Origin::start();
    let tars = tars();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    let job = Job::new().classes(tars.iter().map(|(wnid, _)| wnid.as_str()));

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

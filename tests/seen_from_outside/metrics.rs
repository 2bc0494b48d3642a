//! Metrics of a running job and of a finished one.

use std::time::Duration;

use tests::{
    answer::Answer,
    cluster::{Job, Table},
    http::{Scrape, get},
    running::Signal,
    wait::{wait_for, wait_until},
};

use crate::{origin, wnids};

const TIMEOUT: Duration = Duration::from_secs(20);

#[track_caller]
fn assert_adds_up(scrape: &Scrape, total: f64) {
    assert!(
        (scrape.value("imagenet_job_classes") - total).abs() < 0.5,
        "{}",
        scrape.text
    );
    assert!(
        (scrape.sum("imagenet_classes{") - total).abs() < 0.5,
        "{}",
        scrape.text
    );
}

/// Each sample has its value.
#[track_caller]
fn assert_values(scrape: &Scrape, expected: &[(&str, f64)]) {
    for (sample, value) in expected {
        assert!(
            (scrape.value(sample) - value).abs() < 0.1,
            "{sample} is not {value}:\n{}",
            scrape.text
        );
    }
}

/// Each sample has at least its value; the values are whole numbers.
#[track_caller]
fn assert_at_least(scrape: &Scrape, expected: &[(&str, f64)]) {
    for (sample, least) in expected {
        assert!(
            scrape.value(sample) > least - 0.5,
            "{sample} is less than {least}:\n{}",
            scrape.text
        );
    }
}

/// The text contains the version of this program.
#[track_caller]
fn assert_build_info(scrape: &Scrape, program: &str) {
    let info = format!("imagenet_build_info{{program=\"{program}\",version=");
    assert!(scrape.text.contains(&info), "{}", scrape.text);
}

/// No label has the class as its value: it would have as many values as there are classes.
#[track_caller]
fn assert_no_wnid(text: &str) {
    let is_wnid = |word: &str| {
        word.len() == 9 && word.starts_with('n') && word[1..].bytes().all(|b| b.is_ascii_digit())
    };
    let found = text
        .split(|character: char| !character.is_ascii_alphanumeric())
        .find(|word| is_wnid(word));
    assert_eq!(found, None, "{text}");
}

#[test]
fn the_coordinators_metrics_add_up_during_and_after_the_job() {
    let wnids = wnids(6);
    let origin = origin(&wnids);
    origin.limit_rate(15_000);
    let rows = wnids
        .iter()
        .map(String::as_str)
        .chain(["n99999999", "no id"]);
    let job = Job::new()
        .classes(rows)
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let http = coordinator.http;
    let scrape = || Scrape::of(http).expect("the coordinator answers");
    let idle = scrape();
    assert_adds_up(&idle, 8.0);
    assert_no_wnid(&idle.text);
    let expected = [
        ("imagenet_ready", 1.0),
        ("imagenet_workers{state=\"active\"}", 0.0),
        ("imagenet_coordinator_epoch", 1.0),
        ("imagenet_classes{state=\"pending\"}", 7.0),
        ("imagenet_classes{state=\"failed\"}", 1.0),
        ("imagenet_grants_total", 0.0),
        ("imagenet_received_bytes_total", 0.0),
        ("imagenet_expired_sessions_total", 0.0),
    ];
    assert_values(&idle, &expected);
    assert_build_info(&idle, "coordinator");

    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let busy = wait_until(TIMEOUT, || {
        Some(scrape()).filter(|now| now.value("imagenet_classes{state=\"leased\"}") > 0.5)
    });
    let busy = busy.expect("a class is leased");
    assert_adds_up(&busy, 8.0);
    // This worker is stopped, so that the coordinator waits for it at the end and its final metrics
    // can be scraped.
    let other = job.start_worker("w2", &coordinator, job.target_path());
    wait_for("both workers are registered", TIMEOUT, || {
        scrape().value("imagenet_workers{state=\"active\"}") > 1.5
    });
    other.signal(Signal::STOP);
    let classes = |now: &Scrape, state| now.sum(&format!("imagenet_classes{{state=\"{state}\"}}"));
    let is_done = |now: &Scrape| classes(now, "leased") + classes(now, "pending") < 0.5;
    let done = wait_until(TIMEOUT, || Some(scrape()).filter(is_done))
        .expect("all classes are settled while the coordinator waits for a worker");
    other.signal(Signal::CONT);
    assert_adds_up(&done, 8.0);
    assert_no_wnid(&done.text);
    let expected = [
        ("imagenet_classes{state=\"success\"}", 6.0),
        ("imagenet_classes{state=\"failed\"}", 2.0),
        ("imagenet_reports_total{outcome=\"success\"}", 6.0),
        ("imagenet_reports_total{outcome=\"failed\"}", 1.0),
        ("imagenet_grants_total", 7.0),
        ("imagenet_ledger_commit_seconds_count", 1.0),
        (
            "imagenet_rpc_seconds_count{service=\"Coordinator\",method=\"Register\",code=\"OK\"}",
            2.0,
        ),
        (
            "imagenet_rpc_seconds_count{service=\"Coordinator\",method=\"Report\",code=\"OK\"}",
            1.0,
        ),
    ];
    assert_at_least(&done, &expected);
    for running in [worker, other] {
        assert_eq!(running.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(6, 0, 2));
}

#[test]
fn a_workers_metrics_show_current_and_finished_work() {
    let wnids = wnids(4);
    let origin = origin(&wnids);
    let class = |number: usize| {
        origin
            .script_of(&wnids[number])
            .expect("the class is served")
    };
    class(1).script([Answer::cut_at(10_000)]);
    class(3).script([Answer::stall_at(20_000)]);
    let rows = wnids.iter().map(String::as_str).chain(["n99999999"]);
    let job = Job::new()
        .classes(rows)
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let target = job.target_path().to_str().expect("a plain path");
    let args = ["--connect", &connect, "--target", target, "--workers", "5"];
    let mut worker = job.start_worker_with(args.into_iter().chain(["--http", "127.0.0.1:0"]));
    let http = worker.wait_for_http();
    let ok = Some((200, "ok\n".to_owned()));
    assert_eq!(get(http, "/healthz"), ok);
    wait_for("the worker is ready", TIMEOUT, || {
        get(http, "/readyz") == ok
    });
    let scrape = || Scrape::of(http).expect("the worker answers");
    let is_stuck = |now: &Scrape| now.sum("imagenet_worker_classes_total{") > 3.5;
    let stuck = wait_until(TIMEOUT, || Some(scrape()).filter(is_stuck))
        .expect("all classes but one are done");
    assert_no_wnid(&stuck.text);
    let expected = [
        ("imagenet_worker_registered", 1.0),
        ("imagenet_worker_slots", 5.0),
        ("imagenet_worker_busy_slots", 1.0),
        ("imagenet_worker_classes_total{outcome=\"success\"}", 3.0),
        ("imagenet_worker_classes_total{outcome=\"failed\"}", 1.0),
        (
            "imagenet_worker_classes_total{outcome=\"handed_back\"}",
            0.0,
        ),
        ("imagenet_worker_retries_total", 1.0),
        ("imagenet_worker_publish_seconds_count", 3.0),
        ("imagenet_worker_renewal_failures_total", 0.0),
    ];
    assert_values(&stuck, &expected);
    assert!(
        stuck.value("imagenet_worker_received_bytes_total") > 20_000.0,
        "{}",
        stuck.text
    );
    assert_build_info(&stuck, "worker");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(143));
    coordinator.running.kill();
}

#[test]
fn on_one_host_the_metrics_of_both_programs_are_at_one_address() {
    let wnids = wnids(1);
    let origin = origin(&wnids);
    origin.limit_rate(1000);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let job = job.args(["--http", "127.0.0.1:0", "--workers", "3"]);
    let mut running = job.start();
    let http = running.wait_for_http();
    let both = wait_until(TIMEOUT, || {
        Scrape::of(http).filter(|now| now.get("imagenet_worker_busy_slots") == Some(1.0))
    });
    let both = both.expect("the metrics of the worker in the process are there");
    assert_adds_up(&both, 1.0);
    assert!(
        (both.value("imagenet_worker_slots") - 3.0).abs() < 0.1,
        "{}",
        both.text
    );
    running.kill();
}

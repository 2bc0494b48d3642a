//! Metrics of a job that runs and of one that is finished.

use std::time::Duration;

use tests::{
    cluster::{Job, Table},
    http::Scrape,
    running::Signal,
    wait::{wait_for, wait_until},
};

use crate::{origin, wnids};

const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn assert_adds_up(scrape: &Scrape, total: f64) {
    assert!((scrape.value("imagenet_job_classes") - total).abs() < 0.5, "{}", scrape.text);
    assert!((scrape.sum("imagenet_classes{") - total).abs() < 0.5, "{}", scrape.text);
}

/// No label may have as many values as there are classes.
#[track_caller]
fn assert_no_wnid(text: &str) {
    let is_wnid =
        |word: &str| word.len() == 9 && word.starts_with('n') && word[1..].bytes().all(|b| b.is_ascii_digit());
    let found = text.split(|character: char| !character.is_ascii_alphanumeric()).find(|word| is_wnid(word));
    assert_eq!(found, None, "{text}");
}

#[test]
fn the_coordinators_metrics_add_up_while_it_works_and_when_it_is_done() {
    let wnids = wnids(6);
    let origin = origin(&wnids);
    origin.limit_rate(50_000);
    let rows = wnids.iter().map(String::as_str).chain(["n99999999", "no id"]);
    let job = Job::new().classes(rows).origin(&origin).args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let http = coordinator.http;
    let scrape = || Scrape::of(http).expect("the coordinator answers");
    let idle = scrape();
    assert_adds_up(&idle, 8.0);
    assert_no_wnid(&idle.text);
    for (sample, value) in [
        ("imagenet_ready", 1.0),
        ("imagenet_workers", 0.0),
        ("imagenet_coordinator_epoch", 1.0),
        ("imagenet_classes{state=\"pending\"}", 7.0),
        ("imagenet_classes{state=\"failed\"}", 1.0),
        ("imagenet_grants_total", 0.0),
        ("imagenet_received_bytes_total", 0.0),
        ("imagenet_expired_sessions_total", 0.0),
    ] {
        assert!((idle.value(sample) - value).abs() < 0.1, "{sample} is not {value}:\n{}", idle.text);
    }
    assert!(idle.text.contains("imagenet_build_info{program=\"coordinator\",version="), "{}", idle.text);

    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let busy = wait_until(SOON, || Some(scrape()).filter(|now| now.value("imagenet_classes{state=\"leased\"}") > 0.5));
    let busy = busy.expect("a class is leased");
    assert_adds_up(&busy, 8.0);
    // Held back, so that the coordinator waits for somebody and can be looked at when all is done.
    let other = job.start_worker("w2", &coordinator, job.target_path());
    wait_for("both are registered", SOON, || scrape().value("imagenet_workers") > 1.5);
    other.signal(Signal::STOP);
    let is_done = |now: &Scrape| {
        now.sum("imagenet_classes{state=\"leased\"}") + now.sum("imagenet_classes{state=\"pending\"}") < 0.5
    };
    let done =
        wait_until(SOON, || Some(scrape()).filter(is_done)).expect("all is settled while somebody is waited for");
    other.signal(Signal::CONT);
    assert_adds_up(&done, 8.0);
    assert_no_wnid(&done.text);
    for (sample, least) in [
        ("imagenet_classes{state=\"success\"}", 6.0),
        ("imagenet_classes{state=\"failed\"}", 2.0),
        ("imagenet_reports_total{outcome=\"success\"}", 6.0),
        ("imagenet_reports_total{outcome=\"failed\"}", 1.0),
        ("imagenet_grants_total", 7.0),
        ("imagenet_ledger_commit_seconds_count", 1.0),
        ("imagenet_rpc_seconds_count{service=\"Coordinator\",method=\"Register\",code=\"OK\"}", 2.0),
        ("imagenet_rpc_seconds_count{service=\"Coordinator\",method=\"Report\",code=\"OK\"}", 1.0),
    ] {
        assert!(done.value(sample) > least - 0.5, "{sample} is less than {least}:\n{}", done.text);
    }
    for running in [worker, other] {
        assert_eq!(running.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(6, 0, 2));
}

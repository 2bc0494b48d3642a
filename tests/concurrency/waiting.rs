//! A `Retry-After` that one worker receives applies to all workers.

use std::time::{Duration, SystemTime};

use tests::{
    answer::Answer,
    log::lines_with,
    running::{Running, Signal},
    wait::wait_for,
};

use super::Fixture;

/// How long the information may take to reach the other workers.
const PROPAGATION_TIME: Duration = Duration::from_millis(250);
const WAIT: Duration = Duration::from_secs(5);

#[test]
fn after_a_retry_after_to_one_of_four_workers_none_sends_requests_for_that_time() {
    let fixture = Fixture::new(120, 15_000..20_000, &[]);
    let origin = &fixture.origin;
    let wnids = fixture.tars.iter().map(|(wnid, _)| wnid);
    // A class takes 0.25 s, so that there are always requests.
    origin.limit_rate(400_000);
    let coordinator = fixture.job.start_coordinator();
    let workers = fixture.start_workers(&coordinator, 4, 2);
    wait_for(
        "all workers are downloading",
        Duration::from_secs(30),
        || origin.most_transfers() >= 4,
    );
    let next = wnids
        .filter(|wnid| origin.gets(wnid).is_empty())
        .nth(40)
        .expect("some classes are left")
        .clone();
    origin
        .script_of(&next)
        .expect("the class is served")
        .script([Answer::too_many_requests(WAIT.as_secs())]);
    fixture.finish(coordinator, workers);
    let refused = origin
        .gets(&next)
        .iter()
        .find(|request| request.status == 429)
        .expect("the request was rejected")
        .at;
    let requests = fixture.origin.all_requests();
    let after = requests
        .iter()
        .filter_map(|request| request.at.checked_duration_since(refused));
    let (early, under_way): (Vec<Duration>, _) = after
        .filter(|after| !after.is_zero() && *after < WAIT)
        .partition(|after| *after >= PROPAGATION_TIME);
    println!(
        "times after the rejection of requests sent before the other workers knew: {under_way:?}"
    );
    assert!(
        early.is_empty(),
        "times of early requests after the rejection: {early:?}"
    );
    assert!(
        requests.iter().any(|request| request.at > refused + WAIT),
        "there were no requests after the wait"
    );
}

/// The log lines that announce a wait.
fn lines_of(stderr: &str) -> Vec<String> {
    lines_with(stderr, &["asks to wait"])
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// Waits until a program has announced a wait.
#[track_caller]
fn wait_for_announcement(running: &mut Running) {
    running.wait_until("it announces the wait", |running| {
        (!lines_of(&running.stderr()).is_empty()).then_some(())
    });
}

/// A rejection by an origin whose clock is decades ahead.
fn refusal() -> Answer {
    let date = Answer::status(503).header("Date", "Wed, 21 Oct 2065 07:28:00 GMT");
    date.header("Retry-After", "Wed, 21 Oct 2065 07:29:40 GMT")
}

/// Panics unless one line announces the wait for all rejected requests, with the reason and the end
/// in UTC.
#[track_caller]
fn assert_announced_once(lines: &[String], from: SystemTime) {
    let [line] = lines else { panic!("{lines:?}") };
    assert!(
        line.contains("the origin refuses requests (429 or 503) and asks to wait: no request for "),
        "{line}"
    );
    let (_, end) = line.split_once(", until ").expect("the line has the end");
    let wait = humantime::parse_rfc3339(end)
        .expect("a time")
        .duration_since(from)
        .expect("the end is in the future");
    assert!((98..=130).contains(&wait.as_secs()), "{line}: {wait:?}");
}

#[test]
fn a_long_wait_is_logged_once_with_its_end_by_the_origins_clock() {
    let from = SystemTime::now();
    let fixture = Fixture::new(
        8,
        15_000..20_000,
        &["--workers", "4", "--max-connections", "4"],
    );
    for (wnid, _) in &fixture.tars {
        fixture
            .origin
            .script_of(wnid)
            .expect("the class is served")
            .script([refusal()]);
    }
    let mut job = fixture.job.start();
    wait_for_announcement(&mut job);
    job.signal(Signal::INT);
    assert_announced_once(&lines_of(&job.wait().stderr), from);
}

#[test]
fn a_coordinator_logs_the_wait_for_all_its_workers() {
    let from = SystemTime::now();
    let fixture = Fixture::new(8, 15_000..20_000, &["--max-connections", "4"]);
    for (wnid, _) in &fixture.tars {
        fixture
            .origin
            .script_of(wnid)
            .expect("the class is served")
            .script([refusal()]);
    }
    let mut coordinator = fixture.job.start_coordinator();
    let workers = fixture.start_workers(&coordinator, 2, 2);
    wait_for_announcement(&mut coordinator.running);
    coordinator.running.signal(Signal::INT);
    assert_announced_once(&lines_of(&coordinator.running.wait().stderr), from);
    workers.into_iter().for_each(Running::kill);
}

//! An origin that asks one worker to wait has asked all of them.

use std::time::{Duration, SystemTime};

use tests::{
    answer::Answer,
    running::{Running, Signal},
    wait::wait_for,
};

use super::Setting;

/// How long the news may travel.
const NEWS: Duration = Duration::from_millis(250);
const WAIT: Duration = Duration::from_secs(5);

#[test]
fn after_a_wait_that_one_of_four_workers_is_asked_for_none_of_them_asks_for_so_long() {
    let setting = Setting::new(120, 15_000..20_000, &[]);
    let (origin, wnids) = (&setting.origin, setting.tars.iter().map(|(wnid, _)| wnid));
    // A quarter of a second each, so that somebody asks all the time.
    origin.limit_rate(400_000);
    let coordinator = setting.job.start_coordinator();
    let workers = setting.start_workers(&coordinator, 4, 2);
    wait_for("all are at work", Duration::from_secs(30), || origin.most_transfers() >= 4);
    let next = wnids.filter(|wnid| origin.gets(wnid).is_empty()).nth(40).expect("some are left").clone();
    origin.script_of(&next).expect("it is served").script([Answer::too_many_requests(WAIT.as_secs())]);
    setting.finish(coordinator, workers);
    let refused = origin.gets(&next).iter().find(|request| request.status == 429).expect("it was refused").at;
    let requests = setting.origin.all_requests();
    let after = requests.iter().filter_map(|request| request.at.checked_duration_since(refused));
    let (early, under_way): (Vec<Duration>, _) =
        after.filter(|after| !after.is_zero() && *after < WAIT).partition(|after| *after >= NEWS);
    println!("asked before the news had come, so long after the refusal: {under_way:?}");
    assert!(early.is_empty(), "asked so long after the refusal: {early:?}");
    assert!(requests.iter().any(|request| request.at > refused + WAIT), "nobody asked afterwards");
}

/// The announcements of waits.
fn lines_of(stderr: &str) -> Vec<String> {
    stderr.lines().filter(|line| line.contains("asks to wait")).map(str::to_owned).collect()
}

/// Waits until a program has announced a wait.
#[track_caller]
fn announced(running: &mut Running) {
    running.wait_until("it announces the wait", |running| (!lines_of(&running.stderr()).is_empty()).then_some(()));
}

/// A refusal by an origin whose clock is decades ahead.
fn refusal() -> Answer {
    let date = Answer::status(503).header("Date", "Wed, 21 Oct 2065 07:28:00 GMT");
    date.header("Retry-After", "Wed, 21 Oct 2065 07:29:40 GMT")
}

/// One line for all refused requests, with the reason and the end in UTC.
#[track_caller]
fn assert_announced_once(lines: &[String], from: SystemTime) {
    let [line] = lines else { panic!("{lines:?}") };
    assert!(line.contains("the origin refuses requests (429 or 503) and asks to wait: no request for "), "{line}");
    let (_, end) = line.split_once(", until ").expect("its end");
    let wait = humantime::parse_rfc3339(end).expect("an instant").duration_since(from).expect("it comes");
    assert!((98..=130).contains(&wait.as_secs()), "{line}: {wait:?}");
}

#[test]
fn a_long_wait_is_announced_once_with_its_end_by_the_origins_clock() {
    let from = SystemTime::now();
    let setting = Setting::new(8, 15_000..20_000, &["--workers", "4", "--max-connections", "4"]);
    for (wnid, _) in &setting.tars {
        setting.origin.script_of(wnid).expect("it is served").script([refusal()]);
    }
    let mut job = setting.job.start();
    announced(&mut job);
    job.signal(Signal::INT);
    assert_announced_once(&lines_of(&job.wait().stderr), from);
}

#[test]
fn a_coordinator_announces_it_for_all_its_workers() {
    let from = SystemTime::now();
    let setting = Setting::new(8, 15_000..20_000, &["--max-connections", "4"]);
    for (wnid, _) in &setting.tars {
        setting.origin.script_of(wnid).expect("it is served").script([refusal()]);
    }
    let mut coordinator = setting.job.start_coordinator();
    let workers = setting.start_workers(&coordinator, 2, 2);
    announced(&mut coordinator.running);
    coordinator.running.signal(Signal::INT);
    assert_announced_once(&lines_of(&coordinator.running.wait().stderr), from);
    workers.into_iter().for_each(Running::kill);
}

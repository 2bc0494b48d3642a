//! One refusal costs its wait, and not the level that the origin bore.

use std::time::Duration;

use tests::answer::Answer;

use super::Setting;

const CLASSES: u64 = 25;
/// Bytes per second of each connection: about half a second a class, so twelve seconds over a single connection.
const RATE: u64 = 180_000;
const WAIT: Duration = Duration::from_secs(2);
/// Over eight connections the rest of the classes begins within two.
const SOON: Duration = Duration::from_secs(6);

/// Runs a job in which the first request of one class is refused; says when the last request came after the wait.
#[track_caller]
fn last_request_after_the_wait(refused: usize, code: u16) -> Duration {
    let setting = Setting::new(CLASSES, 15_000..20_000, &["--workers", "8"]);
    setting.origin.limit_rate(RATE);
    let (wnid, _) = &setting.tars[refused];
    let answer = Answer::status(code).header("Retry-After", &WAIT.as_secs().to_string());
    setting.origin.script_of(wnid).expect("it is served").script([answer]);
    setting.finish_in_one_process();
    let requests = setting.origin.all_requests();
    assert_eq!(requests.len() as u64, CLASSES + 1);
    let refused = requests.iter().find(|request| request.status == code).expect("it was refused").at;
    let last = requests.iter().map(|request| request.at).max().expect("there were some");
    last.saturating_duration_since(refused + WAIT)
}

#[test]
fn after_a_refusal_of_the_very_first_request_the_connections_come_as_quickly_as_without_it() {
    let last = last_request_after_the_wait(0, 503);
    assert!(last < SOON, "the last request came {last:?} after the wait");
}

#[test]
fn after_a_refusal_of_a_later_one_as_many_connections_are_used_as_before() {
    for (refused, code) in [(2, 429), (9, 503)] {
        let last = last_request_after_the_wait(refused, code);
        assert!(last < SOON, "class {refused}: the last request came {last:?} after the wait");
    }
}

//! A single 429 or 503 costs its wait and does not lower the number of connections.

use std::time::Duration;

use tests::answer::Answer;

use super::Fixture;

const CLASSES: u64 = 25;
/// Bytes per second of each connection: a class takes about a second.
const RATE: u64 = 90_000;
const WAIT: Duration = Duration::from_secs(2);
/// The test observes as many requests as there are slots. With two connections the last of them
/// would come after three seconds.
const SLOTS: usize = 8;
const MAX_RETURN_TIME: Duration = Duration::from_secs(2);

/// Runs a job in which the request with this number is rejected; after the wait all connections
/// must be in use again.
#[track_caller]
fn returns_to_all_connections_after(refused: u64, code: u16) {
    let fixture = Fixture::new(CLASSES, 15_000..20_000, &["--workers", "8"]);
    fixture.origin.limit_rate(RATE);
    let answer = Answer::status(code).header("Retry-After", &WAIT.as_secs().to_string());
    fixture.origin.answer_request(refused, answer);
    fixture.finish_in_one_process();
    let requests = fixture.origin.all_requests();
    assert_eq!(requests.len() as u64, CLASSES + 1);
    let end = requests
        .iter()
        .find(|request| request.status == code)
        .expect("the request was rejected")
        .at
        + WAIT;
    let mut later: Vec<Duration> = requests
        .iter()
        .filter_map(|request| request.at.checked_duration_since(end))
        .collect();
    later.sort_unstable();
    assert!(
        later[SLOTS - 1] < MAX_RETURN_TIME,
        "request {refused}: times of the requests after the wait: {later:?}"
    );
}

#[test]
fn after_a_rejection_of_the_first_request_the_connections_grow_as_quickly_as_without_it() {
    returns_to_all_connections_after(1, 503);
}

#[test]
fn after_a_rejection_of_the_third_request_the_connections_continue_to_grow() {
    returns_to_all_connections_after(3, 429);
}

#[test]
fn after_a_rejection_of_the_tenth_request_as_many_connections_are_used_as_before() {
    returns_to_all_connections_after(10, 503);
}

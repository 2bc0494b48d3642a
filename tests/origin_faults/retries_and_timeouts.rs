//! Temporary statuses, `Retry-After`, and origins that do not answer (O6, O7, O9, O10).

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
};

use super::{QUICK, WNID, assert_arrives, assert_fails, assert_fails_after_a_retry, class};

#[test]
fn three_server_errors_cost_three_more_requests() {
    let gets = assert_arrives(
        &class(),
        [500; 3].map(Answer::status),
        &["--delete-tar", "--retries", "3"],
    );
    assert_eq!(gets.len(), 4);
}

#[test]
fn a_temporary_status_is_retried_and_then_reported() {
    for (status, words) in [
        (500, "500 Server Error"),
        (502, "502 Server Error"),
        (503, "503 Server Error"),
        (504, "504 Server Error"),
        (429, "429 Client Error"),
    ] {
        let (failure, gets) = assert_fails(Answer::status(status), &QUICK);
        assert!(
            failure.starts_with(&format!("HTTPError: {words}")),
            "{failure}"
        );
        assert_eq!(gets.len(), 2, "{status}");
    }
}

#[test]
fn without_retries_there_is_one_request() {
    let (_, gets) = assert_fails(Answer::status(503), &["--delete-tar", "--retries", "0"]);
    assert_eq!(gets.len(), 1);
}

#[test]
fn a_retry_after_of_one_request_delays_all_requests() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=8).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 5, 10_000..20_000, 1));
    }
    // The other classes take 0.2 s each, so that some are always left to request.
    origin.limit_rate(400_000);
    origin
        .script_of("n00000003")
        .expect("the class is served")
        .script([Answer::too_many_requests(5)]);
    let args = ["--delete-tar", "--workers", "2"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    job.assert_ended(&job.run(), 0, Table::of(8, 0, 0));

    let rejected_at = origin.requests("n00000003")[0].at;
    let requests = origin.all_requests();
    let later: Vec<Duration> = requests
        .iter()
        .filter(|request| request.at > rejected_at)
        .map(|request| request.at - rejected_at)
        .collect();
    assert!(!later.is_empty());
    // A request may have been in transit when the answer arrived.
    let too_early = later
        .iter()
        .filter(|after| (100..4900).contains(&after.as_millis()))
        .count();
    assert_eq!(too_early, 0, "{later:?}");
}

#[test]
fn retry_after_may_be_a_date() {
    let past = Answer::status(503).header("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT");
    let nonsense = Answer::status(503).header("Retry-After", "soon");
    assert_arrives(
        &class(),
        [past, nonsense],
        &["--delete-tar", "--retries", "2"],
    );
}

#[test]
fn a_date_is_measured_by_the_origins_clock() {
    let [date, later] = [
        "Wed, 21 Oct 2065 07:28:00 GMT",
        "Wed, 21 Oct 2065 07:28:02 GMT",
    ];
    let ahead = Answer::status(503)
        .header("Date", date)
        .header("Retry-After", later);
    let gets = assert_arrives(&class(), [ahead], &["--delete-tar", "--retries", "1"]);
    let wait = gets[1].at - gets[0].at;
    assert!((1900..30_000).contains(&wait.as_millis()), "{wait:?}");
}

#[test]
fn a_stall_is_reported_as_a_timeout() {
    let args = ["--delete-tar", "--retries", "1", "--timeout", "2s"];
    let (failure, gets) = assert_fails(Answer::stall_at(300).ignoring_range(), &args);
    assert_eq!(failure, "Timeout: Request timeout after 2s");
    assert!((2..=3).contains(&gets.len()), "{gets:#?}");
    assert!(
        assert_fails_after_a_retry(Answer::silence(), "Timeout")
            .contains("Request timeout after 5s")
    );
}

#[test]
fn a_temporary_stall_resumes_at_its_offset() {
    let tar = class();
    let gets = assert_arrives(&tar, [Answer::stall_at(40_000)], &QUICK);
    assert_eq!(gets[1].start(), 40_000);
}

#[test]
fn a_drip_is_too_slow_and_a_slow_link_is_not() {
    let args = ["--delete-tar", "--retries", "0", "--timeout", "2s"];
    let (failure, _) = assert_fails(Answer::drip(10, Duration::from_millis(100)), &args);
    assert!(
        failure.starts_with("Timeout: ") && failure.contains("too slow"),
        "{failure}"
    );

    let origin = Origin::start();
    let tar = images(WNID, 2, 3000..4000, 1);
    origin.class(WNID, tar.clone());
    origin.limit_rate(3000);
    let job = Job::new().classes([WNID]).origin(&origin).args(args);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
}

#[test]
fn an_origin_without_a_listener_is_a_connection_error() {
    let unreachable = { Origin::start().url() };
    let job = Job::new().classes([WNID]).url(&unreachable).args(QUICK);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        job.failure_of(WNID).starts_with("ConnectionError: "),
        "{:?}",
        job.failures()
    );
    let job = job.url("http://no-such-host.invalid/tars");
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        job.failure_of(WNID).starts_with("ConnectionError: "),
        "{:?}",
        job.failures()
    );
}

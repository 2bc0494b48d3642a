//! Faults of an origin, one test for each row of the fault matrix. Each fault has exactly one
//! outcome, and none leaves an incomplete class.

mod changed_versions;
mod error_messages;
mod login_expires;
mod lost_connections;
mod proxies;
mod public_hosts;
mod redirects;
mod retries_and_timeouts;
mod same_refusal;
mod tls;
mod unavailable_origin;
mod wrong_answers;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::{Origin, Request},
};

const WNID: &str = "n00000001";
/// Few attempts and short timeouts, for short tests.
const QUICK: [&str; 7] = [
    "--delete-tar",
    "--retries",
    "1",
    "--timeout",
    "5s",
    "--workers",
    "2",
];

/// About 100 KB in ten images.
fn class() -> Vec<u8> {
    images(WNID, 10, 8000..12_000, 1)
}

/// Panics unless the class is complete with this script of answers. Returns its requests.
#[track_caller]
fn assert_arrives(
    tar: &[u8],
    script: impl IntoIterator<Item = Answer>,
    args: &[&str],
) -> Vec<Request> {
    let origin = Origin::start();
    origin.class(WNID, tar.to_vec()).script(script);
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(args.iter().copied());
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(tar, &job.class_folder(WNID));
    origin.gets(WNID)
}

/// Panics unless the class fails if the origin always gives this answer. Returns the line of the
/// failure log and the requests.
#[track_caller]
fn assert_fails(answer: Answer, args: &[&str]) -> (String, Vec<Request>) {
    let origin = Origin::start();
    origin.class(WNID, class()).forever(answer);
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(args.iter().copied());
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        !job.class_folder(WNID).exists(),
        "an incomplete class is visible"
    );
    (job.failure_of(WNID), origin.gets(WNID))
}

/// As [`assert_fails`], for permanent failures: there is no retry.
#[track_caller]
fn assert_fails_at_once(answer: Answer, kind: &str) -> String {
    let (failure, gets) = assert_fails(answer, &QUICK);
    assert!(failure.starts_with(&format!("{kind}: ")), "{failure}");
    assert_eq!(
        gets.len(),
        1,
        "a permanent failure is not retried: {gets:#?}"
    );
    failure
}

/// As [`assert_fails`], for transient failures: there is one retry.
#[track_caller]
fn assert_fails_after_a_retry(answer: Answer, kind: &str) -> String {
    let (failure, gets) = assert_fails(answer, &QUICK);
    assert!(failure.starts_with(&format!("{kind}: ")), "{failure}");
    // An attempt that receives new bytes does not count, so there may be one more.
    assert!((2..=3).contains(&gets.len()), "{gets:#?}");
    failure
}

//! Messages beyond a limit are rejected (S21), and the largest report of a worker is not.

use tests::{largest_report::largest_report, memory};
use tonic::Code;

use super::{Cluster, client::Client};

#[test]
fn a_message_of_100_mib_is_rejected_by_its_length() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let mut coordinator = job.start_coordinator();
    let long = |length: usize| proto::ReportRequest {
        session_id: 1,
        results: vec![proto::Result {
            wnid: "n".repeat(length),
            ..Default::default()
        }],
        ..Default::default()
    };
    let valid = Client::new(coordinator.address, Some(&secret));
    // A message within the limit is decoded, and rejected for its contents.
    assert_eq!(
        valid
            .report(long(3 << 20))
            .expect_err("the text is not a class")
            .code(),
        Code::InvalidArgument
    );
    assert!(coordinator.running.is_running());
    let before = memory::of(coordinator.running.id())
        .expect("the coordinator runs")
        .peak;
    let refused = valid
        .report(long(100 << 20))
        .expect_err("the message is too long");
    assert!(
        matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{refused:?}"
    );
    // Without a valid token the message is not decoded.
    let refused = Client::new(coordinator.address, None)
        .report(long(100 << 20))
        .expect_err("there is no token");
    assert!(
        matches!(
            refused.code(),
            Code::Unauthenticated | Code::Unknown | Code::Internal
        ),
        "{refused:?}"
    );
    let grown = memory::of(coordinator.running.id())
        .expect("the coordinator runs")
        .peak
        - before;
    assert!(
        grown < 10 << 20,
        "the coordinator used {grown} additional bytes"
    );
    assert!(
        valid.register("known").is_ok(),
        "the coordinator still answers"
    );
    coordinator.running.kill();
}

#[test]
fn a_deeply_nested_message_is_rejected() {
    let cluster = Cluster::of(1);
    let mut coordinator = cluster.job.start_coordinator();
    let client = Client::new(coordinator.address, None);
    // The start of a group (field 15), nested a million times; then a field that claims to be
    // longer than it is.
    for message in [
        vec![0x7b; 1_000_000],
        vec![0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ] {
        let refused = client
            .raw("/imagenet.v1.Coordinator/Report", message)
            .expect_err("the bytes are not a message");
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    }
    assert!(
        coordinator.running.is_running() && client.register("known").is_ok(),
        "the coordinator still answers"
    );
    coordinator.running.kill();
}

#[test]
fn a_connection_that_begins_with_the_largest_report_is_never_closed() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let worker = Client::new(coordinator.address, Some(&secret));
    let tries = std::env::var("FIRST_REPORTS").map_or(20, |tries| tries.parse().expect("a number"));
    for number in 1..=tries {
        let answer = worker.report(largest_report());
        assert!(answer.is_ok(), "report {number} of {tries}: {answer:?}");
    }
    coordinator.running.kill();
}

#[test]
fn a_message_of_two_million_empty_results_is_rejected_before_it_is_decoded() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let worker = Client::new(coordinator.address, Some(&secret));
    assert!(worker.report(largest_report()).is_ok());
    let held = || memory::of(coordinator.running.id()).expect("the coordinator runs");
    let before = held().peak;
    for _ in 0..3 {
        let refused = worker
            .raw("/imagenet.v1.Coordinator/Report", [0x12, 0].repeat(2 << 20))
            .expect_err("too many");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert_eq!(
            refused.message(),
            "a message may name 4096 classes, this one more"
        );
    }
    let grown = held().peak - before;
    assert!(
        grown < 16 << 20,
        "the coordinator used {grown} additional bytes"
    );
    coordinator.running.kill();
}

//! Compares the limits with the real encoder, with the bytes divided in every way.

use prost::Message as _;
use tonic::Code;

use super::*;

const REPORT: &str = "/imagenet.v1.Coordinator/Report";

/// A message with gRPC's prefix.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

fn take(path: &str, bytes: &[u8], size: usize) -> Result<(), Status> {
    let mut messages = Messages::new(
        Limit::of(path),
        Arc::new(RequestMemory::default().reservation(None)),
    );
    bytes.chunks(size).try_for_each(|part| messages.take(part))
}

/// Entries with the largest numbers.
fn held(count: usize) -> Vec<proto::Held> {
    vec![
        proto::Held {
            wnid: "n12345678".to_owned(),
            token: u64::MAX,
            bytes: u64::MAX,
            length: u64::MAX,
            is_local: true
        };
        count
    ]
}

fn results(count: usize) -> proto::ReportRequest {
    let failure = proto::Failure {
        kind: 4,
        message: "not a tar\u{1b}".repeat(20),
        suspect: 1,
        ..proto::Failure::default()
    };
    let outcome = proto::Outcome {
        kind: Some(proto::outcome::Kind::Failure(failure)),
    };
    let result = proto::Result {
        wnid: "n12345678".to_owned(),
        token: u64::MAX,
        outcome: Some(outcome),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        needs_lease: true,
    };
    proto::ReportRequest {
        session_id: u64::MAX,
        results: vec![result; count],
        ..Default::default()
    }
}

/// Messages of each method that names classes, with this many of them.
fn messages(count: usize) -> [(&'static str, Vec<u8>); 5] {
    let session_id = u64::MAX;
    let register = proto::RegisterRequest {
        protocol_version: 1,
        worker_name: "w".repeat(128),
        instance_nonce: vec![7; 64],
        held: held(count),
        storage_id: "s".repeat(128),
        ..Default::default()
    };
    let retry = proto::RetryFailedRequest {
        wnids: vec!["n12345678".to_owned(); count],
    };
    [
        (REPORT, results(count).encode_to_vec()),
        (
            "/imagenet.v1.Coordinator/Register",
            register.encode_to_vec(),
        ),
        (
            "/imagenet.v1.Coordinator/Renew",
            proto::RenewRequest {
                session_id,
                held: held(count),
                received_bytes: u64::MAX,
            }
            .encode_to_vec(),
        ),
        (
            "/imagenet.v1.Coordinator/Acquire",
            proto::AcquireRequest {
                session_id,
                max: u32::MAX,
                held: held(count),
            }
            .encode_to_vec(),
        ),
        ("/imagenet.v1.Admin/RetryFailed", retry.encode_to_vec()),
    ]
}

#[test]
fn the_largest_valid_message_of_each_method_passes_and_one_class_more_does_not() {
    let most = messages(MAX_BATCH);
    let more = messages(MAX_BATCH + 1);
    for ((path, message), (_, one_more)) in most.iter().zip(&more) {
        let message = framed(message);
        let one_more = framed(one_more);
        for size in [1, 13, 8192, message.len()] {
            assert!(
                take(path, &message, size).is_ok(),
                "{path} in parts of {size}"
            );
            let refused = take(path, &one_more, size).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{path}");
            assert_eq!(
                refused.message(),
                "a message may name 4096 classes, this one more"
            );
        }
    }
}

#[test]
fn several_messages_of_one_stream_are_counted_separately() {
    let one = framed(&results(MAX_BATCH).encode_to_vec());
    let three = [one.clone(), framed(&[]), one].concat();
    for size in [7, 4096, three.len()] {
        assert!(take(REPORT, &three, size).is_ok());
    }
}

#[test]
fn a_message_with_a_length_above_the_limit_is_refused_before_its_first_byte() {
    for (path, most) in [
        (REPORT, 4 << 20),
        ("/imagenet.v1.Coordinator/Renew", 256 << 10),
        ("/imagenet.v1.Coordinator/Pace", 4096),
        ("/imagenet.v1.Coordinator/Watch", 4096),
        ("/grpc.health.v1.Health/Watch", 4096),
    ] {
        let prefix = |length: u32| [&[0][..], &length.to_be_bytes()].concat();
        assert!(take(path, &prefix(most), 1).is_ok(), "{path}");
        let refused = take(path, &prefix(most + 1), 1).unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{path}");
    }
}

#[test]
fn entries_without_content_in_unusual_encodings_are_counted_as_well() {
    let entries = |entry: &[u8]| framed(&entry.repeat(MAX_BATCH + 1));
    // A plain entry, one whose tag and length have more bytes than necessary, one after a number,
    // and one inside a group.
    for entry in [
        &[0x12, 0][..],
        &[0x92, 0x80, 0, 0x80, 0],
        &[0x08, 0xFF, 0x7F, 0x12, 0],
        &[0x7B, 0x12, 0, 0x7C],
        &[0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x7D, 1, 2, 3, 4, 0x12, 0],
    ] {
        let refused = take(REPORT, &entries(entry), 5).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{entry:?}");
    }
    // Other fields are not counted, and invalid encodings are left to the decoder.
    for entry in [&[0x1A, 0][..], &[0x1A, 2, 0x12, 0], &[0x17]] {
        assert!(take(REPORT, &entries(entry), 5).is_ok(), "{entry:?}");
    }
}

//! Broken connections: cuts, resets, truncated bodies, stale pooled connections (O1, O2, O13, O21).

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::{Origin, Validators},
};

use super::{QUICK, WNID, assert_arrives, assert_fails_after_a_retry, class};

#[test]
fn a_cut_download_resumes_at_its_end_and_no_byte_is_sent_twice() {
    let tar = class();
    let gets = assert_arrives(&tar, [20_000, 30_000, 10_000].map(Answer::cut_at), &QUICK);
    let starts: Vec<u64> = gets.iter().map(tests::origin::Request::start).collect();
    assert_eq!(starts, [0, 20_000, 50_000, 60_000]);
    assert!(gets[1..].iter().all(|get| get.if_range.is_some()));
    assert_eq!(
        gets.iter().map(|get| get.sent).sum::<u64>(),
        tar.len() as u64
    );
}

#[test]
fn a_cut_at_any_offset_leaves_the_tar_complete() {
    let tar = images(WNID, 4, 300..2000, 1);
    let origin = Origin::start();
    let places = [
        1,
        511,
        512,
        513,
        700,
        1024,
        1536,
        tar.len() as u64 / 2,
        tar.len() as u64 - 512,
        tar.len() as u64 - 1,
    ];
    let wnids: Vec<String> = (1..=places.len())
        .map(|number| format!("n{number:08}"))
        .collect();
    for (wnid, place) in wnids.iter().zip(places) {
        origin
            .class(wnid, tar.clone())
            .script([Answer::cut_at(place)]);
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(QUICK);
    job.assert_ended(&job.run(), 0, Table::of(places.len() as u64, 0, 0));
    for wnid in &wnids {
        assert_class_is(&tar, &job.class_folder(wnid));
    }
}

#[test]
fn progress_resets_the_attempts() {
    let gets = assert_arrives(&class(), (0..8).map(|_| Answer::cut_at(9000)), &QUICK);
    assert_eq!(gets.len(), 9, "with --retries 1 eight cuts are survived");
}

#[test]
fn a_reset_is_survived() {
    assert_arrives(
        &class(),
        [Answer::reset_at(0), Answer::reset_at(30_000)],
        &["--delete-tar", "--retries", "2"],
    );
}

#[test]
fn a_tar_that_always_ends_early_fails_and_nothing_is_visible() {
    assert_fails_after_a_retry(Answer::cut_at(300).ignoring_range(), "ConnectionError");
    assert_fails_after_a_retry(Answer::reset_at(300).ignoring_range(), "ConnectionError");
    assert_fails_after_a_retry(
        Answer::plain().stating_length(500_000).ignoring_range(),
        "ConnectionError",
    );
    assert_fails_after_a_retry(
        Answer::plain().chunked_without_end().ignoring_range(),
        "ConnectionError",
    );
}

#[test]
fn without_a_length_only_the_end_marker_completes_the_tar() {
    let tar = class();
    assert_arrives(&tar, [Answer::plain().without_length()], &QUICK);
    assert_arrives(&tar, [Answer::plain().chunked()], &QUICK);
    let first_entry = 512
        + tests::archives::files(&tar)["n00000001_1.JPEG"]
            .len()
            .next_multiple_of(512);
    let cut_between_entries = tar[..first_entry].to_vec();
    assert_arrives(
        &tar,
        [Answer::body(cut_between_entries.clone()).without_length()],
        &QUICK,
    );
    let failure = assert_fails_without_end(cut_between_entries);
    assert!(
        failure.starts_with("ConnectionError: ") || failure.starts_with("TarError: "),
        "{failure}"
    );
}

fn assert_fails_without_end(body: Vec<u8>) -> String {
    super::assert_fails(Answer::body(body).without_length(), &QUICK).0
}

#[test]
fn of_a_body_longer_than_its_length_only_the_length_counts() {
    let origin = Origin::start();
    let wnids = ["n00000001", "n00000002", "n00000003"];
    let tars = wnids.map(|wnid| images(wnid, 5, 1000..9000, 1));
    for (wnid, tar) in wnids.iter().zip(&tars) {
        let longer = [
            tar.as_slice(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
        ]
        .concat();
        let answer = Answer::body(longer).stating_length(tar.len() as u64);
        origin.class(wnid, tar.clone()).script([answer]);
    }
    let job = Job::new()
        .classes(wnids)
        .origin(&origin)
        .args(["--delete-tar", "--workers", "1"]);
    job.assert_ended(&job.run(), 0, Table::of(3, 0, 0));
    for (wnid, tar) in wnids.iter().zip(&tars) {
        assert_class_is(tar, &job.class_folder(wnid));
    }
}

/// The real server closes idle connections silently, so a request on one of them fails (41 times in
/// one night of the field log). Such a failure is not the class's, so it costs no attempt.
#[test]
fn a_stale_pooled_connection_costs_no_attempt() {
    for answer in [
        Answer::plain().hanging_up(),
        Answer::plain().hanging_up_on_the_next(),
    ] {
        let origin = Origin::start();
        let wnids: Vec<String> = (1..=6).map(|number| format!("n{number:08}")).collect();
        for wnid in &wnids {
            origin.class(wnid, class()).forever(answer.clone());
        }
        let args = ["--delete-tar", "--workers", "1", "--retries", "0"];
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin)
            .args(args);
        job.assert_ended(&job.run(), 0, Table::of(6, 0, 0));
    }
}

#[test]
fn without_validators_a_cut_download_starts_over() {
    let tar = class();
    for (validators, goes_on) in [
        (Validators::Strong, true),
        (Validators::Date, true),
        (Validators::Weak, false),
        (Validators::None, false),
    ] {
        let origin = Origin::start();
        origin
            .class(WNID, tar.clone())
            .validators(validators)
            .script([Answer::cut_at(50_000)]);
        let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        let gets = origin.gets(WNID);
        assert_eq!(
            (gets.len(), gets[1].start() > 0),
            (2, goes_on),
            "{validators:?}"
        );
    }
}

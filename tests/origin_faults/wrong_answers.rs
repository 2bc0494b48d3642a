//! Answers that are not a tar: permanent failures with an exact message and bounded resources (O3,
//! O4, O5, O11, O12, O17).

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    content::{Segment, Segments},
    origin::Origin,
    raw_tar::Entry,
};

use super::{QUICK, WNID, assert_arrives, assert_fails, assert_fails_at_once, class};

#[test]
fn a_missing_class_is_requested_once() {
    for (status, words) in [
        (404, "404 Client Error"),
        (403, "403 Client Error"),
        (410, "410 Client Error"),
        (401, "401"),
    ] {
        let failure = assert_fails_at_once(Answer::status(status), "HTTPError");
        assert!(
            failure.contains(words) && failure.contains(WNID),
            "{failure}"
        );
    }
}

#[test]
fn an_empty_answer_fails_the_class() {
    let failure = assert_fails(Answer::body(Vec::new()), &QUICK).0;
    assert!(
        failure.starts_with("TarError: ") || failure.starts_with("NotATar: "),
        "{failure}"
    );
    assert_fails_at_once(Answer::body(vec![0; 1024]), "TarError");
    assert_fails_at_once(Answer::body(vec![0; 10_240]), "TarError");
}

#[test]
fn an_html_page_is_reported_with_its_first_words_and_fails_no_other_class() {
    let failure = assert_fails_at_once(Answer::html(), "NotATar");
    assert!(failure.contains("<!DOCTYPE html>"), "{failure}");
    assert_fails_at_once(Answer::html().without_length(), "NotATar");

    let origin = Origin::start();
    let wnids: Vec<String> = (1..=8).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 3, 100..9000, 1));
    }
    for wnid in &wnids[..4] {
        origin
            .script_of(wnid)
            .expect("the class is served")
            .forever(Answer::html());
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(QUICK);
    job.assert_ended(&job.run(), 1, Table::of(4, 0, 4));
    assert!(
        job.failures()
            .iter()
            .all(|line| line.contains(" - NotATar: ")),
        "{:?}",
        job.failures()
    );
    for wnid in &wnids[4..] {
        assert_class_is(&images(wnid, 3, 100..9000, 1), &job.class_folder(wnid));
    }
}

#[test]
fn an_html_page_cannot_control_the_terminal() {
    let page = b"<html>\x1b[2J\x1b]0;owned\x07\x9b31m\xe2\x80\xaegnp</html>".to_vec();
    let origin = Origin::start();
    origin.class(WNID, class()).forever(Answer::body(page));
    let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(0, 0, 1));
    let log = job.log();
    assert!(!log.is_empty());
    for text in [log, finished.stderr, job.failure_of(WNID)] {
        let steers = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
        assert!(
            !text.contains(|character| steers(character) || character == '\u{202e}'),
            "{text:?}"
        );
    }
}

#[test]
fn compressed_bodies_are_rejected_as_such() {
    let failure = assert_fails_at_once(
        Answer::plain().header("Content-Encoding", "gzip"),
        "NotATar",
    );
    assert!(failure.contains("gzip"), "{failure}");
    for (magic, name) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], "gzip"),
        (b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F", "xz"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
    ] {
        let mut body = magic.to_vec();
        body.extend(
            (0..5000_u32).map(|number| u8::try_from(number * 31 % 251).expect("below 251")),
        );
        let failure = assert_fails_at_once(Answer::body(body), "NotATar");
        assert!(failure.contains(name), "{failure}");
    }
}

/// RFC 9112, 6.3: with both headers, the chunked coding determines the end of the body.
#[test]
fn a_content_length_with_chunked_coding_is_ignored() {
    let tar = class();
    for length in [0, 17, tar.len(), tar.len() + 10_240] {
        let answer = Answer::plain()
            .chunked()
            .header("Content-Length", &length.to_string());
        let gets = assert_arrives(&tar, [answer], &QUICK);
        assert_eq!(gets.len(), 1, "{length} of {}", tar.len());
    }
}

#[test]
fn endless_headers_are_limited_and_memory_stays_flat() {
    for answer in [
        Answer::endless_header(),
        Answer::padded_header(1 << 20),
        Answer::padded_header(64 << 20),
    ] {
        let origin = Origin::start();
        origin.class(WNID, class()).forever(answer);
        let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
        let finished = job.run();
        job.assert_ended(&finished, 1, Table::of(0, 0, 1));
        let failure = job.failure_of(WNID);
        let kinds = ["ConnectionError: ", "HTTPError: ", "Timeout: "];
        assert!(
            kinds.iter().any(|kind| failure.starts_with(kind)),
            "{failure}"
        );
        assert!(
            finished.peak_memory.is_none_or(|bytes| bytes < 100 << 20),
            "{:?}",
            finished.peak_memory
        );
    }
}

#[test]
fn an_endless_body_is_limited_and_the_disk_is_freed() {
    let endless = |size| {
        let header = Entry::file("n00000001_1.JPEG", b"")
            .stating_size(size)
            .header()
            .to_vec();
        Segments::new(vec![
            Segment::Bytes(header),
            Segment::Pattern {
                seed: 1,
                length: 1 << 50,
            },
        ])
    };
    // The file exceeds the size limit, so no byte of its contents is read.
    let (failure, gets) = assert_fails(Answer::body(endless(3 << 30)).without_length(), &QUICK);
    assert!(failure.starts_with("TarError: "), "{failure}");
    assert!(gets.len() == 1 && gets[0].sent < 64 << 20, "{gets:#?}");
    // The bytes after a file of 1 MiB are not a header.
    let (failure, gets) = assert_fails(Answer::body(endless(1 << 20)).without_length(), &QUICK);
    assert!(failure.starts_with("TarError: "), "{failure}");
    assert!(gets.len() == 1 && gets[0].sent < 64 << 20, "{gets:#?}");
    // Zeros after the end marker are padding, up to a limit.
    let entry = Entry::file("n00000001_1.JPEG", b"").header().to_vec();
    let zeros = Segments::new(vec![
        Segment::Bytes(entry),
        Segment::Fill {
            byte: 0,
            length: 1 << 50,
        },
    ]);
    assert_fails_at_once(Answer::body(zeros).without_length(), "TarError");
    // A tar whose announced length exceeds the limit is not read.
    assert_fails_at_once(Answer::body(endless(1 << 20)), "TarError");
}

#[test]
fn a_temporary_status_is_retried() {
    let statuses = [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524];
    let origin = Origin::start();
    let wnids = statuses.map(|status| format!("n00000{status}"));
    for (wnid, status) in wnids.iter().zip(statuses) {
        origin.class(wnid, class()).script([Answer::status(status)]);
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let job = job.args([
        "--delete-tar",
        "--retries",
        "1",
        "--timeout",
        "5s",
        "--workers",
        "12",
    ]);
    job.assert_ended(&job.run(), 0, Table::of(statuses.len() as u64, 0, 0));
    for wnid in &wnids {
        assert_eq!(origin.gets(wnid).len(), 2, "{wnid}");
    }
}

#[test]
fn many_small_headers_are_read() {
    let many = (0..300).fold(Answer::plain(), |answer, number| {
        answer.header(&format!("X-Meta-{number}"), "value")
    });
    assert_eq!(assert_arrives(&class(), [many], &QUICK).len(), 1);
}

#[test]
fn an_identity_encoding_is_accepted_and_upload_chunks_are_not_a_tar() {
    for encoding in ["aws-chunked", "identity", "aws-chunked, identity"] {
        let answer = Answer::plain().header("Content-Encoding", encoding);
        assert_eq!(
            assert_arrives(&class(), [answer], &QUICK).len(),
            1,
            "{encoding}"
        );
    }
    let tar = class();
    let head = format!("{:x};chunk-signature={}\r\n", tar.len(), "0".repeat(64));
    let uploaded = [head.as_bytes(), &tar, b"\r\n0\r\n\r\n"].concat();
    assert_fails_at_once(
        Answer::body(uploaded).header("Content-Encoding", "aws-chunked"),
        "NotATar",
    );
}

/// Some proxies answer every request with 206.
#[test]
fn a_206_with_the_whole_tar_is_accepted() {
    let whole = || Answer::plain().calling_the_whole_a_part();
    assert_eq!(assert_arrives(&class(), [whole()], &QUICK).len(), 1);
    let cut = Answer::cut_at(50_000).calling_the_whole_a_part();
    let gets = assert_arrives(&class(), [cut, whole()], &QUICK);
    assert_eq!(
        (gets.len(), gets[1].start()),
        (2, 50_000),
        "the second request got the whole tar"
    );
}

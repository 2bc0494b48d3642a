//! Resuming a tar that has changed: the result is one version, never a mix (O14, O15, O16).

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    log::has_line,
    origin::{Origin, Request},
    running::Signal,
};

use super::{QUICK, WNID, assert_arrives, class};

#[track_caller]
fn assert_started_over(gets: &[Request]) {
    assert!(
        gets[1].start() > 0,
        "the first attempt after the cut requests the rest: {gets:#?}"
    );
    let last = gets.last().expect("there were requests");
    assert!(last.start() == 0 || last.status == 200, "{gets:#?}");
}

#[test]
fn a_range_request_that_is_answered_with_the_whole_tar_starts_over() {
    let gets = assert_arrives(
        &class(),
        [Answer::cut_at(50_000), Answer::plain().ignoring_range()],
        &QUICK,
    );
    assert_started_over(&gets);
    assert_eq!(gets.len(), 2, "the second answer was the whole tar");
}

#[test]
fn a_part_with_another_offset_is_discarded() {
    let gets = assert_arrives(
        &class(),
        [Answer::cut_at(50_000), Answer::plain().starting_late(512)],
        &QUICK,
    );
    assert_started_over(&gets);
}

#[test]
fn a_part_of_another_version_is_discarded() {
    let cut = || Answer::cut_at(50_000);
    assert_started_over(&assert_arrives(
        &class(),
        [cut(), Answer::plain().with_etag("\"other\"")],
        &QUICK,
    ));
    assert_started_over(&assert_arrives(
        &class(),
        [cut(), Answer::plain().with_total(999_999)],
        &QUICK,
    ));
}

#[test]
fn a_rejected_range_request_starts_over() {
    for status in [416, 412, 304, 400, 403, 405, 501, 505] {
        let gets = assert_arrives(
            &class(),
            [Answer::cut_at(50_000), Answer::status(status)],
            &QUICK,
        );
        assert_started_over(&gets);
        assert_eq!(gets.len(), 3);
    }
}

#[test]
fn a_tar_that_changes_on_the_server_is_never_mixed() {
    let old = class();
    let newer = [
        images(WNID, 10, 8000..12_000, 2),
        images(WNID, 3, 8000..12_000, 3),
        {
            // The same length as the old tar, with other bytes.
            let mut same_length = old.clone();
            same_length[600] ^= 1;
            same_length[70_000] ^= 1;
            same_length
        },
    ];
    for new in newer {
        for careless in [Answer::plain(), Answer::plain().ignoring_if_range()] {
            let origin = Origin::start();
            let cut = Answer::cut_at(50_000).then_replaced_by(new.clone());
            origin.class(WNID, old.clone()).script([cut, careless]);
            let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
            job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
            assert_class_is(&new, &job.class_folder(WNID));
        }
    }
}

/// The answer must repeat the strong `ETag` of the `If-Range` (RFC 9110, 15.3.7); without it the
/// version is unknown.
#[test]
fn a_part_without_the_requested_tag_is_discarded() {
    let old = class();
    let mut new = old.clone();
    new[600] ^= 1;
    new[70_000] ^= 1;
    for args in [&QUICK[..], &QUICK[1..]] {
        let origin = Origin::start();
        let cut = Answer::cut_at(50_000).then_replaced_by(new.clone());
        let careless = Answer::plain().ignoring_if_range().without_validators();
        origin.class(WNID, old.clone()).script([cut, careless]);
        let job = Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(args.iter().copied());
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&new, &job.class_folder(WNID));
        assert_started_over(&origin.gets(WNID));
        let kept = std::fs::read(job.target_path().join("n00000001.tar")).ok();
        assert!(kept.is_none_or(|kept| kept == new), "the tar is a mix");
    }
}

/// 200 means all of the tar, `Content-Range` means a part: an answer with both is not trusted.
#[test]
fn a_200_with_a_content_range_starts_over() {
    let tar = class();
    let last = tar.len() - 1;
    let length = tar.len();
    let whole_but = |range: String| {
        Answer::plain()
            .ignoring_range()
            .header("Content-Range", &range)
    };
    for answer in [
        Answer::plain().calling_a_part_whole(),
        whole_but(format!("bytes 50000-{last}/{length}")),
        whole_but("bytes 50000-59999/60000".to_owned()),
    ] {
        assert_started_over(&assert_arrives(
            &tar,
            [Answer::cut_at(50_000), answer],
            &QUICK,
        ));
    }
}

#[test]
fn a_kept_tar_that_changed_is_the_new_version() {
    let old = class();
    let new = images(WNID, 4, 8000..12_000, 2);
    let origin = Origin::start();
    origin
        .class(WNID, old)
        .script([Answer::cut_at(90_000).then_replaced_by(new.clone())]);
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--retries", "1"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&new, &job.class_folder(WNID));
    assert!(
        std::fs::read(job.target_path().join("n00000001.tar")).unwrap() == new,
        "the tar is not the new one"
    );
}

/// The first byte and the validator of each request.
fn requested(gets: &[Request]) -> Vec<(u64, Option<&str>)> {
    gets.iter()
        .map(|get| (get.start(), get.if_range.as_deref()))
        .collect()
}

const DATE: &str = "Thu, 11 Mar 2021 10:00:00 GMT";

/// After one restart for this reason the rest is requested with `Last-Modified`.
#[test]
fn if_the_tag_is_never_honoured_the_date_is_used() {
    let tar = class();
    let tag = format!("\"{WNID}-v1-{}\"", tar.len());
    let by_date = |answer: Answer| answer.honouring_dates_only();
    let script = [
        by_date(Answer::cut_at(50_000)),
        by_date(Answer::cut_at(60_000)),
        by_date(Answer::cut_at(20_000)),
    ];
    let origin = Origin::start();
    origin
        .class(WNID, tar.clone())
        .script(script)
        .forever(by_date(Answer::plain()));
    let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    let gets = origin.gets(WNID);
    let expected = [
        (0, None),
        (50_000, Some(tag.as_str())),
        (60_000, Some(DATE)),
        (80_000, Some(DATE)),
    ];
    assert_eq!(requested(&gets), expected, "{gets:#?}");
    let log = job.log();
    assert!(
        has_line(&log, &["the rest is asked for by Last-Modified"]),
        "{log}"
    );
}

/// Replicas with different tags: the same date and the same length mean the same version.
#[test]
fn replicas_that_differ_only_in_their_tags_count_as_one_version() {
    let tar = class();
    for careless in [false, true] {
        let replica = |answer: Answer, etag: &str| {
            let answer = answer.with_etag(etag);
            if careless {
                answer.ignoring_if_range()
            } else {
                answer
            }
        };
        let first = "\"first\"";
        let second = "\"second\"";
        let script = [
            replica(Answer::cut_at(50_000), first),
            replica(Answer::cut_at(60_000), second),
            replica(Answer::cut_at(70_000), first),
            replica(Answer::cut_at(20_000), second),
            replica(Answer::plain(), first),
        ];
        let gets = assert_arrives(
            &tar,
            script,
            &["--delete-tar", "--retries", "2", "--timeout", "5s"],
        );
        // A replica that ignores `If-Range` first sends a part of a possibly different version,
        // which is discarded.
        let last = gets.last().expect("there were requests");
        assert_eq!(
            (last.status, last.if_range.as_deref()),
            (206, Some(DATE)),
            "{:?}",
            requested(&gets)
        );
        let whole = gets
            .iter()
            .filter(|get| get.start() == 0 || get.status == 200)
            .count();
        assert_eq!(whole, 2, "it was started over once: {:?}", requested(&gets));
    }
}

/// Two versions are never mixed, with the date as validator as with the tag.
#[test]
fn a_tar_that_changes_is_never_mixed_with_the_date_as_validator() {
    let old = class();
    let mut new = old.clone();
    new[600] ^= 1;
    new[70_000] ^= 1;
    for careless in [
        Answer::plain().honouring_dates_only(),
        Answer::plain().ignoring_if_range(),
    ] {
        let origin = Origin::start();
        let script = [
            Answer::cut_at(50_000).honouring_dates_only(),
            Answer::cut_at(60_000)
                .honouring_dates_only()
                .then_replaced_by(new.clone()),
            careless,
        ];
        origin.class(WNID, old.clone()).script(script);
        let job = Job::new().classes([WNID]).origin(&origin).args(QUICK);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&new, &job.class_folder(WNID));
        assert_eq!(origin.gets(WNID)[2].if_range.as_deref(), Some(DATE));
    }
}

/// A date proves nothing if it is the second of the answer: the tar may have been written again
/// within that second (RFC 9110, 8.8.2.2).
#[test]
fn a_date_of_the_same_second_proves_nothing() {
    let weak = |answer: Answer| answer.honouring_dates_only().header("Date", DATE);
    let script = [
        weak(Answer::cut_at(50_000)),
        weak(Answer::cut_at(60_000)),
        weak(Answer::plain()),
    ];
    let gets = assert_arrives(
        &class(),
        script,
        &["--delete-tar", "--retries", "2", "--timeout", "5s"],
    );
    assert!(
        gets.iter().all(|get| get.if_range.as_deref() != Some(DATE)),
        "{:?}",
        requested(&gets)
    );
    assert_eq!(gets.len(), 3);
}

/// The journal records which validator works with the origin.
#[test]
fn the_next_process_uses_the_date_too() {
    // Large enough for complete images before and after the cut.
    let tar = images(WNID, 30, 30_000..40_000, 1);
    let by_date = |answer: Answer| answer.honouring_dates_only();
    let origin = Origin::start();
    let script = [
        by_date(Answer::cut_at(400_000)),
        by_date(Answer::stall_at(500_000)),
    ];
    origin
        .class(WNID, tar.clone())
        .script(script)
        .forever(by_date(Answer::plain()));
    origin.limit_rate(1_000_000);
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar", "--workers", "2"]);
    let mut running = job.start();
    running.wait_until("the download was started over", |_| {
        origin
            .gets(WNID)
            .get(1)
            .is_some_and(|get| get.sent > 450_000)
            .then_some(())
    });
    running.signal(Signal::INT);
    assert_eq!(running.wait().code, Some(130));
    job.assert_all_there(&job.run(), 1);
    assert_class_is(&tar, &job.class_folder(WNID));
    let gets = origin.gets(WNID);
    let last = &gets[2..];
    assert!(
        last.len() == 1 && last[0].start() > 100_000,
        "{:?}",
        requested(&gets)
    );
    assert_eq!(last[0].if_range.as_deref(), Some(DATE));
}

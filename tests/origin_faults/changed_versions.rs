//! Resuming a tar that is not the same any more: the result is one version, never a mix (O14, O15, O16).

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::{Origin, Request},
};

use super::{QUICK, WNID, assert_arrives, class};

#[track_caller]
fn assert_began_anew(gets: &[Request]) {
    assert!(gets[1].start() > 0, "the first attempt after the cut asks for the rest: {gets:#?}");
    let last = gets.last().expect("there were requests");
    assert!(last.start() == 0 || last.status == 200, "{gets:#?}");
}

#[test]
fn a_range_that_is_answered_with_everything_begins_anew() {
    let gets = assert_arrives(&class(), [Answer::cut_at(50_000), Answer::plain().ignoring_range()], &QUICK);
    assert_began_anew(&gets);
    assert_eq!(gets.len(), 2, "the whole tar came already");
}

#[test]
fn a_part_that_begins_elsewhere_is_thrown_away() {
    let gets = assert_arrives(&class(), [Answer::cut_at(50_000), Answer::plain().starting_late(512)], &QUICK);
    assert_began_anew(&gets);
}

#[test]
fn a_part_of_another_version_is_thrown_away() {
    let cut = || Answer::cut_at(50_000);
    assert_began_anew(&assert_arrives(&class(), [cut(), Answer::plain().with_etag("\"other\"")], &QUICK));
    assert_began_anew(&assert_arrives(&class(), [cut(), Answer::plain().with_total(999_999)], &QUICK));
}

#[test]
fn a_range_beyond_the_end_or_a_failed_condition_begins_anew() {
    for status in [416, 412] {
        let gets = assert_arrives(&class(), [Answer::cut_at(50_000), Answer::status(status)], &QUICK);
        assert_began_anew(&gets);
        assert_eq!(gets.len(), 3);
    }
}

#[test]
fn a_tar_that_changes_on_the_server_is_never_mixed() {
    let old = class();
    let newer = [images(WNID, 10, 8000..12_000, 2), images(WNID, 3, 8000..12_000, 3), {
        // As long as the old one, with other bytes.
        let mut same_length = old.clone();
        same_length[600] ^= 1;
        same_length[70_000] ^= 1;
        same_length
    }];
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

/// The strong `ETag` that was sent as `If-Range` has to come back (RFC 9110 §15.3.7); without it nothing tells what this is.
#[test]
fn a_part_without_the_tag_that_was_asked_for_is_thrown_away() {
    let old = class();
    let mut new = old.clone();
    new[600] ^= 1;
    new[70_000] ^= 1;
    for args in [&QUICK[..], &QUICK[1..]] {
        let origin = Origin::start();
        let cut = Answer::cut_at(50_000).then_replaced_by(new.clone());
        let careless = Answer::plain().ignoring_if_range().without_validators();
        origin.class(WNID, old.clone()).script([cut, careless]);
        let job = Job::new().classes([WNID]).origin(&origin).args(args.iter().copied());
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&new, &job.class_folder(WNID));
        assert_began_anew(&origin.gets(WNID));
        let kept = std::fs::read(job.target_path().join("n00000001.tar")).ok();
        assert!(kept.is_none_or(|kept| kept == new), "the tar is a mix");
    }
}

/// 200 means all of the tar, `Content-Range` means a part of it: who says both cannot be believed in either.
#[test]
fn a_whole_that_claims_to_be_a_part_begins_anew() {
    let tar = class();
    let (last, length) = (tar.len() - 1, tar.len());
    let whole_but = |range: String| Answer::plain().ignoring_range().header("Content-Range", &range);
    for answer in [
        Answer::plain().calling_a_part_whole(),
        whole_but(format!("bytes 50000-{last}/{length}")),
        whole_but("bytes 50000-59999/60000".to_owned()),
    ] {
        assert_began_anew(&assert_arrives(&tar, [Answer::cut_at(50_000), answer], &QUICK));
    }
}

#[test]
fn a_kept_tar_that_changed_is_the_new_one() {
    let old = class();
    let new = images(WNID, 4, 8000..12_000, 2);
    let origin = Origin::start();
    origin.class(WNID, old).script([Answer::cut_at(90_000).then_replaced_by(new.clone())]);
    let job = Job::new().classes([WNID]).origin(&origin).args(["--retries", "1"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&new, &job.class_folder(WNID));
    assert!(std::fs::read(job.target_path().join("n00000001.tar")).unwrap() == new, "the tar is not the new one");
}

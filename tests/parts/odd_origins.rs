//! Origins that do not send the requested parts, or send parts of another version.

use tests::{
    answer::Answer,
    archives::difference,
    cluster::Table,
    origin::{Origin, Request, Validators},
};

use super::{LARGE, assert_whole, large, skewed};

/// The main connection continues through a part that is not delivered.
#[test]
fn an_origin_without_ranges_sends_the_tar_on_one_connection() {
    let origin = Origin::start();
    let tar = large(1);
    let (job, class) = skewed(&origin, &tar, 0);
    class.forever(Answer::plain().ignoring_range());
    assert_whole(&job, &tar);
    let gets = origin.gets(LARGE);
    // The tar, a part for each of the five free slots, and one that is requested with
    // `Last-Modified`.
    assert!(
        (2..=7).contains(&gets.len()),
        "expected each part to be requested at most once: {gets:#?}"
    );
    assert_eq!(gets[0].sent, tar.len() as u64, "{gets:#?}");
}

#[test]
fn without_validators_a_tar_is_downloaded_on_one_connection() {
    let origin = Origin::start();
    let tar = large(1);
    let (job, class) = skewed(&origin, &tar, 0);
    class.validators(Validators::None);
    assert_whole(&job, &tar);
    assert_eq!(origin.gets(LARGE).len(), 1);
}

/// Parts that break, are rejected once or begin at another offset are fetched again, or by the main
/// connection.
#[test]
fn failed_parts_leave_the_class_complete() {
    let origin = Origin::start();
    let tar = large(1);
    let (job, class) = skewed(&origin, &tar, 0);
    let bad = [
        Answer::cut_at(1_000_000),
        Answer::status(503),
        Answer::reset_at(300_000),
        Answer::status(404),
    ];
    class.script([Answer::plain()].into_iter().chain(bad));
    assert_whole(&job, &tar);

    let origin = Origin::start();
    let (job, class) = skewed(&origin, &tar, 0);
    class.script([
        Answer::plain(),
        Answer::plain(),
        Answer::plain().starting_late(512),
    ]);
    assert_whole(&job, &tar);
}

/// Replaces the tar after `answers` answers; panics unless the class is one of the two versions.
#[track_caller]
fn assert_one_version(answers: usize, later: &Answer) {
    let origin = Origin::start();
    let old = large(1);
    let new = large(2);
    let (job, class) = skewed(&origin, &old, 0);
    let before = vec![Answer::plain(); answers - 1];
    class
        .script(
            before
                .into_iter()
                .chain([Answer::plain().then_replaced_by(new.clone())]),
        )
        .forever(later.clone());
    job.assert_ended(&job.run(), 0, Table::of(5, 0, 0));
    let folder = job.class_folder(LARGE);
    let is = |tar: &[u8]| difference(tar, &folder).is_none();
    assert!(
        is(&old) || is(&new),
        "the class is neither of the two versions: {:#?}",
        origin.gets(LARGE)
    );
    let kept =
        std::fs::read(job.target_path().join(format!("{LARGE}.tar"))).expect("the tar is kept");
    assert!(kept == if is(&old) { old } else { new }, "the tar is a mix");
}

#[test]
fn a_tar_that_changes_in_the_middle_is_one_version() {
    for answers in [1, 3, 5] {
        assert_one_version(answers, &Answer::plain());
    }
}

#[test]
fn an_origin_that_ignores_if_range_is_detected() {
    for answers in [1, 3] {
        assert_one_version(answers, &Answer::plain().ignoring_if_range());
    }
}

/// Parts are then requested with `Last-Modified`, and the main connection continues undisturbed.
#[test]
fn an_origin_that_honours_only_dates_sends_parts_by_the_date() {
    let origin = Origin::start();
    let tar = large(1);
    let (job, class) = skewed(&origin, &tar, 0);
    class.forever(Answer::plain().honouring_dates_only());
    assert_whole(&job, &tar);
    let gets = origin.gets(LARGE);
    let by_date = |get: &&Request| {
        get.status == 206
            && get
                .if_range
                .as_deref()
                .is_some_and(|value| value.contains("GMT"))
    };
    assert!(gets.iter().filter(by_date).count() >= 2, "{gets:#?}");
    assert!(
        gets[0].sent < tar.len() as u64,
        "the main connection must not carry the whole tar: {gets:#?}"
    );
}

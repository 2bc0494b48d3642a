//! A correct origin with a rate limit per connection.

use tests::{
    archives::images,
    origin::{Origin, Request},
};

use super::{LARGE, assert_whole, extra, large, skewed};

#[track_caller]
fn assert_shared(place: usize, args: &[&str]) {
    let origin = Origin::start();
    let tar = large(1);
    let (job, _) = skewed(&origin, &tar, place);
    let job = job.args(args.iter().copied());
    assert_whole(&job, &tar);
    let gets = origin.gets(LARGE);
    assert!(gets.len() >= 4, "expected several connections: {gets:#?}");
    assert!(
        gets[1..]
            .iter()
            .all(|get| get.range.is_some() && get.if_range.is_some() && get.status == 206),
        "{gets:#?}"
    );
    // The origin notices only later that a client has closed its connection.
    let broken_off = gets
        .iter()
        .filter(|get| get.sent < requested_bytes(get, &tar))
        .count() as u64;
    assert!(
        broken_off <= 3,
        "{broken_off} requests were aborted: {gets:#?}"
    );
    assert!(
        origin.most_transfers() <= 6 + broken_off,
        "more connections than slots: {}",
        origin.most_transfers()
    );
    assert!(
        extra(&gets, &tar) <= tar.len() as u64 * 3 / 100,
        "{} superfluous bytes: {gets:#?}",
        extra(&gets, &tar)
    );
    let kept = job.target_path().join(format!("{LARGE}.tar"));
    assert!(
        args.contains(&"--delete-tar") || std::fs::read(kept).ok().as_ref() == Some(&tar),
        "the kept tar differs"
    );
}

/// Number of bytes that a request asks for.
fn requested_bytes(get: &Request, tar: &[u8]) -> u64 {
    let last = get
        .range
        .as_deref()
        .and_then(|range| range.rsplit_once('-')?.1.parse::<u64>().ok());
    last.map_or(tar.len() as u64, |last| last + 1) - get.start()
}

#[test]
fn free_slots_fetch_parts_of_the_large_class() {
    assert_shared(0, &["--delete-tar"]);
    assert_shared(4, &["--delete-tar"]);
}

#[test]
fn a_kept_tar_is_downloaded_in_parts_too() {
    assert_shared(2, &[]);
}

/// A request for less would cost more time than it saves.
#[test]
fn a_tar_of_less_than_two_parts_is_not_split() {
    let origin = Origin::start();
    let tar = images(LARGE, 80, 90_000..110_000, 1);
    let (job, _) = skewed(&origin, &tar, 0);
    assert_whole(&job, &tar);
    assert_eq!(origin.gets(LARGE).len(), 1);
}

/// At a fixed total rate more connections save nothing, and data in their buffers at their end is
/// wasted.
#[test]
fn with_max_rate_no_tar_is_split() {
    let origin = Origin::start();
    let tar = images(LARGE, 150, 90_000..110_000, 1);
    let (job, _) = skewed(&origin, &tar, 0);
    assert_whole(&job.args(["--max-rate", "5MB"]), &tar);
    assert_eq!(origin.gets(LARGE).len(), 1);
}

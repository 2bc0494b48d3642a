//! Short archives that claim terabytes, and headers that would fill all memory (S5, S7, S8, S9).

use std::time::Duration;

use tests::{
    cluster::{Job, Table},
    content::{Segment, Segments},
    origin::Origin,
    raw_tar::Entry,
};

use super::{HostileJob, after_a_good_file, assert_rejected};

const MIB: u64 = 1 << 20;

/// An extension header of this kind with a length of 400 MiB.
fn huge_extension(kind: u8) -> Segments {
    let length = 400 * MIB;
    let header = Entry::of_kind(kind, "x").stating_size(length).gnu();
    Segments::new(vec![
        Segment::Bytes(header.header().to_vec()),
        Segment::Fill { byte: b'a', length },
    ])
    .with_end_marker()
}

fn empty_files(count: u64) -> Segments {
    Segments::new(vec![Segment::EmptyFiles { count }]).with_end_marker()
}

#[test]
fn sparse_files_reject_the_archive() {
    let sparse = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "1099511627776"),
    ];
    let older = [
        ("GNU.sparse.size", "1099511627776"),
        ("GNU.sparse.numblocks", "1"),
        ("GNU.sparse.map", "0,1"),
    ];
    assert_rejected([
        after_a_good_file([Entry::sparse("bomb.JPEG", 1 << 40)]),
        after_a_good_file([Entry::sparse("bomb.JPEG", 1 << 20)]),
        after_a_good_file([Entry::pax(&sparse), Entry::file("bomb.JPEG", b"1\n0\n1\nx")]),
        after_a_good_file([Entry::pax(&older), Entry::file("bomb.JPEG", b"x")]),
    ]);
}

#[test]
fn an_extension_header_is_rejected_by_its_size_without_being_read() {
    let comment = "c".repeat(70_000);
    assert_rejected([after_a_good_file([
        Entry::pax(&[("comment", &comment)]),
        Entry::file("a.JPEG", b"a"),
    ])]);
    for kind in [b'x', b'g', b'L', b'K'] {
        let mut hostile = HostileJob::new();
        hostile.add(huge_extension(kind));
        let failures = hostile.assert_all_rejected(&["TarError"]);
        assert!(!failures[0].contains("aaaa"), "{failures:?}");
    }
}

#[test]
fn a_comment_of_sixty_kib_is_within_the_limit() {
    let origin = Origin::start();
    let comment = "c".repeat(60_000);
    origin.class(
        "n00000001",
        after_a_good_file([
            Entry::pax(&[("comment", &comment)]),
            Entry::file("a.JPEG", b"a"),
        ]),
    );
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
}

/// Runs one class per archive, all at once; returns the peak memory.
fn rejected_at_once(archives: Vec<Segments>) -> Option<u64> {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=archives.len())
        .map(|number| format!("n{number:08}"))
        .collect();
    let count = archives.len() as u64;
    let workers = archives.len().to_string();
    for (wnid, archive) in wnids.iter().zip(archives) {
        origin.class(wnid, archive);
    }
    let args = [
        "--delete-tar",
        "--retries",
        "0",
        "--durability",
        "process",
        "--workers",
        &workers,
    ];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    let job = job.deadline(Duration::from_mins(10));
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(0, 0, count));
    for wnid in &wnids {
        assert!(
            job.failure_of(wnid).starts_with("TarError: "),
            "{:?}",
            job.failures()
        );
        assert!(
            origin.gets(wnid)[0].sent < 200 * MIB,
            "{wnid} was downloaded to its end"
        );
    }
    finished.peak_memory
}

#[test]
fn sixteen_bombs_at_once_stay_within_memory() {
    let peak = rejected_at_once(
        (0..16)
            .map(|number| huge_extension(b"xL"[number % 2]))
            .collect(),
    );
    assert!(peak.is_none_or(|bytes| bytes < 150 * MIB), "{peak:?}");
    // One bomb of another kind: it creates 200,000 files before its limit, and they are removed
    // again.
    let mixed = (0..16).map(|number| {
        if number == 0 {
            empty_files(300_000)
        } else {
            huge_extension(b'x')
        }
    });
    let peak = rejected_at_once(mixed.collect());
    assert!(peak.is_none_or(|bytes| bytes < 150 * MIB), "{peak:?}");
}

//! Truncated, damaged or ambiguous archives: an archive that two readers could interpret
//! differently is rejected (S6).

use tests::{
    archives::{BLOCK, assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
    raw_tar::{Entry, tar_of, without_end_marker},
};

use super::{HostileJob, after_a_good_file, assert_rejected};

fn three_files() -> Vec<Entry> {
    (1..=3)
        .map(|number| Entry::file(format!("{number}.JPEG"), &[number; 1000]))
        .collect()
}

#[test]
fn a_tar_that_ends_before_its_end_marker_is_rejected() {
    let whole = tar_of(three_files());
    let entries = without_end_marker(three_files());
    let cuts = [
        300,
        BLOCK,
        BLOCK + 300,
        3 * BLOCK,
        3 * BLOCK + 1,
        4 * BLOCK,
        entries.len() - 1,
    ];
    assert_rejected(cuts.map(|length| whole[..length].to_vec()));
    // A single byte could be the start of any file.
    let mut hostile = HostileJob::new();
    hostile.add(whole[..1].to_vec());
    hostile.assert_all_rejected(&["TarError", "NotATar"]);
    // Cut exactly between entries, and with half an end marker: both Rust tar crates accept these
    // as complete.
    assert_rejected([entries.clone(), [entries, vec![0; BLOCK]].concat()]);
}

#[test]
fn an_archive_without_a_file_is_rejected() {
    assert_rejected([
        vec![0; 2 * BLOCK],
        vec![0; 10_240],
        tar_of([Entry::folder("./")]),
        tar_of([Entry::folder("n00000004/")]),
    ]);
}

#[test]
fn data_behind_the_end_marker_is_rejected() {
    let whole = tar_of(three_files());
    let with = |tail: &[u8]| [whole.as_slice(), tail].concat();
    let hidden = tar_of([Entry::file("hidden.JPEG", b"evil")]);
    let mut late_byte = with(&[0; 10_240]);
    *late_byte.last_mut().expect("not empty") = 1;
    assert_rejected([with(b"x"), with(&hidden), late_byte]);
}

#[test]
fn damaged_headers_are_rejected() {
    let last = || Entry::file("last.JPEG", b"x");
    let mut bit_flip = after_a_good_file([last()]);
    bit_flip[8 * BLOCK - 500] ^= 1; // in the name of the last file: the checksum no longer fits
    assert_rejected([
        bit_flip,
        after_a_good_file([last().with_wrong_checksum()]),
        after_a_good_file([last().with_size_field([0xFF; 12])]),
        after_a_good_file([
            last().with_size_field(*b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        ]),
        after_a_good_file([last().with_size_field(*b"-0000000001\0")]),
        after_a_good_file([last().with_size_field(*b"000000000x1\0")]),
        after_a_good_file([last().with_size_field(*b"99999999999\0")]),
        after_a_good_file([last().stating_size(1 << 20)]),
        after_a_good_file([last().stating_size(8 << 30)]),
        after_a_good_file([last().stating_size(1 << 62)]),
        after_a_good_file([last().stating_size(u64::MAX)]),
        without_end_marker([last(), Entry::file("", b"")]),
    ]);
}

#[test]
fn a_lone_zero_block_between_entries_is_rejected() {
    let mut tar = without_end_marker(three_files());
    tar.resize(tar.len() + BLOCK, 0);
    tar.extend(tar_of([Entry::file("behind.JPEG", b"evil")]));
    assert_rejected([tar]);
}

/// A header in another file's contents, and a file that only a reader with the wrong size would
/// find.
fn smuggled() -> Vec<u8> {
    without_end_marker([Entry::file("smuggled.JPEG", b"evil")])
}

/// RUSTSEC-2025-0111 ("tarmageddon") and its successors: the meaning of a PAX size must not depend
/// on the reader.
fn pax_size_samples() -> Vec<Vec<u8>> {
    let inner = smuggled();
    let length = inner.len().to_string();
    let outer = |size: u64| Entry::file("outer.JPEG", &inner).stating_size(size);
    vec![
        // The header's size is 0, the PAX size is the full length.
        after_a_good_file([Entry::pax(&[("size", &length)]), outer(0)]),
        // The header's size is the full length, the PAX size is 0.
        after_a_good_file([Entry::pax(&[("size", "0")]), outer(inner.len() as u64)]),
        after_a_good_file([Entry::pax(&[("size", "512")]), outer(inner.len() as u64)]),
        // The size twice in one PAX header, and in two PAX headers.
        after_a_good_file([Entry::pax(&[("size", "0"), ("size", &length)]), outer(0)]),
        after_a_good_file([
            Entry::pax(&[("size", &length)]),
            Entry::pax(&[("size", "0")]),
            outer(0),
        ]),
        // A PAX header between a long name and its file.
        after_a_good_file([
            Entry::long_name("outer.JPEG"),
            Entry::pax(&[("size", &length)]),
            outer(0),
        ]),
    ]
}

#[test]
fn a_size_that_is_given_twice_means_the_same_to_every_reader() {
    let origin = Origin::start();
    let samples = pax_size_samples();
    let wnids: Vec<String> = (1..=samples.len())
        .map(|number| format!("n{number:08}"))
        .collect();
    for (wnid, tar) in wnids.iter().zip(&samples) {
        origin.class(wnid, tar.clone());
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    let finished = job.run();
    let table = Table::read(&finished.stdout);
    job.assert_ended(
        &finished,
        i32::from(table.failed > 0),
        Table::of(table.success, 0, table.failed),
    );
    for (wnid, tar) in wnids.iter().zip(&samples) {
        if job.class_folder(wnid).exists() {
            assert_class_is(tar, &job.class_folder(wnid));
        } else {
            assert!(
                job.failure_of(wnid).starts_with("TarError: "),
                "{:?}",
                job.failures()
            );
        }
    }
}

#[test]
fn malformed_pax_headers_are_rejected() {
    let raw = |body: &[u8]| {
        let header = Entry::of_kind(b'x', "PaxHeaders.0/x").with_body(body);
        after_a_good_file([header, Entry::file("a.JPEG", b"a")])
    };
    assert_rejected([
        raw(b"nonsense"),
        raw(b"99 path=a.JPEG\n"),
        raw(b"5 path=a.JPEG\n"),
        raw(b"0 path=a.JPEG\n"),
        raw(b"11 size=-1x\n"),
        raw(b"14 size=0x200\n"),
        raw(b"30 size=99999999999999999999\n"),
        raw(b"11 path\0=abc\n"),
        after_a_good_file([
            Entry::pax(&[("size", "184467440737095516150")]),
            Entry::file("a.JPEG", b"a"),
        ]),
        // An extension header without a following entry.
        after_a_good_file([Entry::pax(&[("path", "a.JPEG")])]),
        after_a_good_file([Entry::long_name("a.JPEG")]),
    ]);
}

#[test]
fn a_broken_archive_in_the_target_is_rejected_too() {
    let origin = Origin::start();
    let tar = images("n00000001", 5, 1000..9000, 1);
    origin.class("n00000001", tar.clone());
    let job = Job::new().classes(["n00000001"]).origin(&origin);
    let hostile = after_a_good_file([Entry::symlink("link", "/etc")]);
    std::fs::write(job.target_path().join("n00000001.tar"), hostile).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder("n00000001"));
}

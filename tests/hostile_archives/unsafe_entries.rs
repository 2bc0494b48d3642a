//! Path traversal, links, devices, and entries that no class needs (S1 to S4, S23).

use tests::raw_tar::{Entry, tar_of};

use super::{HostileJob, after_a_good_file, assert_rejected};

#[test]
fn a_name_that_leads_out_of_the_folder_rejects_the_archive() {
    let mut hostile = HostileJob::new();
    let absolute = format!("{}/escaped", hostile.outside().display());
    let long = "x".repeat(256);
    let names: [&[u8]; 22] = [
        b"../escaped",
        b"../../escaped",
        b"../../../escaped",
        absolute.as_bytes(),
        b"a/../../escaped",
        b"./../escaped",
        b"n00000001/../../escaped",
        b"..",
        b".",
        b"",
        b"/",
        b"./",
        b"C:\\escaped",
        b"..\\escaped",
        b"sub/escaped",
        b"sub/deep/escaped",
        b"n00000000/escaped",
        b"tab\tin.JPEG",
        b"\x1b]0;owned\x07.JPEG",
        b"not-utf8-\xff\xfe.JPEG",
        b".manifest.json",
        b"./.manifest.json",
    ];
    for name in names {
        hostile.add(after_a_good_file([Entry::file(name, b"evil")]));
    }
    hostile.add(after_a_good_file([
        Entry::file("escaped", b"evil").prefix("..")
    ]));
    hostile.add(after_a_good_file([
        Entry::long_name(&long),
        Entry::file("short", b"evil"),
    ]));
    hostile.add(after_a_good_file([
        Entry::long_name("../escaped"),
        Entry::file("harmless.JPEG", b"evil"),
    ]));
    for path in [
        "../escaped",
        absolute.as_str(),
        "nul\0inside",
        "line\nbreak",
        "",
    ] {
        hostile.add(after_a_good_file([
            Entry::pax(&[("path", path)]),
            Entry::file("harmless.JPEG", b"evil"),
        ]));
    }
    let failures = hostile.assert_all_rejected(&["TarError"]);
    let steers = |character: char| character.is_control();
    assert!(!failures.concat().contains(steers), "{failures:?}");
}

#[test]
fn links_reject_the_archive_whatever_follows() {
    let mut hostile = HostileJob::new();
    let outside = hostile.outside().to_path_buf();
    std::fs::write(outside.join("canary"), "untouched").expect("the folder is the job's");
    let canary = outside.join("canary").display().to_string();
    let outside = outside.display().to_string();
    let link = |target: &str| Entry::symlink("link", target);
    for tar in [
        after_a_good_file([link(&outside)]),
        after_a_good_file([link(&canary), Entry::file("link", b"evil")]),
        after_a_good_file([link(&outside), Entry::file("link/escaped", b"evil")]),
        // CVE-2026-33056: a folder entry with the name of a link changes the mode of the link's
        // target.
        after_a_good_file([link(&outside), Entry::folder("link").mode(0o777)]),
        after_a_good_file([link("first.JPEG")]),
        after_a_good_file([Entry::hard_link("link", &canary)]),
        after_a_good_file([
            Entry::hard_link("link", &canary),
            Entry::file("link", b"evil"),
        ]),
        after_a_good_file([Entry::hard_link("link", "first.JPEG")]),
        after_a_good_file([Entry::hard_link("link", "/etc/passwd")]),
        tar_of([
            Entry::of_kind(b'K', "././@LongLink")
                .with_body(b"/etc/passwd\0")
                .gnu(),
            link("short"),
        ]),
    ] {
        hostile.add(tar);
    }
    hostile.assert_all_rejected(&["TarError"]);
}

#[test]
fn devices_fifos_and_other_special_files_reject_the_archive() {
    let of_kind = |kind: u8| after_a_good_file([Entry::of_kind(kind, "thing")]);
    assert_rejected(b"346MVDNAXZ9?".iter().map(|kind| of_kind(*kind)));
    // A global header changes the meaning of all entries that follow.
    assert_rejected([
        after_a_good_file([
            Entry::global_pax(&[("comment", "hello")]),
            Entry::file("a.JPEG", b"a"),
        ]),
        after_a_good_file([
            Entry::global_pax(&[("path", "../escaped")]),
            Entry::file("a.JPEG", b"a"),
        ]),
    ]);
}

#[test]
fn two_files_of_one_name_reject_the_archive() {
    assert_rejected([
        after_a_good_file([Entry::file("first.JPEG", b"other")]),
        after_a_good_file([Entry::file("./first.JPEG", b"other")]),
        after_a_good_file([
            Entry::pax(&[("path", "first.JPEG")]),
            Entry::file("second.JPEG", b"other"),
        ]),
    ]);
}

#[test]
fn folders_inside_the_class_reject_the_archive() {
    assert_rejected([
        after_a_good_file([Entry::folder("sub/")]),
        after_a_good_file([Entry::folder("../escaped/")]),
        after_a_good_file([Entry::folder("n00000000/")]),
        after_a_good_file([Entry::folder("/tmp/")]),
    ]);
}

//! Unusual but valid archives are accepted; modes, owners and attributes in headers are ignored
//! (S10).

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tests::{
    archives::{BLOCK, assert_class_is, files},
    cluster::{Job, Table},
    origin::Origin,
    raw_tar::{Entry, tar_of},
};

const WNID: &str = "n00000001";

fn accepted(tar: &[u8]) -> Job {
    accepted_as(tar, tar)
}

/// Panics unless the tar is accepted with the same files as a simpler tar.
fn accepted_as(tar: &[u8], plainer: &[u8]) -> Job {
    let origin = Origin::start();
    origin.class(WNID, tar.to_vec());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(plainer, &job.class_folder(WNID));
    job
}

#[test]
fn modes_owners_and_attributes_of_the_archive_are_ignored() {
    let attribute = [
        ("SCHILY.xattr.user.evil", "1"),
        ("mtime", "0.5"),
        ("uname", "root"),
    ];
    let tar = tar_of([
        Entry::file("setuid.JPEG", b"1").mode(0o6755).owner(0),
        Entry::file("open.JPEG", b"2").mode(0o777),
        Entry::file("closed.JPEG", b"3").mode(0),
        Entry::pax(&attribute),
        Entry::file("attribute.JPEG", b"4").owner(12_345),
    ]);
    let job = accepted(&tar);
    let plain = job.folder().join("plain");
    std::fs::write(&plain, "").unwrap();
    let plain = plain.metadata().unwrap();
    for name in files(&tar).keys() {
        let path = job.class_folder(WNID).join(name);
        let found = path.metadata().unwrap();
        let mode = found.permissions().mode() & 0o7777;
        assert_eq!(
            mode,
            plain.permissions().mode() & 0o7777 & 0o644,
            "{name}: {mode:o}"
        );
        assert_eq!(
            (found.uid(), found.gid()),
            (plain.uid(), plain.gid()),
            "{name}"
        );
        let mut names = [0; 256];
        assert_eq!(
            rustix::fs::listxattr(&path, &mut names[..]).unwrap_or(0),
            0,
            "{name}"
        );
    }
    let folder = job
        .class_folder(WNID)
        .metadata()
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(folder & !0o755, 0, "{folder:o}");
}

#[test]
fn the_common_forms_of_names_are_accepted() {
    let long = format!("{}.JPEG", "a".repeat(150));
    let longer = format!("{}.JPEG", "b".repeat(250));
    accepted(&tar_of([
        Entry::folder("./"),
        Entry::file("./dotted.JPEG", b"1"),
        Entry::folder("n00000001/"),
        Entry::file("n00000001/in_its_folder.JPEG", b"2"),
        Entry::file("prefixed.JPEG", b"3").prefix("n00000001"),
        Entry::file("gnu.JPEG", b"4").gnu(),
        Entry::of_kind(0, "old_style.JPEG").with_body(b"5"),
        Entry::long_name(&long),
        Entry::file(&long[..100], b"6").gnu(),
        Entry::pax(&[("path", &longer)]),
        Entry::file(&longer[..100], b"7"),
        Entry::file("with space.JPEG", b"8"),
        Entry::file("猫.JPEG", b"9"),
        Entry::file("empty.JPEG", b""),
        Entry::file("exactly_a_block.JPEG", &[1; BLOCK]),
        Entry::file("n00000001", b"named as its class"),
    ]));
}

#[test]
fn an_end_marker_without_a_whole_record_is_enough() {
    let mut tar = tar_of([Entry::file("a.JPEG", &[1; 1000])]);
    tar.truncate(BLOCK + 2 * BLOCK + 2 * BLOCK);
    accepted(&tar);
}

#[test]
fn a_size_in_base_256_is_accepted() {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[11] = 100;
    accepted(&tar_of([
        Entry::file("a.JPEG", &[1; 100]).with_size_field(field)
    ]));
}

#[test]
fn an_empty_file_whose_size_has_no_digit_is_empty() {
    for field in [[0; 12], *b"           \0"] {
        let written = |empty: Entry| {
            tar_of([
                Entry::file("a.JPEG", b"1"),
                empty,
                Entry::folder("./"),
                Entry::file("b.JPEG", &[2; 600]),
            ])
        };
        let empty = || Entry::file("empty.JPEG", b"");
        accepted_as(&written(empty().with_size_field(field)), &written(empty()));
    }
}

#[test]
fn the_folder_of_a_class_may_be_an_empty_file_with_a_trailing_slash() {
    let image = || Entry::file("n00000001/a.JPEG", b"1");
    let plainer = tar_of([image()]);
    for kind in [0, b'0', b'5'] {
        for name in ["./", "n00000001/", "./n00000001/"] {
            accepted_as(&tar_of([Entry::of_kind(kind, name), image()]), &plainer);
        }
        let without_size = Entry::of_kind(kind, "n00000001/").with_size_field([0; 12]);
        accepted_as(&tar_of([without_size, image()]), &plainer);
    }
}

//! A `<wnid>.tar` in the target: a complete one is used, the download resumes after the end of an
//! incomplete one, and only tars that this program wrote are ever removed.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images, pad_to_record, unpack_by_hand},
    cluster::{Job, Table},
    folders::tars,
    origin::Origin,
    raw_tar::{Entry, tar_of},
};

const WNID: &str = "n00000001";
/// Length of the incomplete tar, in bytes: within the fourth of six images of about 94 KB together.
const INCOMPLETE_LENGTH: usize = 60_000;

/// An origin with one class, its tar, and a job.
fn fixture(args: &[&str]) -> (Origin, Vec<u8>, Job) {
    let origin = Origin::start();
    let tar = images(WNID, 6, 11_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(args.iter().copied());
    (origin, tar, job)
}

/// Path of the tar in the target.
fn path(job: &Job) -> PathBuf {
    job.target_path().join("n00000001.tar")
}

/// Writes a tar of the user.
fn write_tar(job: &Job, bytes: &[u8]) {
    fs::write(path(job), bytes).expect("the folder is writable");
}

fn set_modified(job: &Job, at: SystemTime) {
    let opened = fs::File::options().write(true).open(path(job));
    opened
        .and_then(|file| file.set_modified(at))
        .expect("the folder is writable");
}

/// Offsets of the requests for the class, and the total of the bytes sent.
fn requested(origin: &Origin) -> (Vec<u64>, u64) {
    let gets = origin.gets(WNID);
    (
        gets.iter()
            .map(tests::request_log::Request::start)
            .collect(),
        gets.iter().map(|get| get.sent).sum(),
    )
}

#[test]
fn a_complete_tar_is_unpacked_and_not_moved() {
    for args in [&["--delete-tar"][..], &[]] {
        let (origin, tar, job) = fixture(args);
        write_tar(&job, &tar);
        for table in [Table::of(1, 0, 0), Table::of(0, 1, 0)] {
            job.assert_ended(&job.run(), 0, table);
            assert_class_is(&tar, &job.class_folder(WNID));
            assert_eq!(fs::read(path(&job)).unwrap(), tar, "{args:?}");
        }
        // The tar is verified once, by its length.
        let methods: Vec<String> = origin
            .requests(WNID)
            .into_iter()
            .map(|request| request.method)
            .collect();
        assert_eq!(methods, ["HEAD"]);
        // A run that keeps tars does not record it as a tar of this program either.
        let job = job.args(["--delete-tar"]);
        job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
        assert_eq!(fs::read(path(&job)).unwrap(), tar);
    }
}

#[test]
fn delete_tar_removes_a_tar_that_an_earlier_run_kept() {
    let (_origin, tar, job) = fixture(&[]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_eq!(fs::read(path(&job)).unwrap(), tar);
    // It also removes the kept tar after the class was repaired from it.
    fs::remove_file(job.class_folder(WNID).join("n00000001_3.JPEG")).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let job = job.args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    assert_eq!(tars(job.target_path()).len(), 0);
}

#[test]
fn a_tar_that_the_user_wrote_over_a_kept_tar_stays() {
    let (_origin, tar, job) = fixture(&[]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    write_tar(&job, &tar);
    let job = job.args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    assert_eq!(fs::read(path(&job)).unwrap(), tar);
}

#[test]
fn a_tar_beside_an_adopted_or_trusted_folder_stays() {
    for existing in ["adopt", "trust"] {
        let (_origin, tar, job) = fixture(&["--delete-tar", "--existing", existing]);
        unpack_by_hand(&tar, &job.class_folder(WNID));
        write_tar(&job, &tar);
        job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(fs::read(path(&job)).unwrap(), tar);
    }
}

#[test]
fn an_incomplete_tar_is_resumed_if_it_matches_the_origin() {
    for keeps in [false, true] {
        let (origin, tar, job) = fixture(if keeps { &[] } else { &["--delete-tar"] });
        write_tar(&job, &tar[..INCOMPLETE_LENGTH]);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        let (first, sent) = requested(&origin);
        assert_eq!(first.last(), Some(&(INCOMPLETE_LENGTH as u64)), "{first:?}");
        let rest = tar.len() - INCOMPLETE_LENGTH;
        let samples = 2 * (INCOMPLETE_LENGTH / 16) + 1;
        assert!(sent <= (rest + samples) as u64, "{sent} bytes for {rest}");
        let expected = if keeps {
            &tar[..]
        } else {
            &tar[..INCOMPLETE_LENGTH]
        };
        assert_eq!(fs::read(path(&job)).unwrap(), expected);
        assert_eq!(tars(job.target_path()).len(), 1);
    }
}

#[test]
fn an_unverified_tar_is_downloaded_from_its_start_and_the_file_stays() {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
    let other = images(WNID, 6, 11_000..20_000, 2);
    let whole = images(WNID, 6, 11_000..20_000, 1);
    let mut damaged_end = whole[..INCOMPLETE_LENGTH].to_vec();
    damaged_end[INCOMPLETE_LENGTH - 100] ^= 1;
    let without_dates = Answer::plain().without_validators();
    for (what, bytes, at, answer) in [
        (
            "older than the origin's",
            &whole[..INCOMPLETE_LENGTH],
            Some(long_ago),
            None,
        ),
        (
            "of another version",
            &other[..INCOMPLETE_LENGTH],
            None,
            None,
        ),
        ("with a damaged end", &damaged_end, None, None),
        (
            "without validators",
            &whole[..INCOMPLETE_LENGTH],
            None,
            Some(without_dates),
        ),
        (
            "without ranges",
            &whole[..INCOMPLETE_LENGTH],
            None,
            Some(Answer::plain().ignoring_range()),
        ),
        ("no tar", &b"<html>".repeat(4000), None, None),
    ] {
        for keeps in [false, true] {
            let (origin, tar, job) = fixture(if keeps { &[] } else { &["--delete-tar"] });
            if let Some(answer) = answer.clone() {
                origin.class(WNID, tar.clone()).forever(answer);
            }
            write_tar(&job, bytes);
            if let Some(at) = at {
                set_modified(&job, at);
            }
            job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
            assert_class_is(&tar, &job.class_folder(WNID));
            let kept_tar = path(&job);
            let user_tar = job.target_path().join("n00000001.tar.1");
            let user_tar = if keeps { user_tar } else { kept_tar.clone() };
            assert_eq!(fs::read(user_tar).unwrap(), bytes, "{what}");
            assert!(!keeps || fs::read(kept_tar).unwrap() == tar, "{what}");
        }
    }
}

/// aria2 and axel create a file with its full length; the missing bytes are zeros. Their control
/// file shows that the download is incomplete.
#[test]
fn a_file_with_a_control_file_of_another_downloader_is_not_used() {
    for control in ["aria2", "st"] {
        let (origin, tar, job) = fixture(&["--delete-tar"]);
        let mut preallocated = tar.clone();
        preallocated[40_000..].fill(0);
        write_tar(&job, &preallocated);
        fs::write(
            job.target_path().join(format!("n00000001.tar.{control}")),
            "",
        )
        .unwrap();
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(fs::read(path(&job)).unwrap(), preallocated);
        assert_eq!(origin.gets(WNID).len(), 1);
    }
}

#[test]
fn an_empty_tar_is_replaced_and_a_tar_of_a_few_blocks_is_not_resumed() {
    for length in [0, 5000] {
        let (origin, tar, job) = fixture(&[]);
        write_tar(&job, &tar[..length]);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(origin.gets(WNID).len(), 1);
        assert_eq!(fs::read(path(&job)).unwrap(), tar);
        assert_eq!(
            job.target_path().join("n00000001.tar.1").exists(),
            length > 0
        );
    }
}

/// Offset of the header of an image, which is the end of the preceding image.
fn header_of(tar: &[u8], number: u32) -> usize {
    let name = format!("{WNID}_{number}.JPEG");
    let begins = |block: &[u8]| {
        block
            .windows(name.len())
            .take(100)
            .any(|bytes| bytes == name.as_bytes())
    };
    tar.chunks(512)
        .position(begins)
        .expect("the tar has the image")
        * 512
}

/// A tar with its end marker before the header of image 4, and a tar of the full length whose rest
/// is zeros, as some tools leave an interrupted download.
fn with_missing_images(tar: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let mut short = tar[..header_of(tar, 4)].to_vec();
    let mut full = short.clone();
    short.extend([0; 1024]);
    pad_to_record(&mut short);
    full.resize(tar.len(), 0);
    [("shorter", short), ("as long", full)]
}

#[test]
fn a_valid_tar_with_missing_images_is_not_used_and_stays() {
    for args in [&["--delete-tar"][..], &[]] {
        for which in [0, 1] {
            let (origin, tar, job) = fixture(args);
            let (what, tar_without_images) = &with_missing_images(&tar)[which];
            write_tar(&job, tar_without_images);
            let ended = job.run();
            job.assert_ended(&ended, 0, Table::of(1, 0, 0));
            assert_class_is(&tar, &job.class_folder(WNID));
            let message =
                "n00000001: the tar in the target is not used, because its files make a tar of ";
            assert!(ended.stderr.contains(message), "{what}: {}", ended.stderr);
            let user_tar = if args.is_empty() {
                job.target_path().join("n00000001.tar.1")
            } else {
                path(&job)
            };
            assert_eq!(fs::read(user_tar).unwrap(), *tar_without_images, "{what}");
            assert_eq!(
                requested(&origin).1,
                tar.len() as u64 + 1,
                "{what}: one request of the first byte, and the tar"
            );
        }
    }
}

#[test]
fn trust_uses_a_tar_without_a_request() {
    let (origin, tar, job) = fixture(&["--delete-tar", "--existing", "trust"]);
    let [(_, tar_without_images), _] = with_missing_images(&tar);
    write_tar(&job, &tar_without_images);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar_without_images, &job.class_folder(WNID));
    assert!(origin.all_requests().is_empty());
}

/// Tars with the same files and another number of zeros after the end marker count as equal.
#[test]
fn tars_that_differ_only_in_padding_are_equal() {
    let (origin, tar, job) = fixture(&["--delete-tar"]);
    let entries = tar.len() - tar.iter().rev().take_while(|byte| **byte == 0).count();
    let shortest = tar[..entries.next_multiple_of(512) + 1024].to_vec();
    assert!(shortest.len() < tar.len());
    write_tar(&job, &shortest);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    assert!(origin.gets(WNID).is_empty());
}

/// A tar is verified as a folder without a manifest is: if the answer to `HEAD` does not
/// prove the length, a request of the first byte does.
#[test]
fn a_complete_tar_is_verified_as_a_folder_without_a_manifest_is() {
    for head in [
        Answer::status(405),
        Answer::plain().stating_length(20_480),
        Answer::plain().without_length(),
    ] {
        let (origin, tar, job) = fixture(&["--delete-tar"]);
        write_tar(&job, &tar);
        let case = format!("{head:?}");
        origin.script_of(WNID).expect("it is served").heads(head);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(requested(&origin), (vec![0], 1), "{case}");
    }
}

#[test]
fn a_complete_tar_is_not_used_without_a_length_from_the_origin() {
    let (origin, tar, job) = fixture(&["--delete-tar", "--retries", "0"]);
    write_tar(&job, &tar);
    origin.class(WNID, tar.clone()).forever(Answer::status(503));
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    let failure = job.failure_of(WNID);
    assert!(
        failure.starts_with("HTTPError: 503 Server Error"),
        "{failure}"
    );
    assert!(!job.class_folder(WNID).exists());

    origin
        .class(WNID, tar.clone())
        .forever(Answer::plain().chunked().ignoring_range());
    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(1, 0, 0));
    let message =
        "is not used, because the origin does not say how long its tar is; the class is downloaded";
    assert!(ended.stderr.contains(message), "{}", ended.stderr);
    assert_class_is(&tar, &job.class_folder(WNID));
    assert_eq!(fs::read(path(&job)).unwrap(), tar);
}

/// The outer archive of ILSVRC2012 contains the tars of its classes.
#[test]
fn an_archive_of_tars_is_rejected_as_a_class() {
    for existing in ["adopt", "trust"] {
        let (origin, tar, job) = fixture(&["--delete-tar", "--existing", existing]);
        let outer = tar_of([
            Entry::file("n00000001.tar", &tar),
            Entry::file("n00000002.tar", &tar),
        ]);
        write_tar(&job, &outer);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(fs::read(path(&job)).unwrap(), outer);
        assert_eq!(origin.gets(WNID).len(), 1);
        // The same holds for an archive of tars from the origin.
        fs::remove_file(path(&job)).unwrap();
        fs::remove_dir_all(job.class_folder(WNID)).unwrap();
        origin.class(WNID, outer);
        job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
        let failure = job.failure_of(WNID);
        let message = "TarError: \"n00000001.tar\" is the tar of a class, so this is an archive of \
                       several classes";
        assert_eq!(failure, message);
        assert!(!job.class_folder(WNID).exists());
    }
}

//! A `<wnid>.tar` that stands in the target: a whole one is used, the download goes on behind one
//! that is broken off, and only tars that this program wrote are ever removed.

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
/// The tar has about 94 KB in six images; this is in the fourth.
const BROKEN_OFF: usize = 60_000;

fn setting(args: &[&str]) -> (Origin, Vec<u8>, Job) {
    let origin = Origin::start();
    let tar = images(WNID, 6, 11_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new().classes([WNID]).origin(&origin).args(args.iter().copied());
    (origin, tar, job)
}

fn path(job: &Job) -> PathBuf {
    job.target_path().join("n00000001.tar")
}

/// The tar of the user, with some bytes of the origin's.
fn put(job: &Job, bytes: &[u8]) {
    fs::write(path(job), bytes).expect("the folder is ours");
}

fn written(job: &Job, at: SystemTime) {
    let opened = fs::File::options().write(true).open(path(job));
    opened.and_then(|file| file.set_modified(at)).expect("the folder is ours");
}

/// Where the requests for the class began, and how many bytes came.
fn asked(origin: &Origin) -> (Vec<u64>, u64) {
    let gets = origin.gets(WNID);
    (gets.iter().map(tests::request_log::Request::start).collect(), gets.iter().map(|get| get.sent).sum())
}

#[test]
fn a_whole_tar_is_unpacked_and_stays_where_the_user_has_put_it() {
    for args in [&["--delete-tar"][..], &[]] {
        let (origin, tar, job) = setting(args);
        put(&job, &tar);
        for table in [Table::of(1, 0, 0), Table::of(0, 1, 0)] {
            job.assert_ended(&job.run(), 0, table);
            assert_class_is(&tar, &job.class_folder(WNID));
            assert_eq!(fs::read(path(&job)).unwrap(), tar, "{args:?}");
        }
        // It is proved by its length, once.
        let methods: Vec<String> = origin.requests(WNID).into_iter().map(|request| request.method).collect();
        assert_eq!(methods, ["HEAD"]);
        // Also of a run that keeps tars it does not become this program's.
        let job = job.args(["--delete-tar"]);
        job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
        assert_eq!(fs::read(path(&job)).unwrap(), tar);
    }
}

#[test]
fn a_tar_that_an_earlier_run_kept_goes_with_delete_tar() {
    let (_origin, tar, job) = setting(&[]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_eq!(fs::read(path(&job)).unwrap(), tar);
    // So it does when a class is put together from it again.
    fs::remove_file(job.class_folder(WNID).join("n00000001_3.JPEG")).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let job = job.args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    assert_eq!(tars(job.target_path()).len(), 0);
}

#[test]
fn a_tar_that_the_user_has_put_in_the_place_of_a_kept_one_stays() {
    let (_origin, tar, job) = setting(&[]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    put(&job, &tar);
    let job = job.args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    assert_eq!(fs::read(path(&job)).unwrap(), tar);
}

#[test]
fn a_tar_beside_an_adopted_or_trusted_folder_stays() {
    for existing in ["adopt", "trust"] {
        let (_origin, tar, job) = setting(&["--delete-tar", "--existing", existing]);
        unpack_by_hand(&tar, &job.class_folder(WNID));
        put(&job, &tar);
        job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(fs::read(path(&job)).unwrap(), tar);
    }
}

#[test]
fn a_broken_off_tar_is_continued_if_the_origin_proves_it() {
    for keeps in [false, true] {
        let (origin, tar, job) = setting(if keeps { &[] } else { &["--delete-tar"] });
        put(&job, &tar[..BROKEN_OFF]);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        let (first, sent) = asked(&origin);
        assert_eq!(first.last(), Some(&(BROKEN_OFF as u64)), "{first:?}");
        let (rest, samples) = (tar.len() - BROKEN_OFF, 2 * (BROKEN_OFF / 16) + 1);
        assert!(sent <= (rest + samples) as u64, "{sent} bytes for {rest}");
        let expected = if keeps { &tar[..] } else { &tar[..BROKEN_OFF] };
        assert_eq!(fs::read(path(&job)).unwrap(), expected);
        assert_eq!(tars(job.target_path()).len(), 1);
    }
}

#[test]
fn what_is_not_proved_is_downloaded_from_its_beginning_and_the_file_stays() {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
    let other = images(WNID, 6, 11_000..20_000, 2);
    let whole = images(WNID, 6, 11_000..20_000, 1);
    let mut damaged_end = whole[..BROKEN_OFF].to_vec();
    damaged_end[BROKEN_OFF - 100] ^= 1;
    let without_dates = Answer::plain().without_validators();
    for (what, bytes, at, answer) in [
        ("older than the origin's", &whole[..BROKEN_OFF], Some(long_ago), None),
        ("of another version", &other[..BROKEN_OFF], None, None),
        ("with a damaged end", &damaged_end, None, None),
        ("without validators", &whole[..BROKEN_OFF], None, Some(without_dates)),
        ("without ranges", &whole[..BROKEN_OFF], None, Some(Answer::plain().ignoring_range())),
        ("no tar", &b"<html>".repeat(4000), None, None),
    ] {
        for keeps in [false, true] {
            let (origin, tar, job) = setting(if keeps { &[] } else { &["--delete-tar"] });
            if let Some(answer) = answer.clone() {
                origin.class(WNID, tar.clone()).forever(answer);
            }
            put(&job, bytes);
            if let Some(at) = at {
                written(&job, at);
            }
            job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
            assert_class_is(&tar, &job.class_folder(WNID));
            let (kept, of_user) = (path(&job), job.target_path().join("n00000001.tar.1"));
            let of_user = if keeps { of_user } else { kept.clone() };
            assert_eq!(fs::read(of_user).unwrap(), bytes, "{what}");
            assert!(!keeps || fs::read(kept).unwrap() == tar, "{what}");
        }
    }
}

/// aria2 and axel give a file its full length at once; what has not come is zeros.
#[test]
fn a_file_that_another_program_is_not_done_with_is_not_used() {
    for control in ["aria2", "st"] {
        let (origin, tar, job) = setting(&["--delete-tar"]);
        let mut begun = tar.clone();
        begun[40_000..].fill(0);
        put(&job, &begun);
        fs::write(job.target_path().join(format!("n00000001.tar.{control}")), "").unwrap();
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(fs::read(path(&job)).unwrap(), begun);
        assert_eq!(origin.gets(WNID).len(), 1);
    }
}

#[test]
fn an_empty_tar_is_replaced_and_one_that_ends_in_its_first_blocks_is_not_continued() {
    for length in [0, 5000] {
        let (origin, tar, job) = setting(&[]);
        put(&job, &tar[..length]);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(origin.gets(WNID).len(), 1);
        assert_eq!(fs::read(path(&job)).unwrap(), tar);
        assert_eq!(job.target_path().join("n00000001.tar.1").exists(), length > 0);
    }
}

/// Offset of the header of an image, which is the end of the one before it.
fn header_of(tar: &[u8], number: u32) -> usize {
    let name = format!("{WNID}_{number}.JPEG");
    let begins = |block: &[u8]| block.windows(name.len()).take(100).any(|bytes| bytes == name.as_bytes());
    tar.chunks(512).position(begins).expect("the tar has the image") * 512
}

/// A tar with its end marker behind the fourth image of six, and one of the right length whose rest
/// is zeros, as some tools leave a download that was cut.
fn with_images_missing(tar: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let mut short = tar[..header_of(tar, 4)].to_vec();
    let mut full = short.clone();
    short.extend([0; 1024]);
    pad_to_record(&mut short);
    full.resize(tar.len(), 0);
    [("shorter", short), ("as long", full)]
}

#[test]
fn a_tar_that_ends_properly_and_lacks_images_is_not_used_and_stays() {
    for args in [&["--delete-tar"][..], &[]] {
        for which in [0, 1] {
            let (origin, tar, job) = setting(args);
            let (what, lacking) = &with_images_missing(&tar)[which];
            put(&job, lacking);
            let ended = job.run();
            job.assert_ended(&ended, 0, Table::of(1, 0, 0));
            assert_class_is(&tar, &job.class_folder(WNID));
            let said = "n00000001: the tar in the target is not used, because its files make a tar of ";
            assert!(ended.stderr.contains(said), "{what}: {}", ended.stderr);
            let of_user = if args.is_empty() { job.target_path().join("n00000001.tar.1") } else { path(&job) };
            assert_eq!(fs::read(of_user).unwrap(), *lacking, "{what}");
            assert_eq!(asked(&origin).1, tar.len() as u64 + 1, "{what}: the first byte, and the tar");
        }
    }
}

#[test]
fn trust_uses_a_tar_as_it_is_and_asks_for_nothing() {
    let (origin, tar, job) = setting(&["--delete-tar", "--existing", "trust"]);
    let [(_, lacking), _] = with_images_missing(&tar);
    put(&job, &lacking);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&lacking, &job.class_folder(WNID));
    assert!(origin.all_requests().is_empty());
}

/// The same files with another number of zeros behind the end marker are the same tar.
#[test]
fn padding_is_no_difference() {
    let (origin, tar, job) = setting(&["--delete-tar"]);
    let entries = tar.len() - tar.iter().rev().take_while(|byte| **byte == 0).count();
    let shortest = tar[..entries.next_multiple_of(512) + 1024].to_vec();
    assert!(shortest.len() < tar.len());
    put(&job, &shortest);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    assert!(origin.gets(WNID).is_empty());
}

/// As a folder without a manifest is proved: what `HEAD` does not say, the first byte does.
#[test]
fn a_whole_tar_is_proved_as_a_folder_is() {
    for head in [Answer::status(405), Answer::plain().stating_length(20_480), Answer::plain().without_length()] {
        let (origin, tar, job) = setting(&["--delete-tar"]);
        put(&job, &tar);
        let said = format!("{head:?}");
        origin.script_of(WNID).expect("it is served").heads(head);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(asked(&origin), (vec![0], 1), "{said}");
    }
}

#[test]
fn where_the_origin_says_no_length_or_nothing_a_whole_tar_is_not_believed() {
    let (origin, tar, job) = setting(&["--delete-tar", "--retries", "0"]);
    put(&job, &tar);
    origin.class(WNID, tar.clone()).forever(Answer::status(503));
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    let failure = job.failure_of(WNID);
    assert!(failure.starts_with("HTTPError: 503 Server Error"), "{failure}");
    assert!(!job.class_folder(WNID).exists());

    origin.class(WNID, tar.clone()).forever(Answer::plain().chunked().ignoring_range());
    let ended = job.run();
    job.assert_ended(&ended, 0, Table::of(1, 0, 0));
    let said = "is not used, because the origin does not say how long its tar is; the class is downloaded";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert_class_is(&tar, &job.class_folder(WNID));
    assert_eq!(fs::read(path(&job)).unwrap(), tar);
}

/// ILSVRC2012's outer archive holds the tars of its classes.
#[test]
fn an_archive_of_tars_is_no_class() {
    for existing in ["adopt", "trust"] {
        let (origin, tar, job) = setting(&["--delete-tar", "--existing", existing]);
        let outer = tar_of([Entry::file("n00000001.tar", &tar), Entry::file("n00000002.tar", &tar)]);
        put(&job, &outer);
        job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
        assert_class_is(&tar, &job.class_folder(WNID));
        assert_eq!(fs::read(path(&job)).unwrap(), outer);
        assert_eq!(origin.gets(WNID).len(), 1);
        // Neither is one that the origin sends.
        fs::remove_file(path(&job)).unwrap();
        fs::remove_dir_all(job.class_folder(WNID)).unwrap();
        origin.class(WNID, outer);
        job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
        let failure = job.failure_of(WNID);
        let said = "TarError: \"n00000001.tar\" is the tar of a class, so this is an archive of several classes";
        assert_eq!(failure, said);
        assert!(!job.class_folder(WNID).exists());
    }
}

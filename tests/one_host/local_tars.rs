//! A `<wnid>.tar` that stands in the target: a whole one is used, the download goes on behind one
//! that is broken off, and only tars that this program wrote are ever removed.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images, unpack_by_hand},
    cluster::{Job, Table},
    folders::tars,
    origin::Origin,
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
        assert_eq!(origin.gets(WNID).len(), 0);
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

//! Existing folders in the target: accepted only if verified, and never changed.

use std::{fs, path::Path};

use tests::{
    answer::Answer,
    archives::{MANIFEST, assert_class_is, images, unpack_by_hand},
    cluster::{Job, Table},
    folders::{Snapshot, snapshot},
    origin::Origin,
};

const WNID: &str = "n00000001";

/// Images large enough that one image more or less changes the size of the tar.
fn fixture() -> (Origin, Vec<u8>, Job) {
    let origin = Origin::start();
    let tar = images(WNID, 6, 11_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--delete-tar"]);
    (origin, tar, job)
}

#[track_caller]
fn assert_conflict(job: &Job, origin: &Origin, before: &Snapshot) {
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        job.failure_of(WNID).starts_with("Conflict: "),
        "{:?}",
        job.failures()
    );
    assert_eq!(
        snapshot(&job.class_folder(WNID)),
        *before,
        "the folder was changed"
    );
    let sent: u64 = origin.gets(WNID).iter().map(|get| get.sent).sum();
    assert!(sent <= 1, "nothing is downloaded for a folder that stays");
}

#[test]
fn a_folder_of_another_tool_is_verified_and_adopted() {
    let (origin, tar, job) = fixture();
    unpack_by_hand(&tar, &job.class_folder(WNID));
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    let methods: Vec<String> = origin
        .requests(WNID)
        .into_iter()
        .map(|request| request.method)
        .collect();
    assert_eq!(methods, ["HEAD"]);
    assert_class_is(&tar, &job.class_folder(WNID));
    let manifest =
        fs::read(job.class_folder(WNID).join(MANIFEST)).expect("an adopted folder gets a manifest");
    let manifest: serde_json::Value =
        serde_json::from_slice(&manifest).expect("a manifest is JSON");
    assert!(manifest.is_object());

    origin.forget_requests();
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    assert_eq!(
        origin.all_requests().len(),
        0,
        "an adopted folder needs no request"
    );
}

#[test]
fn a_folder_whose_sizes_do_not_match_is_a_conflict_and_is_not_changed() {
    let (origin, tar, job) = fixture();
    let folder = job.class_folder(WNID);
    unpack_by_hand(&tar, &folder);
    fs::remove_file(folder.join("n00000001_3.JPEG")).unwrap();
    assert_conflict(&job, &origin, &snapshot(&folder));
}

#[test]
fn replace_puts_the_complete_class_in_its_place() {
    let (_origin, tar, job) = fixture();
    let folder = job.class_folder(WNID);
    unpack_by_hand(&tar, &folder);
    fs::remove_file(folder.join("n00000001_3.JPEG")).unwrap();
    fs::write(folder.join("stray"), "").unwrap();
    let job = job.args(["--delete-tar", "--existing", "replace"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &folder);
}

#[test]
fn a_failed_replacement_keeps_the_old_folder() {
    let (origin, tar, job) = fixture();
    let folder = job.class_folder(WNID);
    unpack_by_hand(&tar, &folder);
    fs::remove_file(folder.join("n00000001_3.JPEG")).unwrap();
    let before = snapshot(&folder);
    origin.class(WNID, b"<html>".to_vec());
    let job = job.args(["--delete-tar", "--existing", "replace"]);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert_eq!(snapshot(&folder), before);
}

#[test]
fn existing_trust_sends_no_request() {
    let (origin, tar, job) = fixture();
    let folder = job.class_folder(WNID);
    unpack_by_hand(&tar, &folder);
    fs::remove_file(folder.join("n00000001_3.JPEG")).unwrap();
    let job = job.args(["--delete-tar", "--existing", "trust"]);
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
    assert_eq!(origin.all_requests().len(), 0);
}

#[test]
fn an_origin_that_cannot_verify_a_folder_is_a_conflict_only_if_permanent() {
    for (status, failure_begins) in [(405, "Conflict: "), (503, "HTTPError: 503 Server Error")] {
        let (origin, tar, job) = fixture();
        unpack_by_hand(&tar, &job.class_folder(WNID));
        let before = snapshot(&job.class_folder(WNID));
        origin.class(WNID, tar).forever(Answer::status(status));
        let job = job.args(["--delete-tar", "--retries", "1"]);
        job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
        let failure = job.failure_of(WNID);
        assert!(
            failure.starts_with(failure_begins) && failure.contains(&status.to_string()),
            "{failure}"
        );
        assert_eq!(
            snapshot(&job.class_folder(WNID)),
            before,
            "the folder was changed"
        );
        // A HEAD, and a GET for what the HEAD did not tell, which is retried where that can help.
        let methods: Vec<String> = origin
            .requests(WNID)
            .into_iter()
            .map(|request| request.method)
            .collect();
        let expected = if status == 503 {
            &["HEAD", "GET", "GET"][..]
        } else {
            &["HEAD", "GET"]
        };
        assert_eq!(methods, expected, "{status}");
    }
}

/// If a `HEAD` does not tell the length, a GET of the first byte does.
#[test]
fn a_head_without_a_length_or_with_a_wrong_one_verifies_nothing() {
    for head in [
        Answer::plain().stating_length(0),
        Answer::plain().stating_length(20_480),
        Answer::plain().without_length(),
        Answer::plain().chunked(),
        Answer::plain()
            .header("Content-Encoding", "gzip")
            .stating_length(1000),
        Answer::status(405),
        Answer::status(501),
        Answer::status(500),
        Answer::status(403),
        Answer::redirect("http://10.0.0.1/"),
    ] {
        let (origin, tar, job) = fixture();
        unpack_by_hand(&tar, &job.class_folder(WNID));
        let head_text = format!("{head:?}");
        origin
            .script_of(WNID)
            .expect("the class is served")
            .heads(head);
        job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
        let gets = origin.gets(WNID);
        assert_eq!((gets.len(), gets[0].sent), (1, 1), "{head_text}");
        assert_class_is(&tar, &job.class_folder(WNID));
    }
}

/// The origin never tells a length: the folder is kept, and the message names a remedy.
#[test]
fn without_any_length_a_folder_is_not_verified() {
    let (origin, tar, job) = fixture();
    unpack_by_hand(&tar, &job.class_folder(WNID));
    let before = snapshot(&job.class_folder(WNID));
    origin
        .class(WNID, tar)
        .forever(Answer::plain().chunked().ignoring_range());
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    let failure = job.failure_of(WNID);
    assert!(
        failure.starts_with("Conflict: ") && failure.contains("does not say how long the tar is"),
        "{failure}"
    );
    assert!(failure.contains("--existing replace"), "{failure}");
    assert_eq!(
        snapshot(&job.class_folder(WNID)),
        before,
        "the folder was changed"
    );
}

#[test]
fn an_empty_folder_is_replaced() {
    let (_origin, tar, job) = fixture();
    fs::create_dir(job.class_folder(WNID)).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
}

#[test]
fn a_link_under_the_final_name_is_a_conflict_and_never_followed() {
    let (origin, tar, job) = fixture();
    let elsewhere = job.folder().join("elsewhere");
    unpack_by_hand(&tar, &elsewhere);
    let before = snapshot(&elsewhere);
    for leads_to in [elsewhere.as_path(), Path::new("nowhere")] {
        let link = job.class_folder(WNID);
        std::os::unix::fs::symlink(leads_to, &link).unwrap();
        job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
        assert!(
            job.failure_of(WNID).starts_with("Conflict: "),
            "{:?}",
            job.failures()
        );
        assert_eq!(fs::read_link(&link).unwrap(), leads_to);
        assert_eq!(snapshot(&elsewhere), before);
        assert_eq!(origin.gets(WNID).len(), 0);
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_file_under_the_final_name_is_a_conflict() {
    let (origin, _tar, job) = fixture();
    fs::write(job.class_folder(WNID), "mine").unwrap();
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    assert!(
        job.failure_of(WNID).starts_with("Conflict: "),
        "{:?}",
        job.failures()
    );
    assert_eq!(fs::read(job.class_folder(WNID)).unwrap(), b"mine");
    assert_eq!(origin.gets(WNID).len(), 0);
}

#[test]
fn an_edited_or_cut_manifest_is_a_conflict() {
    let (origin, _tar, job) = fixture();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let path = job.class_folder(WNID).join(MANIFEST);
    let good = fs::read(&path).unwrap();
    let mut edited = good.clone();
    let digit = edited
        .iter()
        .rposition(u8::is_ascii_digit)
        .expect("a manifest holds numbers");
    edited[digit] = if edited[digit] == b'9' {
        b'8'
    } else {
        edited[digit] + 1
    };
    for bad in [edited, good[..good.len() / 2].to_vec(), Vec::new()] {
        fs::write(&path, bad).unwrap();
        origin.forget_requests();
        assert_conflict(&job, &origin, &snapshot(&job.class_folder(WNID)));
    }
    fs::write(&path, good).unwrap();
    job.assert_ended(&job.run(), 0, Table::of(0, 1, 0));
}

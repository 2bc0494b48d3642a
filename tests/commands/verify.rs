//! `coordinator verify` (F10): prints each file that differs from what was downloaded.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tests::{
    archives::MANIFEST,
    cluster::{Job, Table},
    folders::snapshot,
    running::Signal,
};

use super::{command, origin_of};

/// A target with `count` complete classes.
fn finished(count: u64) -> Job {
    let (origin, wnids) = origin_of(count);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(count, 0, 0));
    job
}

/// Path of an image of a class.
fn image(job: &Job, wnid: &str, number: u32) -> PathBuf {
    job.class_folder(wnid).join(format!("{wnid}_{number}.JPEG"))
}

#[track_caller]
fn assert_verify_prints(job: &Job, code: i32, lines: &[&str], totals: &str) {
    let found = command(job, ["verify"]);
    assert_eq!(found.code, Some(code), "{}{}", found.stdout, found.stderr);
    let mut printed: Vec<&str> = found.stdout.lines().collect();
    let last = printed.pop().expect("the output ends with the totals");
    assert!(last.starts_with(totals), "{last}");
    // Classes are compared concurrently, so their order varies.
    printed.sort_unstable();
    assert_eq!(printed, lines);
    assert_eq!(found.stderr, "");
}

#[test]
fn an_unchanged_target_has_no_differences_and_is_not_modified() {
    let job = finished(3);
    let before = snapshot(job.target_path());
    assert_verify_prints(
        &job,
        0,
        &[],
        "3 classes: 3 right, 0 different, 0 not proved; 15 files, ",
    );
    assert_eq!(snapshot(job.target_path()), before);
}

#[test]
fn each_different_file_is_named() {
    let job = finished(5);
    let edited = image(&job, "n00000001", 2);
    let mut content = fs::read(&edited).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&edited, &content).unwrap();
    let cut = image(&job, "n00000001", 3);
    let length = fs::metadata(&cut).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&cut)
        .unwrap()
        .set_len(5)
        .unwrap();
    fs::remove_file(image(&job, "n00000002", 1)).unwrap();
    fs::write(job.class_folder("n00000003").join("stray"), "").unwrap();
    let manifest = job.class_folder("n00000004").join(MANIFEST);
    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();

    let cut = format!("n00000001/n00000001_3.JPEG has 5 bytes, the manifest says {length}");
    let lines = [
        "n00000001/n00000001_2.JPEG has other content than the manifest says",
        &cut,
        "n00000002/n00000002_1.JPEG is missing",
        "n00000003/stray is not in the manifest",
        "n00000004/.manifest.json is damaged, of another class or of a later version",
    ];
    assert_verify_prints(
        &job,
        1,
        &lines,
        "5 classes: 1 right, 4 different, 0 not proved; 20 files, ",
    );

    let found = command(&job, ["verify", "--json"]);
    assert_eq!(found.code, Some(1), "{}", found.stderr);
    let objects: Vec<Value> = found
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 6);
    let missing = objects
        .iter()
        .find(|object| object["difference"] == "missing")
        .expect("one file is missing");
    let expected = json!({
        "class": "n00000002",
        "file": "n00000002_1.JPEG",
        "difference": "missing",
        "text": "is missing",
    });
    assert_eq!(*missing, expected);
    let totals = &objects[5];
    assert_eq!(
        (&totals["classes"], &totals["right"], &totals["different"]),
        (&json!(5), &json!(1), &json!(4))
    );
}

/// Same size, other bytes: only `verify` detects that, and only `verify --repair` causes a repair.
#[test]
fn repair_marks_classes_that_the_next_job_downloads_again_and_changes_no_image() {
    for args in [
        &["--delete-tar"][..],
        &[],
        &["--delete-tar", "--existing", "trust"],
    ] {
        let (origin, wnids) = origin_of(3);
        let job = Job::new()
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin)
            .args(args.iter().copied());
        job.assert_ended(&job.run(), 0, Table::of(3, 0, 0));
        let edited = image(&job, "n00000001", 2);
        let good = fs::read(&edited).unwrap();
        let mut content = good.clone();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&edited, &content).unwrap();
        let manifest = job.class_folder("n00000002").join(MANIFEST);
        fs::write(&manifest, "{").unwrap();
        fs::write(
            job.class_folder("n00000002").join("mine.txt"),
            "of the user",
        )
        .unwrap();

        let found = command(&job, ["verify", "--repair"]);
        assert_eq!(found.code, Some(1), "{}", found.stderr);
        let printed =
            "2 classes are marked as different; run the same job again: it downloads them again\n";
        assert_eq!(found.stderr, printed);
        assert_eq!(fs::read(&edited).unwrap(), content, "nothing is removed");
        let again = command(&job, ["verify"]);
        let marked = "was marked by `verify --repair`, so the next job downloads the class again";
        assert_eq!(again.code, Some(1));
        assert_eq!(again.stdout.matches(marked).count(), 2, "{}", again.stdout);

        origin.forget_requests();
        job.assert_ended(&job.run(), 0, Table::of(2, 1, 0));
        assert_eq!(
            origin.all_requests().len(),
            2,
            "both classes are requested from the origin, even with kept tars"
        );
        assert_eq!(fs::read(&edited).unwrap(), good);
        let kept = job.folder().join(".target.set-aside/n00000002/mine.txt");
        assert_eq!(fs::read_to_string(kept).unwrap(), "of the user");
        assert_verify_prints(
            &job,
            0,
            &[],
            "3 classes: 3 right, 0 different, 0 not proved; 15 files, ",
        );
    }
}

#[test]
fn names_are_unchanged_in_json_and_escaped_in_text() {
    let job = finished(1);
    fs::write(job.class_folder("n00000001").join("a\\b\n\u{1b}"), "").unwrap();
    let found = command(&job, ["verify"]);
    let printed =
        "n00000001/a\\b\\n\\u{1b} is not in the manifest\n1 class: 0 right, 1 different, ";
    assert!(found.stdout.starts_with(printed), "{}", found.stdout);
    let found = command(&job, ["verify", "--json"]);
    let line: Value =
        serde_json::from_str(found.stdout.lines().next().expect("the class differs")).unwrap();
    assert_eq!(line["file"], json!("a\\b\n\u{1b}"));
}

#[test]
fn a_folder_without_a_manifest_is_reported_and_an_error_only_with_strict() {
    let job = finished(2);
    fs::remove_file(job.class_folder("n00000002").join(MANIFEST)).unwrap();
    let line = "n00000002 is not proved: it has no manifest";
    assert_verify_prints(
        &job,
        0,
        &[line],
        "2 classes: 1 right, 0 different, 1 not proved; 5 files, ",
    );
    assert_eq!(command(&job, ["verify", "--strict"]).code, Some(1));
}

#[test]
fn a_target_without_classes_is_an_error() {
    let job = Job::new();
    let nowhere = command(&job, ["verify", "--target", "nowhere"]);
    job.assert_could_not_run(
        &nowhere,
        &[
            "failed to read the folder nowhere: No such file",
            "with --target",
        ],
    );
    job.assert_could_not_run(
        &command(&job, ["verify"]),
        &["failed to find a class in .: ", "with --target"],
    );
    let flags = command(&job, ["--fname", "x.csv", "verify"]);
    job.assert_could_not_run(
        &flags,
        &["the subcommand 'verify' cannot be used with '--fname <FILE>'"],
    );
}

/// Makes an image 1 TiB long, so that `verify` does not reach its end, and changes its size in the
/// manifest accordingly.
fn make_endless(job: &Job, wnid: &str) -> PathBuf {
    let path = image(job, wnid, 1);
    let length = fs::metadata(&path).expect("the folder is writable").len();
    fs::File::options()
        .write(true)
        .open(&path)
        .expect("the folder is writable")
        .set_len(1 << 40)
        .expect("the folder is writable");
    let manifest = job.class_folder(wnid).join(MANIFEST);
    let text = fs::read_to_string(&manifest).expect("the folder is writable");
    let text = text.replacen(
        &format!("\"size\":{length},"),
        &format!("\"size\":{},", 1_u64 << 40),
        1,
    );
    let (covered, _) = text
        .split_once("  \"digest\"")
        .expect("the manifest ends with its digest");
    let digest = blake3::hash(covered.as_bytes()).to_hex();
    fs::write(
        &manifest,
        format!("{covered}  \"digest\": \"{digest}\"\n}}\n"),
    )
    .expect("the folder is writable");
    path
}

#[test]
fn ctrl_c_ends_verify() {
    let job = finished(1);
    let endless = make_endless(&job, "n00000001");
    let mut running = job.start_with(["verify"]);
    running.wait_until("it reads the image and handles SIGINT", |running| {
        let status = fs::read_to_string(format!("/proc/{}/status", running.id())).ok()?;
        let blocked = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:"))?;
        let blocked = u64::from_str_radix(blocked.trim(), 16).ok()?;
        (blocked & 1 << (Signal::INT.as_raw() - 1) != 0).then_some(())?;
        let open = fs::read_dir(format!("/proc/{}/fd", running.id())).ok()?;
        let mut open = open
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        open.any(|path| path.file_name() == endless.file_name())
            .then_some(())
    });
    running.signal(Signal::INT);
    let ended = running.wait();
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(130), ""),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr, "interrupted: 0 of 1 classes were compared\n");
}

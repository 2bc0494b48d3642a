//! `--dry-run`: prints what a job would do, with few requests, and changes nothing.

use std::fs;

use tests::{
    answer::Answer,
    archives::{MANIFEST, images},
    cluster::{Job, Table},
    origin::Origin,
};

#[test]
fn a_dry_run_counts_classes_bytes_and_space_and_changes_nothing() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=60).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids[..59] {
        origin.class(wnid, images(wnid, 3, 10_000..20_000, 1));
    }
    let job = Job::new()
        .classes(wnids[..10].iter().map(String::as_str))
        .origin(&origin);
    job.assert_ended(&job.run(), 0, Table::of(10, 0, 0));
    let before = tests::folders::classes(job.target_path());
    let requests = origin.all_requests().len();

    let listed = wnids
        .iter()
        .map(String::as_str)
        .chain(["cat", wnids[0].as_str()]);
    let target = job.target_path().to_owned();
    let again = Job::new()
        .target(&target)
        .classes(listed)
        .origin(&origin)
        .args(["--dry-run"]);
    let finished = again.run();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines[0], "dry run: nothing is downloaded or changed");
    assert_eq!(
        lines[1],
        "60 classes in the list, 1 row without a class id, 1 duplicate row"
    );
    assert!(
        lines[2].starts_with("10 complete in ") && lines[2].ends_with(": skipped"),
        "{lines:?}"
    );
    assert!(lines[3].starts_with("50 to download, about "), "{lines:?}");
    assert!(
        lines[3].contains(" (40 of 50 asked for with HEAD, "),
        "{lines:?}"
    );
    assert!(lines.last().unwrap().contains("B free in "), "{lines:?}");
    assert_eq!(tests::folders::classes(job.target_path()), before);
    assert_eq!(origin.all_requests().len() - requests, 40);
    assert!(
        wnids[10..].iter().all(|wnid| origin.gets(wnid).is_empty()),
        "nothing is downloaded"
    );
}

#[test]
fn a_dry_run_with_a_wrong_url_sends_a_few_requests_and_fails() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=100).map(|number| format!("n{number:08}")).collect();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("not/there");
    let job = Job::new()
        .target(&target)
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let finished = job.args(["--dry-run"]).run();
    assert_eq!(finished.code, Some(2), "{}", finished.stdout);
    let message = "failed: HTTPError: 404 Client Error: Not Found; look at --url and --header-file";
    assert!(finished.stderr.contains(message), "{}", finished.stderr);
    assert!(
        origin.all_requests().len() <= 9,
        "{}",
        origin.all_requests().len()
    );
    assert!(!target.exists());
}

#[test]
fn a_dry_run_compares_folders_as_the_job_does() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=5).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 3, 10_000..20_000, 1));
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(5, 0, 0));
    // One class is missing, one lacks an image, one is marked as damaged, and one has a truncated
    // manifest.
    fs::remove_dir_all(job.class_folder(&wnids[0])).unwrap();
    fs::remove_file(
        job.class_folder(&wnids[1])
            .join(format!("{}_1.JPEG", wnids[1])),
    )
    .unwrap();
    let marked = job.class_folder(&wnids[2]);
    fs::rename(marked.join(MANIFEST), marked.join(".manifest.damaged.json")).unwrap();
    fs::write(job.class_folder(&wnids[3]).join(MANIFEST), "{").unwrap();
    fs::write(marked.join("notes.txt"), "of the user").unwrap();
    for (existing, complete, to_fail, to_download) in
        [("adopt", 1, true, 3), ("replace", 1, false, 4)]
    {
        let job = Job::new()
            .target(job.target_path())
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin);
        let finished = job
            .args(["--dry-run", "--delete-tar", "--existing", existing])
            .run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let starts = |line: &str| {
            finished
                .stdout
                .lines()
                .any(|printed| printed.starts_with(line))
        };
        assert!(
            starts(&format!("{complete} complete in ")),
            "{}",
            finished.stdout
        );
        assert!(
            starts(&format!("{to_download} to download, about ")),
            "{}",
            finished.stdout
        );
        assert_eq!(
            starts("1 class to fail with Conflict: "),
            to_fail,
            "{}",
            finished.stdout
        );
        assert!(
            starts("  2 class folders differ from their manifests and will be replaced; "),
            "{}",
            finished.stdout
        );
        assert!(
            starts("    n00000002/n00000002_1.JPEG is missing"),
            "{}",
            finished.stdout
        );
        assert!(
            starts("    n00000003/.manifest.damaged.json was marked by `verify --repair`"),
            "{}",
            finished.stdout
        );
    }
}

#[test]
fn a_dry_run_fails_if_the_origin_serves_html() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=30).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, Vec::new()).forever(Answer::html());
    }
    let finished = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--dry-run"])
        .run();
    assert_eq!(finished.code, Some(2), "{}", finished.stdout);
    let message = "not a tar: the answer to HEAD is text/html, e.g. a login page; look at --url \
                   and --header-file";
    assert!(finished.stderr.contains(message), "{}", finished.stderr);
}

#[test]
fn a_dry_run_lists_classes_that_a_file_of_the_user_causes_to_be_downloaded_again() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=25).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 1, 100..200, 1));
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(25, 0, 0));
    for (number, message) in [
        (
            1,
            "  1 class folder differs from its manifest and will be replaced; files that are not \
             in its manifest will be kept",
        ),
        (25, "    and 5 more"),
    ] {
        for wnid in &wnids[..number] {
            fs::write(job.class_folder(wnid).join("notes.txt"), "of the user").unwrap();
        }
        let finished = Job::new()
            .target(job.target_path())
            .classes(wnids.iter().map(String::as_str))
            .origin(&origin);
        let finished = finished.args(["--dry-run", "--delete-tar"]).run();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        for message in [message, "    n00000001/notes.txt is not in the manifest"] {
            assert!(
                finished
                    .stdout
                    .lines()
                    .any(|line| line.starts_with(message)),
                "{message}: {}",
                finished.stdout
            );
        }
        assert_eq!(
            finished.stdout.matches("/notes.txt ").count(),
            number.min(20)
        );
    }
    assert!(job.class_folder(&wnids[0]).join("notes.txt").exists());
}

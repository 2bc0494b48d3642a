//! Long lists and many concurrent downloads: resources stay bounded, and limits are reported before
//! the job begins.

use std::{fs, time::Duration};

use tests::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    folders::staging,
    origin::Origin,
    wait::wait_for,
};

#[test]
fn fifteen_hundred_missing_classes_leave_no_files() {
    const CLASSES: u64 = 1500;
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=CLASSES + 1)
        .map(|number| format!("n{number:08}"))
        .collect();
    // If no class existed, the job would end after the first twenty failures.
    let there = wnids.last().expect("the list is not empty");
    origin.class(there, images(there, 1, 500..900, 1));
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--workers", "10"]);
    let partial = staging(job.target_path());
    let mut running = job.start();
    let mut most = 0;
    wait_for("the job ends", Duration::from_mins(1), || {
        most = most.max(fs::read_dir(&partial).map_or(0, Iterator::count));
        !running.is_running()
    });
    // One entry per running download, one per attempt that is being removed, and a few lock files.
    assert!(most <= 25, "{most} entries in the staging folder at once");
    job.assert_ended(&running.wait(), 1, Table::of(1, 0, CLASSES));
    let failures = job.failures();
    assert_eq!(failures.len() as u64, CLASSES);
    assert!(
        failures
            .iter()
            .all(|line| line.contains(" - HTTPError: 404 Client Error")),
        "{failures:?}"
    );
    assert_eq!(
        origin.all_requests().len() as u64,
        CLASSES + 1,
        "one request per class"
    );
}

/// The limit may be reported or suffice, but the job must not fail in the middle; and the suggested
/// limit has to work.
#[test]
fn too_few_file_descriptors_are_reported_at_the_start_or_suffice() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=400).map(|number| format!("n{number:08}")).collect();
    let tars: Vec<Vec<u8>> = (1..)
        .zip(&wnids)
        .map(|(seed, wnid)| images(wnid, 3, 5000..9000, seed))
        .collect();
    for (wnid, tar) in wnids.iter().zip(&tars) {
        origin.class(wnid, tar.clone());
    }
    // A class takes 0.2 s, so that many downloads run at once.
    origin.limit_rate(100_000);
    let few = ["sh", "-c", "ulimit -n 256 && exec \"$0\" \"$@\""];
    let args = ["--delete-tar", "--workers", "350"];
    let mut job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args)
        .under(few);
    let mut finished = job.run();
    if finished.code == Some(2) {
        job.assert_could_not_run(&finished, &["--workers "]);
        let sentences = finished
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .count();
        assert_eq!(sentences, 1, "{}", finished.stderr);
        assert_eq!(
            origin.all_requests().len(),
            0,
            "requests were sent before the limit was reported"
        );
        let advice = finished
            .stderr
            .split_once("--workers ")
            .map(|(_, advice)| advice);
        let number: String = advice
            .into_iter()
            .flat_map(str::chars)
            .take_while(char::is_ascii_digit)
            .collect();
        job = job.args(["--delete-tar", "--workers", &number]);
        finished = job.run();
    }
    job.assert_ended(&finished, 0, Table::of(400, 0, 0));
    for (wnid, tar) in wnids.iter().zip(&tars) {
        assert_class_is(tar, &job.class_folder(wnid));
    }
}

//! `coordinator retry`: failed classes of a running job are tried again.

use serde_json::Value;
use tests::{
    answer::Answer,
    archives::images,
    cluster::{Coordinator, Job, Table},
    log::has_line,
};

use super::{ask, command, origin_of};

const MISSING: [&str; 3] = ["n00000011", "n00000012", "n00000013"];
const ROW: &str =
    "1 row of the list holds no class id and stays failed until the list is corrected";

/// Checks the lists of leased and failed classes, as text and as JSON.
#[track_caller]
fn assert_lists_classes(job: &Job, coordinator: &Coordinator) {
    let listed = ask(job, coordinator, &["status", "--classes"]);
    for line in [
        "classes with workers:\n  n00000001  w1  ",
        "failed classes:\n  n00000011  w1  HTTPError: 404 Client Error: Not Found for url: ",
        "\n1 row of the list holds no class id and failed: the failure log names them\n",
    ] {
        assert!(
            listed.stdout.contains(line),
            "no {line:?} in:\n{}{}",
            listed.stdout,
            listed.stderr
        );
    }
    let listed = ask(job, coordinator, &["status", "--classes", "--json"]);
    let lines = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object per line"));
    let states: Vec<Value> = lines
        .skip(1)
        .map(|line: Value| line["state"].clone())
        .collect();
    assert_eq!(states, ["leased", "failed", "failed", "failed"]);
}

/// Runs `coordinator retry` with these classes; it succeeds with this output.
#[track_caller]
fn assert_retry_prints(job: &Job, coordinator: &Coordinator, wnids: &[&str], output: &str) {
    let finished = ask(job, coordinator, &[&["retry"], wnids].concat());
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (Some(0), output),
        "{}",
        finished.stderr
    );
}

#[test]
fn missing_classes_are_downloaded_once_the_origin_has_them() {
    let (origin, wnids) = origin_of(1);
    // Keeps the job running.
    origin
        .script_of(&wnids[0])
        .expect("the class is served")
        .script([Answer::stall_at(10_000)]);
    let listed = wnids
        .iter()
        .map(String::as_str)
        .chain(MISSING)
        .chain(["cat"]);
    let job = Job::new()
        .classes(listed)
        .origin(&origin)
        .args(["--delete-tar"]);
    let mut coordinator = job.start_coordinator();
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let connect = format!("http://{}", coordinator.address);
    coordinator
        .running
        .wait_until("the three classes and the row have failed", |_| {
            let output = command(&job, ["status", "--json", "--connect", &connect]);
            output.stdout.contains("\"failed\":4").then_some(())
        });
    assert_eq!(job.failures().len(), 4);
    assert_lists_classes(&job, &coordinator);

    let foreign = ask(&job, &coordinator, &["retry", MISSING[0], "n99999999"]);
    job.assert_could_not_run(&foreign, &["n99999999 is not in the list of this job"]);

    let wrong = ask(&job, &coordinator, &["retry", "cat"]);
    job.assert_could_not_run(&wrong, &["not a WordNet id"]);
    let none = "no failed class to try again; 1 of those named has not failed\n";
    assert_retry_prints(&job, &coordinator, &[&wnids[0]], none);

    for (wnid, seed) in MISSING.iter().zip(11..) {
        origin.class(wnid, images(wnid, 5, 10_000..20_000, seed));
    }
    let one = "1 failed class is tried again\n";
    assert_retry_prints(&job, &coordinator, &[MISSING[1], MISSING[1]], one);
    coordinator
        .running
        .wait_until("the named class is complete", |_| {
            job.class_folder(MISSING[1]).exists().then_some(())
        });
    assert!(!job.class_folder(MISSING[0]).exists() && !job.class_folder(MISSING[2]).exists());

    let rest = format!("2 failed classes are tried again; {ROW}\n");
    assert_retry_prints(&job, &coordinator, &[], &rest);
    coordinator
        .running
        .wait_until("the other classes are complete", |_| {
            (job.class_folder(MISSING[0]).exists() && job.class_folder(MISSING[2]).exists())
                .then_some(())
        });
    origin.end_stalls();
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(4, 0, 1));
    assert_eq!(job.failures().len(), 1);
    let log = job.log();
    assert!(
        has_line(&log, &["n00000012 success", "worker=\"w1\""]),
        "{log}"
    );
}

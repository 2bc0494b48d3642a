//! `coordinator --retry-failed`: a job of exactly the classes that failed in the last run.

use std::fs;

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    folders::classes,
    origin::Origin,
    running::Signal,
};

use super::origin_of;

const MISSING: [&str; 2] = ["n00000011", "n00000012"];

/// An origin with two classes, and a finished job of these and of two that the origin does not
/// have.
fn half_failed() -> (Origin, Job) {
    let (origin, wnids) = origin_of(2);
    let listed = wnids.iter().map(String::as_str).chain(MISSING);
    let job = Job::new()
        .classes(listed)
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 1, Table::of(2, 0, 2));
    assert_eq!(job.failures().len(), 2);
    (origin, job.args(["--delete-tar", "--retry-failed"]))
}

fn serve(origin: &Origin, wnid: &str) {
    origin.class(wnid, images(wnid, 5, 10_000..20_000, 11));
}

#[test]
fn only_failed_classes_are_requested_and_next_time_only_those_that_failed_again() {
    let (origin, job) = half_failed();
    serve(&origin, MISSING[0]);
    origin.forget_requests();
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(1, 2, 1));
    let message = "trying again the 2 classes that the last run has left failed\n";
    assert!(finished.stderr.contains(message), "{}", finished.stderr);
    let requested: Vec<String> = origin
        .all_requests()
        .into_iter()
        .map(|request| request.wnid)
        .collect();
    assert!(
        requested
            .iter()
            .all(|wnid| MISSING.contains(&wnid.as_str())),
        "{requested:?}"
    );
    // Failures of the run before are not in the log.
    assert_eq!(job.failures().len(), 1, "{:?}", job.failures());
    assert!(job.failure_of(MISSING[1]).starts_with("HTTPError: 404"));

    // A class whose folder was removed counts as missing.
    fs::remove_dir_all(job.class_folder("n00000001")).unwrap();
    serve(&origin, MISSING[1]);
    origin.forget_requests();
    let finished = job.run();
    job.assert_ended(&finished, 0, Table::of(2, 2, 0));
    let message = "1 class that the last run has left complete is not there any more or damaged, \
                   and is part of this job\n";
    assert!(finished.stderr.contains(message), "{}", finished.stderr);
    assert_eq!(
        origin.all_requests().len(),
        2,
        "{:?}",
        origin.all_requests()
    );
    assert_eq!(job.failures(), Vec::<String>::new());

    let nothing = job.run();
    job.assert_ended(&nothing, 0, Table::of(0, 4, 0));
    let message = "nothing to try again: the last run has left every class of the list complete\n";
    assert!(nothing.stderr.contains(message), "{}", nothing.stderr);
    assert_eq!(origin.all_requests().len(), 2);

    // The command without the flag covers the whole list again.
    let job = job.args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(0, 4, 0));
}

#[test]
fn rows_that_the_last_run_did_not_reach_are_reported_and_invalid_rows_count_as_failed() {
    let (origin, job) = half_failed();
    for wnid in MISSING {
        serve(&origin, wnid);
    }
    let job = job.csv_text("wnid\nn00000001\nn00000011\nn00000012\nn00000077\ncat\n");
    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(2, 1, 1));
    let message = "1 class of the list, which the last run did not come to, is not part of this \
                   job; the same command \
                without --retry-failed downloads it\n";
    assert!(finished.stderr.contains(message), "{}", finished.stderr);
    assert!(job.failure_of("cat").starts_with("InvalidWnid: line 6"));
    assert_eq!(origin.requests("n00000077").len(), 0);
    assert_eq!(
        classes(job.target_path()),
        ["n00000001", "n00000002", "n00000011", "n00000012"]
    );
    // No class has failed, but not every class is complete.
    let words = [
        "failed to try again what failed: nothing has, but the last run did not come to 1 class of \
         the list; the same \
         command without --retry-failed downloads it",
    ];
    job.assert_could_not_run(&job.run(), &words);
    // Only the bad row is left.
    let job = job.csv_text("wnid\nn00000001\nn00000011\nn00000012\ncat\n");
    let nothing = job.run();
    job.assert_ended(&nothing, 1, Table::of(0, 3, 1));
    assert!(
        nothing
            .stderr
            .contains("1 row of the list holds no class id: line 5: cat\n"),
        "{}",
        nothing.stderr
    );
    assert!(
        job.failure_of("cat").starts_with("InvalidWnid: line 6"),
        "the log is still that of the last run"
    );
}

#[test]
fn a_retry_of_another_list_does_not_change_the_last_run() {
    let (origin, mut job) = half_failed();
    let failures = job.failures();
    let listed = format!(
        "wnid\nn00000001\nn00000002\n{}\n{}\n",
        MISSING[0], MISSING[1]
    );
    for (list, words) in [
        (
            "wnid\nn00000077\n",
            "was of another list, for it came to no class of this one; run the same command \
             without",
        ),
        (
            "wnid\nn00000001\nn00000077\n",
            "nothing has, but the last run did not come to 1 class of the list; the same",
        ),
    ] {
        let other = job.csv_text(list);
        other.assert_could_not_run(&other.run(), &["failed to try again what failed: ", words]);
        assert_eq!(other.failures(), failures);
        job = other;
    }
    let job = job.csv_text("wnid\nn00000001\nn00000002\n");
    job.assert_ended(&job.run(), 0, Table::of(0, 2, 0));
    assert_eq!(job.failures(), failures);

    let job = job.csv_text(listed);
    serve(&origin, MISSING[0]);
    job.assert_ended(&job.run(), 1, Table::of(1, 2, 1));
}

#[test]
fn an_interrupted_retry_resumes_with_the_same_command() {
    let (origin, job) = half_failed();
    serve(&origin, MISSING[0]);
    serve(&origin, MISSING[1]);
    origin
        .script_of(MISSING[1])
        .expect("the class is served")
        .script([Answer::stall_at(10_000)]);
    for signal in [Signal::KILL, Signal::INT] {
        let mut running = job.start();
        running.wait_until("the first class is complete", |_| {
            job.class_folder(MISSING[0]).exists().then_some(())
        });
        running.wait_until("the second class is in progress", |_| {
            (!origin.gets(MISSING[1]).is_empty()).then_some(())
        });
        running.signal(signal);
        drop(running.wait());
        origin
            .script_of(MISSING[1])
            .expect("the class is served")
            .script([Answer::stall_at(20_000)]);
        origin.forget_requests();
    }
    origin.end_stalls();
    let finished = job.run();
    job.assert_ended(&finished, 0, finished_table(&finished.stdout));
    assert_eq!(classes(job.target_path()).len(), 4);
    assert_eq!(origin.gets("n00000001").len(), 0);
}

/// The kill may come before or after the report of the first class. If before, its folder proves it
/// as part of this run.
#[track_caller]
fn finished_table(stdout: &str) -> Table {
    let table = Table::read(stdout);
    assert_eq!(
        (table.success, table.skipped, table.failed),
        (2, 2, 0),
        "{stdout}"
    );
    table
}

#[test]
fn without_a_last_run_there_is_nothing_to_retry() {
    let (origin, wnids) = origin_of(1);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--retry-failed"]);
    let words = [
        "failed to find the last run in the ledger",
        "there is none; run the same command without --retry-failed",
    ];
    job.assert_could_not_run(&job.run(), &words);
    assert!(
        !job.target_path()
            .join(".imagenet_downloader.ledger")
            .exists()
    );
    assert_eq!(origin.all_requests().len(), 0);
}

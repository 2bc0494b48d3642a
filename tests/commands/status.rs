//! `coordinator status`: progress of the job and its workers, as a table and as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    cluster::{Coordinator, Job, Table},
    fleet::Fleet,
};

use super::{SLOW, ask, command, origin_of, status};

/// Waits until the status meets a condition and returns it.
#[track_caller]
pub(crate) fn status_when(
    job: &Job,
    coordinator: &mut Coordinator,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let address = format!("http://{}", coordinator.address);
    coordinator.running.wait_until(what, |_| {
        let output = command(job, ["status", "--json", "--connect", &address]);
        let status = serde_json::from_str(&output.stdout).ok()?;
        is_so(&status).then_some(status)
    })
}

/// C22: classes are pending and no worker is registered.
#[track_caller]
fn assert_shows_no_worker(job: &Job, coordinator: &Coordinator) {
    let alone = status(job, coordinator);
    assert_eq!(
        (&alone["phase"], &alone["workers"]),
        (&json!("waiting_for_workers"), &json!([]))
    );
    let table = ask(job, coordinator, &["status"]);
    assert!(
        table
            .stdout
            .starts_with("waiting for workers\n8 classes: 0 success, "),
        "{}",
        table.stdout
    );
    assert!(table.stdout.ends_with("\nno workers\n"), "{}", table.stdout);
}

/// Checks the workers in the JSON: `left` and `right`, each busy in two slots.
#[track_caller]
fn assert_active_workers(workers: &Value) {
    let workers = workers.as_array().expect("a list");
    let names: Vec<&Value> = workers.iter().map(|worker| &worker["name"]).collect();
    assert_eq!(names, ["left", "right"]);
    for worker in workers {
        assert_eq!(
            (&worker["state"], &worker["slots"], &worker["leased"]),
            (&json!("active"), &json!(2), &json!(2))
        );
        assert!(
            worker["silent_ms"].as_u64().expect("a number") < 30_000,
            "{worker}"
        );
        assert_eq!(worker["success"], json!(0));
    }
}

/// Checks the table of the same workers.
#[track_caller]
fn assert_table_shows_workers(job: &Job, coordinator: &Coordinator) {
    let table = ask(job, coordinator, &["status"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(
        lines[..2],
        ["running", &format!("{}received", counts(lines[1]))]
    );
    assert!(
        lines[2].starts_with("origin: ") && lines[2].contains(" connections, "),
        "{}",
        lines[2]
    );
    let cells = |line: &str| {
        line.split_whitespace()
            .take(4)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(cells(lines[4]), ["worker", "state", "slots", "leased"]);
    assert_eq!(cells(lines[5]), ["left", "active", "2", "2"]);
    assert_eq!(cells(lines[6]), ["right", "active", "2", "2"]);
    assert!(
        lines[5].ends_with("s ago") && !table.stdout.contains('\u{1b}'),
        "{}",
        table.stdout
    );
}

#[test]
fn two_workers_are_shown_with_their_classes() {
    let (origin, wnids) = origin_of(8);
    origin.limit_rate(SLOW);
    let args = ["--delete-tar"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(args);
    let mut coordinator = job.start_coordinator();

    assert_shows_no_worker(&job, &coordinator);
    let connect = format!("http://{}", coordinator.address);
    let workers =
        ["left", "right"].map(|name| job.start_worker_at(&connect, name, 2, job.target_path()));
    let busy = status_when(&job, &mut coordinator, "both workers are busy", |status| {
        status["leased"] == 4
    });
    assert_eq!(
        (&busy["phase"], &busy["total"], &busy["pending"]),
        (&json!("running"), &json!(8), &json!(4))
    );
    assert_eq!(busy["done"], json!(false));
    assert_active_workers(&busy["workers"]);
    assert_table_shows_workers(&job, &coordinator);

    origin.limit_rate(0);
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(8, 0, 0));
}

/// The line of counts without its last word, which must be `received`.
#[track_caller]
fn counts(line: &str) -> String {
    let begins = "8 classes: 0 success, 0 skipped, 0 failed, 4 leased, 4 pending; ";
    let bytes = line
        .strip_prefix(begins)
        .and_then(|rest| rest.strip_suffix("B received"));
    assert!(
        bytes.is_some_and(|bytes| bytes.starts_with(|digit: char| digit.is_ascii_digit())),
        "{line}"
    );
    line.strip_suffix("received")
        .expect("the suffix was checked")
        .to_owned()
}

#[test]
fn watching_ends_with_the_job() {
    let (origin, wnids) = origin_of(2);
    origin.limit_rate(SLOW);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let address = format!("http://{}", coordinator.address);
    let mut watching = job.start_with(["status", "--watch", "--connect", &address]);
    watching.wait_until("it prints the status for the first time", |running| {
        running
            .stdout()
            .starts_with("waiting for workers\n")
            .then_some(())
    });
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    watching.wait_until("it prints the status again", |running| {
        running.stdout().contains("\nrunning\n").then_some(())
    });
    assert!(
        !watching.stdout().contains('\u{1b}'),
        "an escape code without a terminal"
    );
    origin.limit_rate(0);
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(2, 0, 0));
    let ended = watching.wait();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended
            .stdout
            .contains("\ndone\n2 classes: 2 success, 0 skipped, 0 failed, "),
        "{}",
        ended.stdout
    );
    // The last status may or may not list the worker, but no class is leased any more.
    let (_, last) = ended
        .stdout
        .split_once("\ndone\n")
        .expect("the last status is printed");
    let leased = last
        .lines()
        .skip(3)
        .filter_map(|row| row.split_whitespace().nth(3))
        .collect::<Vec<_>>();
    assert!(leased.iter().all(|leased| *leased == "0"), "{last}");
}

/// `status --watch` reconnects as workers do. If no coordinator answers at the start, it ends with
/// an error message.
#[test]
fn watching_continues_with_the_next_coordinator() {
    let fleet = Fleet::new(12, 2, 6_000..8_000, &[]);
    fleet.origin.limit_rate(SLOW);
    let coordinator = fleet.start_coordinator();
    let worker = fleet.start_worker("w1", 2);
    fleet.wait_for_gets("n00000001", 1, Duration::from_secs(40));
    let url = fleet.url();
    let mut watching = fleet
        .job
        .start_with(["status", "--watch", "--json", "--connect", &url]);
    watching.wait_until("it prints the status for the first time", |it| {
        it.stdout().contains("\"phase\":\"running\"").then_some(())
    });
    coordinator.kill();
    let away = format!("no answer from the coordinator at {url} (");
    watching.wait_until("it prints that no coordinator answers", |it| {
        it.stderr().contains(&away).then_some(())
    });
    let coordinator = fleet.start_coordinator();
    watching.wait_until("it prints the status of the next coordinator", |it| {
        it.stdout().contains("\"epoch\":2").then_some(())
    });
    fleet.origin.limit_rate(0);
    fleet.assert_done(coordinator, [worker], Table::of(12, 0, 0));
    let ended = watching.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
    let last: Value = serde_json::from_str(ended.stdout.lines().last().unwrap_or_default())
        .expect("one object per line");
    assert_eq!(
        (&last["done"], &last["success"]),
        (&json!(true), &json!(12))
    );
}

#[test]
fn an_unreachable_coordinator_is_reported_in_one_message() {
    let job = Job::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("it is bound");
    let address = format!("http://{free}");
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["retry"],
        &["drain", "w1"],
    ] {
        let ended = command(&job, words.iter().copied().chain(["--connect", &address]));
        let reach = format!("failed to reach the coordinator at {address}: ");
        job.assert_could_not_run(&ended, &[&reach, "Connection refused", "with --connect"]);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    let wrong = command(&job, ["status", "--connect", "somewhere"]);
    job.assert_could_not_run(&wrong, &["it is no address like http://127.0.0.1:50051"]);
}

//! Complete jobs on one host: the files, the output, and a second run of the same command.

mod broken_disk;
mod damaged_folders;
mod dry_run;
mod existing_folders;
mod few_resources;
mod interrupted;
mod library;
mod local_tars;
mod many_classes;
mod odd_classes;
mod on_terminal;
mod other_jobs;
mod output;
mod second_signal;
mod stopped_worker;
mod time_left;
mod two_programs;

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    folders::{classes, longest_file, staging, tars},
    log::{assert_lines, has_line},
    origin::Origin,
    wait::wait_for,
};

const MISSING: &str = "n99999999";

fn flaky(number: u64) -> Vec<Answer> {
    match number {
        1 => vec![Answer::status(500), Answer::status(502)],
        2 => vec![Answer::status(503), Answer::cut_at(0)],
        3 => vec![Answer::status(504), Answer::cut_at(700)],
        4 => vec![Answer::too_many_requests(1)],
        5 => vec![
            Answer::cut_at(5000),
            Answer::cut_at(20_000),
            Answer::reset_at(1),
        ],
        6 => vec![Answer::reset_at(30_000)],
        7 => vec![
            Answer::cut_at(512),
            Answer::cut_at(512),
            Answer::cut_at(512),
        ],
        8 => vec![Answer::plain().hanging_up()],
        9 => vec![Answer::plain().without_length()],
        10 => vec![Answer::plain().chunked()],
        _ => vec![],
    }
}

#[test]
fn a_flaky_origin_loses_no_class_and_a_second_run_has_nothing_to_do() {
    let origin = Origin::start();
    let tars: Vec<(String, Vec<u8>)> = (1..=12)
        .map(|n| {
            (
                format!("n{n:08}"),
                images(&format!("n{n:08}"), 8, 1000..20_000, n),
            )
        })
        .collect();
    for (number, (wnid, tar)) in (1..).zip(&tars) {
        origin.class(wnid, tar.clone()).script(flaky(number));
    }
    let wnids: Vec<&str> = tars.iter().map(|(wnid, _)| wnid.as_str()).collect();
    let args = ["--delete-tar", "--workers", "4"];
    let job = Job::new()
        .classes(wnids.iter().copied().chain([MISSING]))
        .origin(&origin)
        .args(args);

    let finished = job.run();
    job.assert_ended(&finished, 1, Table::of(12, 0, 1));
    let failures = job.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(
        failures[0].starts_with("n99999999 - HTTPError: 404 Client Error"),
        "{failures:?}"
    );
    assert_eq!(origin.gets(MISSING).len(), 1);
    assert_eq!(classes(job.target_path()), wnids);
    for (wnid, tar) in &tars {
        assert_class_is(tar, &job.class_folder(wnid));
        assert!(job.class_folder(wnid).join(".manifest.json").is_file());
    }
    let log = job.log();
    assert!(
        has_line(&log, &["n00000001"]),
        "the detailed log names the class: {log}"
    );
    assert_lines(&log, 0, &["\u{1b}"]);

    origin.forget_requests();
    let job = job.classes(wnids);
    job.assert_ended(&job.run(), 0, Table::of(0, 12, 0));
    assert_eq!(job.failures(), Vec::<String>::new());
    assert_eq!(
        origin.all_requests().len(),
        0,
        "{:#?}",
        origin.all_requests()
    );
}

#[test]
fn failed_classes_are_retried_by_the_same_command() {
    let origin = Origin::start();
    let tar = images("n00000001", 3, 100..2000, 1);
    let job = Job::new().classes(["n00000001"]).origin(&origin);
    job.assert_ended(&job.run(), 1, Table::of(0, 0, 1));
    origin.class("n00000001", tar.clone());
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder("n00000001"));
    assert_eq!(job.failures(), Vec::<String>::new());
}

#[test]
fn the_kept_tar_equals_the_origins() {
    let origin = Origin::start();
    let tar = images("n00000001", 8, 1000..20_000, 1);
    origin
        .class("n00000001", tar.clone())
        .script([Answer::cut_at(30_001), Answer::cut_at(5000)]);
    let job = Job::new().classes(["n00000001"]).origin(&origin);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder("n00000001"));
    assert!(
        std::fs::read(job.target_path().join("n00000001.tar")).unwrap() == tar,
        "the tar differs from the origin's"
    );
}

#[test]
fn with_delete_tar_no_tar_is_written() {
    let origin = Origin::start();
    let tar = images("n00000001", 60, 10_000..20_000, 1);
    origin.class("n00000001", tar.clone());
    origin.limit_rate(1_000_000);
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .args(["--delete-tar"]);
    let mut running = job.start();
    wait_for("the job ends", Duration::from_mins(1), || {
        let longest = longest_file(&staging(job.target_path()));
        assert!(
            longest.as_ref().is_none_or(|(length, _)| *length <= 20_000),
            "larger than any image: {longest:?}"
        );
        assert_eq!(tars(job.target_path()), Vec::<std::path::PathBuf>::new());
        !running.is_running()
    });
    job.assert_ended(&running.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder("n00000001"));
}

#[test]
fn jobs_on_one_machine_do_not_interfere() {
    let origin = Origin::start();
    origin.class("n00000001", images("n00000001", 20, 10_000..20_000, 1));
    origin.limit_rate(200_000);
    let jobs = [(); 3].map(|()| Job::new().classes(["n00000001"]).origin(&origin));
    let running = jobs.each_ref().map(Job::start);
    for (job, running) in jobs.iter().zip(running) {
        job.assert_ended(&running.wait(), 0, Table::of(1, 0, 0));
    }
}

#[test]
fn no_more_downloads_run_at_once_than_workers_are_asked_for() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=9).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 4, 10_000..20_000, 1));
    }
    origin.limit_rate(200_000);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--workers", "3"]);
    job.assert_ended(&job.run(), 0, Table::of(9, 0, 0));
    assert!(
        (2..=3).contains(&origin.most_transfers()),
        "{} at once",
        origin.most_transfers()
    );
}

#[test]
fn the_demo_shows_success_and_failure_without_a_network() {
    let job = Job::new();
    let target = job.target_path().to_str().expect("a plain path").to_owned();
    let finished = job.start_with(["--demo", "--target", &target]).wait();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let table = Table::read(&finished.stdout);
    assert_eq!(table, Table::of(table.success, table.skipped, table.failed));
    assert!(table.success > 0 && table.failed > 0, "{table:?}");
    assert_eq!(
        classes(job.target_path()).len() as u64,
        table.success + table.skipped
    );
    assert_eq!(job.failures().len() as u64, table.failed);
}

//! Output errors do not affect a job: whatever happens to the terminal, a pipe or a log, all
//! classes are complete and the exit code is correct.

use std::{process::Command, time::Duration};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    folders::{assert_no_partial, classes},
    log::{assert_lines, has_line},
    origin::Origin,
    programs::program,
    running::Finished,
    terminal::on_terminal,
};

const WNIDS: [&str; 3] = ["n00000001", "n00000002", "n00000003"];
const MISSING: &str = "n99999999";
/// The last class is missing, so that its warning is written after the terminal is gone.
const ALL: [&str; 4] = [WNIDS[0], WNIDS[1], WNIDS[2], MISSING];

fn tar(wnid: &str) -> Vec<u8> {
    images(wnid, 8, 5000..20_000, 1)
}

fn origin() -> Origin {
    let origin = Origin::start();
    for wnid in WNIDS {
        origin.class(wnid, tar(wnid));
    }
    origin
}

fn job(origin: &Origin) -> Job {
    let args = ["--delete-tar", "--workers", "1", "--durability", "process"];
    Job::new()
        .classes(ALL)
        .origin(origin)
        .args(args)
        .deadline(Duration::from_mins(1))
}

/// Panics unless three classes are complete, the fourth is in the failure log, and nothing
/// panicked.
#[track_caller]
fn assert_done(job: &Job, finished: &Finished) {
    assert_eq!(finished.code, Some(1), "{}\n{}", finished.stderr, job.log());
    assert_lines(&job.log(), 0, &["panicked"]);
    assert_eq!(classes(job.target_path()), WNIDS);
    for wnid in WNIDS {
        assert_class_is(&tar(wnid), &job.class_folder(wnid));
    }
    assert!(job.failure_of(MISSING).starts_with("HTTPError: 404"));
    assert_no_partial(job.target_path());
}

#[test]
fn a_terminal_that_vanishes_changes_nothing() {
    for mode in ["gone", "gone-both"] {
        let origin = origin();
        let job = job(&origin).under(on_terminal(mode).each_ref().map(String::as_str));
        let finished = job.run();
        assert_done(&job, &finished);
        let table = if mode == "gone" {
            Table::of(3, 0, 1).text()
        } else {
            String::new()
        };
        assert_eq!(finished.stdout, table);
    }
}

#[test]
fn a_terminal_shows_bars_and_log_lines_above_them() {
    let origin = origin();
    // Longer than the interval between two frames.
    origin.limit_rate(100_000);
    let job = job(&origin).under(on_terminal("read").each_ref().map(String::as_str));
    let finished = job.run();
    assert_done(&job, &finished);
    let stderr = &finished.stderr;
    assert!(
        stderr.contains("[00] n00000001: ")
            && stderr.contains("WARN n99999999 failed: HTTPError: 404"),
        "{stderr}"
    );
}

/// More output than a terminal buffers: lines of downloads, and every failure.
#[test]
fn a_terminal_that_does_not_accept_output_does_not_block_the_job() {
    let origin = Origin::start();
    let missing: Vec<String> = (1..=400).map(|number| format!("n{number:08}")).collect();
    for (status, wnid) in (430..450).cycle().zip(&missing) {
        origin
            .class(wnid, Vec::new())
            .forever(Answer::status(status));
    }
    // Each fifth one is there, so the origin does not refuse every class and the job goes on.
    for wnid in missing.iter().step_by(5) {
        origin.class(wnid, tar(wnid)).forever(Answer::plain());
    }
    let job = Job::new()
        .classes(missing.iter().map(String::as_str))
        .origin(&origin);
    let job = job
        .args(["--delete-tar", "--workers", "4"])
        .deadline(Duration::from_mins(1));
    let job = job.under(on_terminal("stopped").each_ref().map(String::as_str));
    let finished = job.run();
    assert_eq!(
        (finished.code, finished.stdout),
        (Some(1), Table::of(80, 0, 320).text())
    );
    assert_eq!(job.failures().len(), 320);
}

#[test]
fn output_that_cannot_be_written_changes_nothing() {
    for (redirection, summary) in [
        (
            r#"exec "$@" >/dev/full 2>/dev/full"#,
            "failed to write the summary",
        ),
        (r#"exec "$@" >&- 2>&- <&-"#, ""),
        (r#"set -o pipefail; "$@" 2>&1 | true"#, ""),
    ] {
        let origin = origin();
        let job = job(&origin).under(["bash", "-c", redirection, "bash"]);
        let finished = job.run();
        assert_done(&job, &finished);
        assert!(
            finished.stdout.is_empty() && finished.stderr.is_empty(),
            "{finished:?}"
        );
        assert!(has_line(&job.log(), &[summary]), "{}", job.log());
        // If a file had been opened as descriptor 1 or 2, the output would be in it.
        let ledger = std::fs::read(job.target_path().join(".imagenet_downloader.ledger")).unwrap();
        assert!(ledger.starts_with(b"SQLite format 3\0"));
    }
}

#[test]
fn a_log_that_cannot_be_written_is_reported_once() {
    let origin = origin();
    let job = job(&origin);
    std::os::unix::fs::symlink(
        "/dev/full",
        job.target_path().join("imagenet_downloader.log"),
    )
    .unwrap();
    let finished = job.run();
    assert_eq!(
        (finished.code, &finished.stdout),
        (Some(1), &Table::of(3, 0, 1).text())
    );
    assert_eq!(
        finished
            .stderr
            .matches("the detailed log cannot be written")
            .count(),
        1,
        "{}",
        finished.stderr
    );
    assert_eq!(classes(job.target_path()), WNIDS);
}

/// The path of the failure log is a folder while the first class fails, and becomes writable before
/// the second one fails.
#[test]
fn a_failure_log_that_cannot_be_written_for_a_while_is_complete_at_the_end() {
    let origin = origin();
    origin
        .class(WNIDS[2], tar(WNIDS[2]))
        .script([Answer::stall_at(1000)]);
    let args = [
        "--delete-tar",
        "--workers",
        "2",
        "--retries",
        "0",
        "--timeout",
        "1h",
    ];
    let job = Job::new()
        .classes([MISSING, WNIDS[2]])
        .origin(&origin)
        .args(args)
        .deadline(Duration::from_mins(1));
    let path = job.target_path().join("failed_downloads.log");
    origin
        .class(MISSING, tar(MISSING))
        .script([Answer::stall_at(1000)]);
    let mut running = job.start();
    running.wait_until("both classes were requested", |_| {
        (origin.all_requests().len() == 2).then_some(())
    });
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    origin.end_stalls();
    let message = "failed_downloads.log: Is a directory";
    running.wait_until("the error is logged", |running| {
        running.stderr().contains(message).then_some(())
    });
    std::fs::remove_dir(&path).unwrap();
    let finished = running.wait();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert_eq!(
        finished.stderr.matches(message).count(),
        1,
        "{}",
        finished.stderr
    );
    assert_eq!(job.failures().len(), 2, "{:?}", job.failures());
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
    let job = Job::new();
    for name in ["coordinator", "worker"] {
        for (arguments, redirection, code, stderr) in [
            ("--help", "| true", 0, ""),
            ("completions bash", "| true", 0, ""),
            (
                "--help",
                ">/dev/full",
                2,
                "error: failed to write to standard output: No space left on device",
            ),
            (
                "completions bash",
                ">/dev/full",
                2,
                "error: failed to write to standard output: No space left on device",
            ),
            ("--no-such-flag", "2>/dev/full", 2, ""),
        ] {
            let mut command = Command::new("bash");
            command
                .args([
                    "-c",
                    &format!(r#"set -o pipefail; "$0" {arguments} {redirection}"#),
                ])
                .arg(program(name));
            let finished = job.start_program(command).wait();
            assert_eq!(
                finished.code,
                Some(code),
                "{name} {arguments} {redirection}: {}",
                finished.stderr
            );
            assert!(finished.stderr.starts_with(stderr), "{}", finished.stderr);
        }
    }
}

#[test]
fn the_debug_level_covers_these_programs_and_libraries_only_if_named() {
    let origin = origin();
    for (asked, has_frames) in [("debug", false), ("debug,h2=debug", true)] {
        let job = job(&origin).variable("RUST_LOG", asked);
        job.assert_ended(&job.run(), 1, Table::of(3, 0, 1));
        let log = job.log();
        assert!(has_line(&log, &[" DEBUG "]), "{asked}: {log}");
        assert_eq!(has_line(&log, &[" h2::"]), has_frames, "{asked}");
        for library in ["hyper", "rustls"] {
            assert_lines(&log, 0, &[&format!(" DEBUG {library}")]);
        }
    }
}

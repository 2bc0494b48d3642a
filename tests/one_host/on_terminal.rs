//! What a person sees on a terminal: a line for each download, or what it waits for; log lines
//! above them; and nothing of it at the end. And what a person or a program reads without one.

use std::time::Duration;

use serde_json::Value;
use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
    running::{Finished, Signal},
    terminal::{Shown, on_terminal},
};

const WNIDS: [&str; 4] = ["n00000001", "n00000002", "n00000003", "n00000004"];
const MISSING: [&str; 3] = ["n90000001", "n90000002", "n90000003"];

fn tar(wnid: &str) -> Vec<u8> {
    images(wnid, 8, 20_000..40_000, 1)
}

fn origin() -> Origin {
    let origin = Origin::start();
    for wnid in WNIDS {
        origin.class(wnid, tar(wnid));
    }
    origin
}

fn job(origin: &Origin) -> Job {
    let args = ["--delete-tar", "--workers", "4", "--durability", "process"];
    Job::new()
        .classes(WNIDS)
        .origin(origin)
        .args(args)
        .deadline(Duration::from_mins(1))
}

#[track_caller]
fn assert_finished(finished: &Finished, code: i32, table: Table) {
    let found = (finished.code, &finished.stdout);
    assert_eq!(found, (Some(code), &table.text()), "{}", finished.stderr);
}

fn recorded(job: Job) -> Job {
    job.under(on_terminal("record").each_ref().map(String::as_str))
}

#[test]
fn a_slot_that_waits_for_a_connection_says_which_limit() {
    let origin = Origin::start();
    for wnid in WNIDS {
        let stalls = origin.class(wnid, tar(wnid));
        stalls.script([Answer::stall_at(30_000)]);
    }
    let args = ["--max-connections", "2", "--timeout", "1h"];
    let job = recorded(job(&origin).args(args));
    let mut running = job.start();
    let shown = running.wait_until("two slots receive and two wait", |running| {
        let shown = Shown::after(&running.stderr());
        let waiting = shown.rows_with(&["] n0000000", ": waiting [", ": limit of 2 connections"]);
        let receiving = shown.rows_with(&["] n0000000", "%|", "30.0k/"]);
        (waiting.len() == 2 && receiving.len() == 2).then_some(shown)
    });
    let last = shown.rows.last().unwrap();
    assert!(last.starts_with("0 done, of 4 classes, "), "{shown:#?}");
    assert_eq!(shown.cursor, (shown.rows.len(), 0), "below the block");
    origin.end_stalls();
    let finished = running.wait();
    assert_finished(&finished, 0, Table::of(4, 0, 0));
    Shown::after(&finished.stderr).assert_left_clean();
}

#[test]
fn a_slot_that_the_origin_asked_to_wait_says_for_how_long() {
    let origin = origin();
    let script = origin.script_of(WNIDS[0]).unwrap();
    script.script([Answer::too_many_requests(3)]);
    let job = recorded(job(&origin).classes([WNIDS[0]]).args(["--workers", "1"]));
    let mut running = job.start();
    running.wait_until("the slot says it", |running| {
        let shown = Shown::after(&running.stderr());
        let words = [
            "[00] n00000001: waiting [",
            ": origin asked for 3 s, ",
            " s left",
        ];
        (!shown.rows_with(&words).is_empty()).then_some(())
    });
    assert_finished(&running.wait(), 0, Table::of(1, 0, 0));
}

/// Log lines and frames alternate, and the terminal becomes too small for the block.
#[test]
fn log_lines_and_a_smaller_terminal_leave_no_rest_of_the_block() {
    let origin = origin();
    for wnid in WNIDS {
        let stalls = origin.script_of(wnid).unwrap();
        stalls.script([Answer::stall_at(30_000)]);
    }
    // One log line for each: causes that are the same are counted instead.
    for (wnid, code) in MISSING.into_iter().zip(404..) {
        let missing = origin.class(wnid, tar(wnid));
        missing.forever(Answer::status(code));
    }
    let all = MISSING.into_iter().chain(WNIDS);
    let args = [
        "--workers",
        "7",
        "--timeout",
        "1h",
        "--max-connections",
        "7",
    ];
    let job = recorded(job(&origin).classes(all).args(args));
    let mut running = job.start();
    let shown = running.wait_until(
        "classes failed, and the others are shown below",
        |running| {
            let shown = Shown::after(&running.stderr());
            let slots = shown.rows_with(&["30.0k/"]).len();
            let failed = shown.rows_with(&[" failed: HTTPError: 40"]).len();
            (slots == 4 && failed == 3).then_some(shown)
        },
    );
    for wnid in MISSING {
        let line = format!("WARN {wnid} failed: HTTPError: 40");
        assert_eq!(shown.rows_with(&[&line]).len(), 1, "{shown:#?}");
    }
    assert_eq!(shown.rows.len(), shown.cursor.0);
    running.signal(Signal::USR1);
    let small = running.wait_until("the block is drawn for the new size", |running| {
        let text = running.stderr();
        let shown = Shown::after(&text);
        let job_line = shown.rows.last()?;
        (text.contains("resized") && job_line.ends_with('…')).then_some(shown)
    });
    assert!(small.rows.len() < 8, "{small:#?}");
    assert!(small.rows_with(&["classes"]).len() == 1, "{small:#?}");
    for row in &small.rows {
        assert!(row.chars().count() < 40, "{small:#?}");
    }
    running.signal(Signal::INT);
    let finished = running.wait();
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    let shown = Shown::after(&finished.stderr);
    assert!(!shown.is_changed && shown.cursor.1 == 0, "{shown:#?}");
    assert_eq!(shown.rows_with(&["B/s"]), [""; 0], "{shown:#?}");
    assert_eq!(shown.rows_with(&["waiting"]), [""; 0], "{shown:#?}");
}

#[test]
fn colours_are_used_unless_the_environment_forbids_them() {
    const FAINT: &str = "\u{1b}[2m";
    for (value, has_colors) in [("", true), ("1", false)] {
        let origin = origin();
        let script = origin.script_of(WNIDS[0]).unwrap();
        script.script([Answer::too_many_requests(1)]);
        let job = recorded(job(&origin).variable("NO_COLOR", value));
        let finished = job.run();
        assert_finished(&finished, 0, Table::of(4, 0, 0));
        let stderr = &finished.stderr;
        assert!(stderr.contains("waiting ["), "{stderr:?}");
        assert_eq!(stderr.contains(FAINT), has_colors, "{stderr:?}");
    }
}

#[test]
fn quiet_leaves_warnings_and_errors_also_on_a_terminal() {
    for on_a_terminal in [false, true] {
        let origin = origin();
        origin.limit_rate(35_000);
        let all = WNIDS.into_iter().chain([MISSING[0]]);
        let mut job = job(&origin).classes(all).args(["--quiet"]);
        if on_a_terminal {
            job = recorded(job);
        }
        let finished = job.run();
        job.assert_ended(&finished, 1, Table::of(4, 0, 1));
        let stderr = &finished.stderr;
        assert!(
            stderr.starts_with(" WARN n90000001 failed: HTTPError: 404"),
            "{stderr}"
        );
        assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
        for word in ["metrics at", " done, ", "B/s"] {
            assert!(!stderr.contains(word), "{word}: {stderr}");
        }
        assert!(job.log().contains("starting"), "the log is whole");
    }
    let wrong = Job::new()
        .start_with(["--quiet", "--fname", "no.csv"])
        .wait();
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.starts_with("error: failed to "), "{wrong:?}");
}

/// Each line of a text as JSON, with the keys that all have.
#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    let object = |line: &str| -> Value {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(object[key].is_string(), "no {key}: {line}");
        }
        let time = object["timestamp"].as_str().expect("checked above");
        humantime::parse_rfc3339(time).unwrap_or_else(|_| panic!("no time: {line}"));
        object
    };
    text.lines().map(object).collect()
}

#[test]
fn with_json_each_line_is_an_object_also_on_a_terminal() {
    for on_a_terminal in [false, true] {
        let origin = origin();
        // More than one plain line of progress.
        origin.limit_rate(35_000);
        let all = WNIDS.into_iter().chain([MISSING[0]]);
        let mut job = job(&origin).classes(all).args(["--log-format", "json"]);
        if on_a_terminal {
            job = recorded(job);
        }
        let finished = job.run();
        job.assert_ended(&finished, 1, Table::of(4, 0, 1));
        assert!(!finished.stderr.contains('\u{1b}'), "{}", finished.stderr);
        let lines = objects(&finished.stderr);
        let has = |level: &str, words: &str| {
            lines.iter().any(|line| {
                line["level"] == level && line["message"].as_str().unwrap().contains(words)
            })
        };
        assert!(has("INFO", "health and metrics at http://"), "{lines:#?}");
        assert!(has("INFO", ", of 5 classes, "), "{lines:#?}");
        assert!(
            has("WARN", "n90000001 failed: HTTPError: 404"),
            "{lines:#?}"
        );
        let log = objects(&job.log());
        let starting = log.iter().find(|line| line["message"] == "starting");
        assert_eq!(starting.unwrap()["classes"], 5, "fields are keys");
    }
    let wrong = ["--log-format", "json", "--fname", "no.csv"];
    let wrong = Job::new().start_with(wrong).wait();
    assert_eq!(wrong.code, Some(2));
    let error = &objects(&wrong.stderr)[0];
    assert_eq!(error["level"], "ERROR", "{error}");
}

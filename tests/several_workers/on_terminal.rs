//! What a coordinator and a worker show on a terminal: the fleet, the worst worker first, and the
//! downloads of one worker.

use std::{process::Command, time::Duration};

use tests::{
    answer::Answer,
    archives::images,
    cluster::{Job, Table},
    origin::Origin,
    programs::program,
    running::{Running, Signal},
    terminal::{Shown, on_terminal},
};

const WNIDS: [&str; 4] = ["n00000001", "n00000002", "n00000003", "n00000004"];

/// The origin sends the beginning of each class, and the rest when the test allows it.
fn origin() -> Origin {
    let origin = Origin::start();
    for wnid in WNIDS {
        let class = origin.class(wnid, images(wnid, 8, 20_000..40_000, 1));
        class.script([Answer::stall_at(30_000)]);
    }
    origin
}

fn job(origin: &Origin) -> Job {
    let args = ["--delete-tar", "--timeout", "1h", "--lease-ttl", "3s"];
    Job::new()
        .classes(WNIDS)
        .origin(origin)
        .args(args)
        .deadline(Duration::from_mins(2))
}

#[test]
fn a_coordinator_shows_each_worker_and_the_silent_and_the_lost_one_first() {
    let origin = origin();
    let job = job(&origin).args(["--max-connections", "4"]);
    let job = job.under(on_terminal("record").each_ref().map(String::as_str));
    let mut coordinator = job.start_coordinator();
    coordinator
        .running
        .wait_until("it says that it has no worker", |running| {
            let shown = Shown::after(&running.stderr());
            let row = shown.rows_with(&["waiting for workers; origin: 0 of at most 4"]);
            (!row.is_empty()).then_some(())
        });
    let url = format!("http://{}", coordinator.address);
    let worker = |name| job.start_worker_at(&url, name, 2, job.target_path());
    let [first, second] = ["worker1", "worker2"].map(worker);
    // The row of a worker, and those above it.
    let wait_for_row = |running: &mut Running, words: &[&str], above: usize| {
        running.wait_until(&format!("a row has {words:?}"), |running| {
            let rows = Shown::after(&running.stderr()).rows;
            let header = rows.iter().position(|row| row.starts_with("worker  "))?;
            let row = &rows[header + 1 + above];
            words.iter().all(|word| row.contains(word)).then_some(())
        });
    };
    let running = &mut coordinator.running;
    wait_for_row(running, &["worker1", " active ", " 2/2 "], 0);
    wait_for_row(running, &["worker2", " active ", " 2/2 "], 1);
    let shown = Shown::after(&running.stderr());
    let last = shown.rows.last().expect("the block is there");
    assert!(last.starts_with("0 done, of 4 classes, "), "{shown:#?}");
    assert_eq!(shown.cursor, (shown.rows.len(), 0), "below the block");

    second.signal(Signal::STOP);
    wait_for_row(running, &["worker2", " silent 00:0"], 0);
    wait_for_row(running, &["worker1", " active "], 1);
    second.kill();
    wait_for_row(running, &["worker2", " lost 00:"], 0);
    origin.end_stalls();
    assert_eq!(first.wait().code, Some(0));
    let finished = coordinator.running.wait();
    assert_eq!(finished.stdout, Table::of(4, 0, 0).text());
    Shown::after(&finished.stderr).assert_left_clean();
}

#[test]
fn a_worker_shows_its_downloads_and_what_they_wait_for() {
    let origin = origin();
    let job = job(&origin).args(["--max-connections", "1"]);
    let coordinator = job.start_coordinator();
    let mut command = Command::new("python3");
    command.args(&on_terminal("record")[1..]);
    let url = format!("http://{}", coordinator.address);
    command.arg(program("worker"));
    command.args(["--connect", &url, "--name", "worker1", "--workers", "2"]);
    let mut worker = job.start_program(command);
    worker.wait_until("one slot receives and one waits", |worker| {
        let shown = Shown::after(&worker.stderr());
        let receiving = shown.rows_with(&["] n0000000", "%|", "30.0k/"]);
        let waiting = shown.rows_with(&["] n0000000", ": waiting [", ": limit of 1 connection"]);
        (receiving.len() == 1 && waiting.len() == 1).then_some(())
    });
    origin.end_stalls();
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    Shown::after(&finished.stderr).assert_left_clean();
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(4, 0, 0));
}

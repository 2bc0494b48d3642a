//! A worker does not trust its coordinator. With any answers from the coordinator, the worker does
//! not spin, panic or use unbounded memory, and prints no control characters.

mod cases;

use std::{fs, thread, time::Duration};

use Expected::{Continues, Ends};
use cases::{Expected, FalseAnswer};

use tests::{archives::images, cluster::Job, memory, origin::Origin, wait::wait_until};

use crate::{
    answer_changes::{AnswerChanges, CONTROL_CHARACTERS},
    scripted_coordinator::{ScriptedCoordinator, WNID, lease, start_worker},
};

/// Time for which the worker is measured with each false answer.
const MEASURED: Duration = Duration::from_millis(1500);
/// Maximum number of calls of all kinds in that time: ten renewals and ten `Acquire` calls per
/// second, and some more.
const MAX_CALLS: usize = 60;
/// Maximum CPU time of a debug build that decodes 1 MB in each answer.
const MAX_CPU: Duration = Duration::from_millis(1200);
/// Maximum peak memory, in bytes.
const MAX_MEMORY: u64 = 128 << 20;

/// CPU time and peak memory of a process; `None` after its end.
fn cost(process: u32) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<u64> = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .skip(11)
        .take(2)
        .map_while(|field| field.parse().ok())
        .collect();
    let peak = memory::of(process).ok()?.peak;
    // `USER_HZ` is 100 per second on Linux. A process that has ended has no memory.
    (peak > 0).then(|| (Duration::from_millis(fields.iter().sum::<u64>() * 10), peak))
}

fn calls(coordinator: &ScriptedCoordinator) -> usize {
    let calls = coordinator.calls();
    calls.registrations.len() + calls.renewals + calls.acquires + calls.reports.len()
}

/// Panics if the text contains characters that a terminal interprets.
#[track_caller]
fn assert_printable(what: &str, text: &str) {
    let plain =
        |character: char| character == ' ' || character == '\n' || character.is_ascii_graphic();
    let is_interpreted =
        |character: &char| CONTROL_CHARACTERS.contains(*character) && !plain(*character);
    let found: Vec<char> = text.chars().filter(is_interpreted).collect();
    assert!(found.is_empty(), "{what}: {found:?} in {text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("INFO forged")),
        "{what}: {text}"
    );
}

/// Measures a worker for this time. The error has the figures if one of them exceeds its limit.
fn measure(process: u32, coordinator: &ScriptedCoordinator, time: Duration) -> Result<(), String> {
    let before = cost(process);
    let made = calls(coordinator);
    // This sleep is the measured period; it does not wait for an event.
    thread::sleep(time);
    let after = cost(process);
    let made = calls(coordinator) - made;
    if let (Some((cpu, _)), Some((later, peak))) = (before, after) {
        let busy = later.saturating_sub(cpu);
        if busy > MAX_CPU || made > MAX_CALLS || peak > MAX_MEMORY {
            return Err(format!("{busy:?} busy, {made} calls, {} MiB", peak >> 20));
        }
    }
    Ok(())
}

/// Runs one worker with a false answer. The error lists the limits and expectations it violated.
fn try_false_answer(answer: &FalseAnswer) -> Result<(), String> {
    let what = answer.what;
    let origin = Origin::start();
    origin.class(WNID, images(WNID, 10, 8000..12_000, 1));
    // Slow enough that the class is in progress for the whole measurement.
    origin.limit_rate(5000);
    let job = Job::new();
    let coordinator = ScriptedCoordinator::start(&origin);
    coordinator.answers().leases = vec![lease(WNID, 5)];
    coordinator.answers().changes = answer.changes.clone();
    coordinator.answers().budget_stream = answer.budget_stream;
    let mut worker = start_worker(&job, &coordinator, job.target_path());
    let ends = matches!(answer.expected, Ends(_));
    if ends {
        wait_until(Duration::from_secs(30), || {
            (!worker.is_running() || calls(&coordinator) > 1).then_some(())
        });
    }
    wait_until(Duration::from_secs(30), || {
        (!coordinator.calls().registrations.is_empty()).then_some(())
    });
    let time = if ends { Duration::ZERO } else { MEASURED };
    let mut wrong = Vec::from_iter(measure(worker.id(), &coordinator, time).err());
    coordinator.answers().changes = AnswerChanges::default();
    coordinator.answers().job_done = true;
    let finished = worker.wait();
    let code = match answer.expected {
        Continues => 0,
        Ends(_) => 2,
    };
    if finished.code != Some(code) || finished.stderr.contains("panicked") {
        wrong.push(format!("code {:?}: {}", finished.code, finished.stderr));
    }
    if let Ends(words) = answer.expected
        && (!finished.stderr.contains(words) || finished.stderr.len() > 4000)
    {
        wrong.push(format!("no {words:?} in {}", finished.stderr));
    }
    assert_printable(what, &finished.stderr);
    let log = job.log_of("w");
    assert_printable(what, &log);
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{what}: {}", wrong.join("; ")))
    }
}

/// Runs one worker for each false answer, six at a time. Prints the number of answers and of
/// workers that passed.
#[track_caller]
#[expect(
    clippy::print_stdout,
    reason = "figures for the reader of the test output"
)]
fn try_all(kind: &str, answers: &[FalseAnswer]) {
    let mut wrong = Vec::new();
    for some in answers.chunks(6) {
        let results: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|answer| scope.spawn(move || try_false_answer(answer)))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("panicked".to_owned())))
                .collect()
        });
        wrong.extend(results.into_iter().filter_map(Result::err));
    }
    println!(
        "{kind}: {} false answers tried, {} passed",
        answers.len(),
        answers.len() - wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn false_session_data_does_not_make_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("session", &cases::session_data());
}

#[test]
fn false_job_options_do_not_make_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("job", &cases::job_options());
}

#[test]
fn false_answers_do_not_make_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("answers", &cases::replies());
}

#[test]
fn no_budget_makes_a_worker_spin_panic_or_use_unbounded_memory() {
    try_all("budgets", &cases::budgets());
}

#[test]
fn commands_print_no_terminal_control_characters_from_a_coordinator() {
    let job = Job::new();
    let coordinator = ScriptedCoordinator::start(&Origin::start());
    let url = coordinator.url();
    let mut tried = 0;
    for (words, code) in [
        (&["status"][..], 0),
        (&["status", "--json"], 0),
        (&["retry"], 2),
        (&["retry", WNID], 2),
        (&["drain", "w"], 2),
        (&["resume"], 2),
    ] {
        let finished = job
            .start_with(words.iter().copied().chain(["--connect", &url]))
            .wait();
        assert_eq!(
            finished.code,
            Some(code),
            "{words:?}: {} {}",
            finished.stdout,
            finished.stderr
        );
        for text in [&finished.stdout, &finished.stderr] {
            assert_printable(&format!("{words:?}"), text);
        }
        let text = if code == 0 {
            &finished.stdout
        } else {
            &finished.stderr
        };
        assert!(
            text.contains("u{1b}[2J"),
            "{words:?} prints the text of the coordinator escaped: {text}"
        );
        tried += 1;
    }
    println!("commands: {tried} tried, {tried} passed");
}

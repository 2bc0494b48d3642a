//! The fleet as lines for the coordinator's terminal: the worst workers first, as many as fit, and
//! the state of the origin. Pure: the time and the size of the terminal are passed in.

use std::{cmp::Reverse, time::SystemTime};

use comfy_table::{CellAlignment, Table, presets};
use shared::{
    job_line::clock,
    terminal::{Emphasis, Line, Size, fitted, width},
};

use crate::{
    fleet::{Fleet, Phase, WorkerState, WorkerView, in_words},
    wording::{bytes, counted},
};

/// `there`: success plus skipped.
const COLUMNS: [&str; 8] = [
    "worker",
    "state",
    "leased",
    "there",
    "failed",
    "rate",
    "received",
    "waits for",
];
/// Names are not truncated to fewer cells.
const MIN_NAME_WIDTH: usize = 8;
/// With fewer rows there is no header.
const MIN_ROWS_WITH_HEADER: usize = 4;

/// The lines, at most `room.rows`. Workers that do not fit are counted by state in one line.
pub(crate) fn lines(fleet: &Fleet, now: SystemTime, room: Size) -> Vec<Line> {
    let mut lines = workers(fleet, now, room);
    lines.push(origin(fleet));
    let excess = lines.len().saturating_sub(room.rows);
    lines.drain(..excess);
    lines
}

/// The line above the job's: the phase, if it is not the usual one, and the origin.
fn origin(fleet: &Fleet) -> Line {
    let origin = in_words(&fleet.origin);
    match fleet.phase {
        Phase::Running => Line::plain(origin),
        phase => Line::emphasized(
            format!("{}; {origin}", phase.in_words()),
            Emphasis::Attention,
        ),
    }
}

fn workers(fleet: &Fleet, now: SystemTime, room: Size) -> Vec<Line> {
    let header = usize::from(room.rows >= MIN_ROWS_WITH_HEADER);
    // One row is that of the origin.
    let rows = room.rows.saturating_sub(1 + header);
    let fits = fleet.workers.len() <= rows;
    let mut workers: Vec<&WorkerView> = fleet.workers.iter().collect();
    if fits {
        // By name, so that rows do not change their places with each change of a rate.
        workers.sort_by_key(|worker| Reverse(worker.state));
    } else {
        workers.sort_by_key(|worker| (Reverse(worker.state), worker.bytes_per_second));
    }
    let shown = if fits {
        workers.len()
    } else {
        rows.saturating_sub(1)
    };
    let (shown, rest) = workers.split_at(shown);
    if shown.is_empty() && rest.is_empty() {
        return Vec::new();
    }
    let mut lines = table(shown, now, room.columns);
    if header == 0 || shown.is_empty() {
        lines.remove(0);
    }
    if !rest.is_empty() {
        lines.push(rest_in_words(rest));
    }
    lines
}

/// The workers that are not shown, by state.
fn rest_in_words(rest: &[&WorkerView]) -> Line {
    let of = |state| {
        let count = rest.iter().filter(|worker| worker.state == state).count();
        (count > 0).then(|| format!("{count} {}", state.name()))
    };
    let states: Vec<String> = WorkerState::ALL.into_iter().filter_map(of).collect();
    let count = counted(rest.len() as u64, "worker", "workers");
    let rate = rest.iter().fold(0_u64, |sum, worker| {
        sum.saturating_add(worker.bytes_per_second)
    });
    let text = format!("and {count} more: {}; {}/s", states.join(", "), bytes(rate));
    Line::emphasized(text, Emphasis::Faint)
}

/// The header and one line for each worker. Names are truncated if the lines are too wide.
fn table(workers: &[&WorkerView], now: SystemTime, columns: usize) -> Vec<Line> {
    let longest = workers.iter().map(|worker| width(&worker.name)).max();
    let longest = longest.unwrap_or_default();
    let whole = formatted(workers, now, longest);
    let widest = whole.iter().map(|line| width(line)).max();
    let excess = (widest.unwrap_or_default() + 1).saturating_sub(columns);
    let texts = if excess == 0 {
        whole
    } else {
        formatted(
            workers,
            now,
            longest.saturating_sub(excess).max(MIN_NAME_WIDTH),
        )
    };
    let emphases = workers.iter().map(|worker| match worker.state {
        WorkerState::Active | WorkerState::Draining => Emphasis::None,
        WorkerState::Quarantined | WorkerState::Silent => Emphasis::Attention,
        WorkerState::Lost => Emphasis::Trouble,
    });
    let emphases = [Emphasis::Faint].into_iter().chain(emphases);
    let lines = texts.into_iter().zip(emphases);
    lines
        .map(|(text, emphasis)| Line::emphasized(text, emphasis))
        .collect()
}

fn formatted(workers: &[&WorkerView], now: SystemTime, longest_name: usize) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(COLUMNS);
    table.add_rows(workers.iter().map(|worker| row(worker, now, longest_name)));
    for column in table.column_iter_mut().take(7).skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim().to_owned()).collect()
}

fn row(worker: &WorkerView, now: SystemTime, longest_name: usize) -> [String; COLUMNS.len()] {
    let state = worker.state.name();
    let state = if worker.state == WorkerState::Active {
        state.to_owned()
    } else {
        let since = now.duration_since(worker.since).unwrap_or_default();
        format!("{state} {}", clock(since))
    };
    [
        fitted(&worker.name, longest_name),
        state,
        format!("{}/{}", worker.leased, worker.slots),
        worker.success.saturating_add(worker.skipped).to_string(),
        worker.failed.to_string(),
        format!("{}/s", bytes(worker.bytes_per_second)),
        bytes(worker.received_bytes),
        worker
            .waits_for
            .map(|waits_for| waits_for.to_string())
            .unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use shared::job::JobStatus;

    use super::*;
    use crate::{concurrency::ConcurrencyStatus, fleet::WaitsFor};

    const ROOM: Size = Size {
        columns: 100,
        rows: 10,
    };

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1000)
    }

    fn worker(name: &str, state: WorkerState, bytes_per_second: u64) -> WorkerView {
        WorkerView {
            name: name.to_owned(),
            state,
            slots: 10,
            leased: 9,
            success: 8,
            skipped: 7,
            failed: 6,
            received_bytes: 1_200_000_000,
            silent: Duration::ZERO,
            storage: String::new(),
            build: String::new(),
            since: UNIX_EPOCH + Duration::from_secs(917),
            bytes_per_second,
            disk_free: None,
            waits_for: None,
            host: String::new(),
        }
    }

    fn fleet(workers: Vec<WorkerView>) -> Fleet {
        Fleet {
            job: JobStatus::default(),
            phase: Phase::Running,
            origin: ConcurrencyStatus {
                limit: 8,
                open: 5,
                bytes_per_second: 12_300_000,
                ..ConcurrencyStatus::default()
            },
            workers,
        }
    }

    fn text(fleet: &Fleet, room: Size) -> String {
        let lines = lines(fleet, now(), room).into_iter();
        lines.map(|line| line.text + "\n").collect()
    }

    #[test]
    fn the_fleet_is_a_table_with_the_worst_workers_first() {
        let mut waiting = worker("node1", WorkerState::Active, 2_500_000);
        waiting.waits_for = Some(WaitsFor::Limit(3));
        let fleet = fleet(vec![
            waiting,
            worker("node2", WorkerState::Lost, 0),
            worker("node3", WorkerState::Active, 1_000_000),
            worker("node4", WorkerState::Silent, 0),
        ]);
        assert_eq!(
            text(&fleet, ROOM),
            "\
worker  state         leased  there  failed      rate  received  waits for
node2   lost 01:23      9/10     15       6      0B/s    1.20GB
node4   silent 01:23    9/10     15       6      0B/s    1.20GB
node1   active          9/10     15       6  2.50MB/s    1.20GB  limit of 3 connections
node3   active          9/10     15       6  1.00MB/s    1.20GB
origin: 5 of at most 8 connections, 12.3MB/s
"
        );
        let emphases: Vec<Emphasis> = lines(&fleet, now(), ROOM)
            .into_iter()
            .map(|line| line.emphasis)
            .collect();
        assert_eq!(
            emphases[..4],
            [
                Emphasis::Faint,
                Emphasis::Trouble,
                Emphasis::Attention,
                Emphasis::None
            ]
        );
    }

    #[test]
    fn a_thousand_workers_fit_and_those_in_trouble_and_the_slowest_are_shown() {
        let mut workers: Vec<WorkerView> = (0..1000_u64)
            .map(|number| {
                worker(
                    &format!("node{number:04}"),
                    WorkerState::Active,
                    5000 + number,
                )
            })
            .collect();
        workers[500].state = WorkerState::Lost;
        workers[700].bytes_per_second = 3;
        workers[800].state = WorkerState::Quarantined;
        let fleet = fleet(workers);
        for rows in [0, 1, 2, 3, 4, 10, 50, 1002, 2000] {
            for columns in [0, 1, 20, 80, 300] {
                let lines = lines(&fleet, now(), Size { columns, rows });
                assert!(lines.len() <= rows, "{rows}: {}", lines.len());
                assert!(lines.len() >= rows.min(1000), "{rows}: {}", lines.len());
            }
        }
        let text = text(&fleet, ROOM);
        let names: Vec<&str> = text
            .lines()
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "worker", "node0500", "node0800", "node0700", "node0000", "node0001", "node0002",
                "node0003", "and", "origin:"
            ]
        );
        assert!(
            text.contains("\nand 993 workers more: 993 active; 5.46MB/s\n"),
            "{text}"
        );
    }

    #[test]
    fn a_long_name_is_cut_so_that_the_reason_to_wait_is_seen() {
        let name = "node1.cluster.example.org-".repeat(2);
        let mut long = worker(&name, WorkerState::Active, 0);
        long.waits_for = Some(WaitsFor::Origin(Duration::from_secs(12)));
        let text = text(&fleet(vec![long]), ROOM);
        assert!(
            text.contains("node1.cluster.example.org-no…  active"),
            "{text}"
        );
        assert!(text.contains("origin asked for 12 s\n"), "{text}");
        assert!(text.lines().all(|line| width(line) < 100), "{text}");
    }

    #[test]
    fn what_keeps_the_job_from_moving_is_said_in_words() {
        let mut waiting = fleet(Vec::new());
        waiting.phase = Phase::WaitingForWorkers;
        assert_eq!(
            text(&waiting, ROOM),
            "waiting for workers; origin: 5 of at most 8 connections, 12.3MB/s\n"
        );
    }
}

//! The workers of `coordinator status` as a table. On a narrow terminal it has fewer columns and
//! truncates long names, because the terminal would wrap the lines.

use std::io::{self, IsTerminal as _};

use comfy_table::{CellAlignment, Table, presets};
use shared::job_line::clock;

use super::bytes;
use crate::fleet::{WorkerState, WorkerView};

const ALL_COLUMNS: [&str; 9] = [
    "worker",
    "state",
    "slots",
    "leased",
    "success",
    "skipped",
    "failed",
    "received",
    "last heard of",
];
/// Columns on a narrow terminal: `leased` includes the slots, `there` is success plus skipped.
const NARROW_COLUMNS: [&str; 7] = [
    "worker", "state", "leased", "there", "failed", "received", "heard of",
];
/// Names are not truncated to fewer characters.
const MIN_NAME_LENGTH: usize = 8;

/// The number of columns of the terminal on standard output, if it is one.
pub(super) fn columns_of_terminal() -> Option<usize> {
    let size = io::stdout()
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(io::stdout()).ok())
        .flatten()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The table, without a line end after the last line.
pub(super) fn text(workers: &[WorkerView], columns: Option<usize>) -> String {
    let all = lines(
        &ALL_COLUMNS,
        workers.iter().map(|worker| full_row(worker).to_vec()),
    );
    let Some(columns) = columns.filter(|columns| width(&all) > *columns) else {
        return all.join("\n");
    };
    let narrow = |longest| {
        lines(
            &NARROW_COLUMNS,
            workers
                .iter()
                .map(|worker| narrow_row(worker, longest).to_vec()),
        )
    };
    let untruncated = narrow(usize::MAX);
    let longest = workers
        .iter()
        .map(|worker| worker.name.chars().count())
        .max()
        .unwrap_or_default();
    let excess = width(&untruncated).saturating_sub(columns);
    if excess == 0 {
        untruncated
    } else {
        narrow(longest.saturating_sub(excess).max(MIN_NAME_LENGTH))
    }
    .join("\n")
}

fn lines(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim().to_owned()).collect()
}

fn width(lines: &[String]) -> usize {
    lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or_default()
}

fn full_row(worker: &WorkerView) -> [String; ALL_COLUMNS.len()] {
    let WorkerView {
        name,
        state,
        slots,
        leased,
        success,
        skipped,
        failed,
        received_bytes,
        ..
    } = worker;
    [
        name.clone(),
        state_name(*state).to_owned(),
        slots.to_string(),
        leased.to_string(),
        success.to_string(),
        skipped.to_string(),
        failed.to_string(),
        bytes(*received_bytes),
        last_seen(worker),
    ]
}

fn narrow_row(worker: &WorkerView, longest_name: usize) -> [String; NARROW_COLUMNS.len()] {
    let WorkerView {
        name,
        state,
        slots,
        leased,
        success,
        skipped,
        failed,
        received_bytes,
        ..
    } = worker;
    let name = if name.chars().count() > longest_name {
        name.chars()
            .take(longest_name.saturating_sub(1))
            .chain(['…'])
            .collect()
    } else {
        name.clone()
    };
    [
        name,
        state_name(*state).to_owned(),
        format!("{leased}/{slots}"),
        success.saturating_add(*skipped).to_string(),
        failed.to_string(),
        bytes(*received_bytes),
        last_seen(worker),
    ]
}

fn last_seen(worker: &WorkerView) -> String {
    let seconds = worker.silent.as_secs();
    format!(
        "{} ago",
        if seconds < 60 {
            format!("{seconds}s")
        } else {
            clock(worker.silent)
        }
    )
}

/// The name of a state in both output formats.
pub(super) fn state_name(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Active => "active",
        WorkerState::Draining => "draining",
        WorkerState::Quarantined => "quarantined",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn worker(name: &str) -> WorkerView {
        WorkerView {
            name: name.to_owned(),
            state: WorkerState::Quarantined,
            slots: 1000,
            leased: 1000,
            success: 10_000,
            skipped: 5000,
            failed: 1234,
            received_bytes: 1_200_000_000,
            silent: Duration::from_secs(83),
            storage: String::new(),
            build: String::new(),
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let workers = [worker("w"), worker(&"node1.cluster.example.org-".repeat(2))];
        assert!(
            width(
                &text(&workers, None)
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            ) > 100
        );
        assert_eq!(
            text(&workers, Some(200)),
            text(&workers, None),
            "a wide terminal shows all columns"
        );
        assert_eq!(
            text(&workers, Some(80)),
            "\
worker                state           leased  there  failed  received   heard of
w                     quarantined  1000/1000  15000    1234    1.20GB  01:23 ago
node1.cluster.examp…  quarantined  1000/1000  15000    1234    1.20GB  01:23 ago"
        );
        let short = [worker("w"), worker("node1")];
        assert!(
            text(&short, Some(80)).contains("node1 "),
            "{}",
            text(&short, Some(80))
        );
    }
}

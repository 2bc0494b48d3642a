//! The workers of `coordinator status` as a table. On a narrow terminal it has fewer columns and
//! truncates long names, because the terminal would wrap the lines.

use std::io;

use comfy_table::{CellAlignment, Table, presets};
use shared::job_line::clock;

use crate::{fleet::WorkerView, wording::bytes};

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
    let stdout = io::stdout();
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The table, without a line end after the last line.
pub(super) fn text(workers: &[WorkerView], columns: Option<usize>) -> String {
    let all = lines(&ALL_COLUMNS, workers.iter().map(full_row));
    let Some(columns) = columns.filter(|columns| width(&all) > *columns) else {
        return all.join("\n");
    };
    let narrow = |longest| {
        let rows = workers.iter().map(|worker| narrow_row(worker, longest));
        lines(&NARROW_COLUMNS, rows)
    };
    let untruncated = narrow(usize::MAX);
    let names = workers.iter().map(|worker| worker.name.chars().count());
    let longest = names.max().unwrap_or_default();
    let excess = width(&untruncated).saturating_sub(columns);
    if excess == 0 {
        untruncated
    } else {
        narrow(longest.saturating_sub(excess).max(MIN_NAME_LENGTH))
    }
    .join("\n")
}

fn lines<const COLUMNS: usize>(
    header: &[&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim().to_owned()).collect()
}

fn width(lines: &[String]) -> usize {
    let widths = lines.iter().map(|line| line.chars().count());
    widths.max().unwrap_or_default()
}

fn full_row(worker: &WorkerView) -> [String; ALL_COLUMNS.len()] {
    [
        worker.name.clone(),
        worker.state.name().to_owned(),
        worker.slots.to_string(),
        worker.leased.to_string(),
        worker.success.to_string(),
        worker.skipped.to_string(),
        worker.failed.to_string(),
        bytes(worker.received_bytes),
        last_seen(worker),
    ]
}

fn narrow_row(worker: &WorkerView, longest_name: usize) -> [String; NARROW_COLUMNS.len()] {
    let mut name = worker.name.clone();
    if let Some((cut, _)) = name.char_indices().nth(longest_name) {
        name.truncate(cut);
        name.pop();
        name.push('…');
    }
    [
        name,
        worker.state.name().to_owned(),
        format!("{}/{}", worker.leased, worker.slots),
        worker.success.saturating_add(worker.skipped).to_string(),
        worker.failed.to_string(),
        bytes(worker.received_bytes),
        last_seen(worker),
    ]
}

fn last_seen(worker: &WorkerView) -> String {
    match worker.silent.as_secs() {
        seconds @ ..60 => format!("{seconds}s ago"),
        _ => format!("{} ago", clock(worker.silent)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::fleet::WorkerState;

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
            since: UNIX_EPOCH,
            bytes_per_second: 0,
            disk_free: None,
            waits_for: None,
            host: String::new(),
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

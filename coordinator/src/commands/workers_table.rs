//! The workers of `coordinator status` as a table. On a terminal that is too narrow for all columns it
//! has fewer, and long names are cut, because a terminal would break the lines anywhere.

use std::io::{self, IsTerminal as _};

use comfy_table::{CellAlignment, Table, presets};
use shared::job_line::clock;

use super::bytes;
use crate::fleet::{WorkerState, WorkerView};

const ALL: [&str; 9] =
    ["worker", "state", "slots", "leased", "success", "skipped", "failed", "received", "last heard of"];
/// `leased` with the slots, `there` for success and skipped.
const FEW: [&str; 7] = ["worker", "state", "leased", "there", "failed", "received", "heard of"];
/// Names are not cut to less, in characters.
const SHORTEST_NAME: usize = 8;

/// The columns of the terminal on standard output, if it is one.
pub(super) fn columns_of_terminal() -> Option<usize> {
    let size = io::stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The table, without a line end behind the last line.
pub(super) fn text(workers: &[WorkerView], columns: Option<usize>) -> String {
    let all = lines(&ALL, workers.iter().map(|worker| all_of(worker).to_vec()));
    let Some(columns) = columns.filter(|columns| width(&all) > *columns) else { return all.join("\n") };
    let few = |longest| lines(&FEW, workers.iter().map(|worker| few_of(worker, longest).to_vec()));
    let whole = few(usize::MAX);
    let longest = workers.iter().map(|worker| worker.name.chars().count()).max().unwrap_or_default();
    let excess = width(&whole).saturating_sub(columns);
    if excess == 0 { whole } else { few(longest.saturating_sub(excess).max(SHORTEST_NAME)) }.join("\n")
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
    lines.iter().map(|line| line.chars().count()).max().unwrap_or_default()
}

fn all_of(worker: &WorkerView) -> [String; ALL.len()] {
    let WorkerView { name, state, slots, leased, success, skipped, failed, received_bytes, .. } = worker;
    [
        name.clone(),
        word(*state).to_owned(),
        slots.to_string(),
        leased.to_string(),
        success.to_string(),
        skipped.to_string(),
        failed.to_string(),
        bytes(*received_bytes),
        heard_of(worker),
    ]
}

fn few_of(worker: &WorkerView, longest_name: usize) -> [String; FEW.len()] {
    let WorkerView { name, state, slots, leased, success, skipped, failed, received_bytes, .. } = worker;
    let name = if name.chars().count() > longest_name {
        name.chars().take(longest_name.saturating_sub(1)).chain(['…']).collect()
    } else {
        name.clone()
    };
    [
        name,
        word(*state).to_owned(),
        format!("{leased}/{slots}"),
        success.saturating_add(*skipped).to_string(),
        failed.to_string(),
        bytes(*received_bytes),
        heard_of(worker),
    ]
}

fn heard_of(worker: &WorkerView) -> String {
    let seconds = worker.silent.as_secs();
    format!("{} ago", if seconds < 60 { format!("{seconds}s") } else { clock(worker.silent) })
}

/// A state as people and programs read it.
pub(super) fn word(state: WorkerState) -> &'static str {
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
        assert!(width(&text(&workers, None).lines().map(str::to_owned).collect::<Vec<_>>()) > 100);
        assert_eq!(text(&workers, Some(200)), text(&workers, None), "where there is room all is shown");
        assert_eq!(
            text(&workers, Some(80)),
            "\
worker                state           leased  there  failed  received   heard of
w                     quarantined  1000/1000  15000    1234    1.20GB  01:23 ago
node1.cluster.examp…  quarantined  1000/1000  15000    1234    1.20GB  01:23 ago"
        );
        let short = [worker("w"), worker("node1")];
        assert!(text(&short, Some(80)).contains("node1 "), "{}", text(&short, Some(80)));
    }
}

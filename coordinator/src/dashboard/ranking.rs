//! The workers, those in trouble first: the worst ten and the quartiles of a summary, and pages of
//! the whole list. Pure.

use std::cmp::Ordering;

use serde::Serialize;

use super::{
    PAGE, QueryError,
    snapshot::{Worker, Workers},
};
use crate::fleet::{WorkerState, WorkerView, unix_milliseconds};

/// Number of workers in a summary.
const FIRST: usize = 10;

/// The parameters of `api/v1/workers`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkersQuery {
    /// `trouble` (the default), `name` or `rate`.
    pub sort: Option<String>,
    /// States, separated by commas; all if absent.
    pub state: Option<String>,
    /// A part of the name or of the host.
    pub q: Option<String>,
    /// Number of workers before the page.
    pub after: Option<usize>,
    /// Workers in the page, at most [`PAGE`].
    pub limit: Option<usize>,
}

/// A page of workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkersPage {
    /// Number of workers that match, on all pages.
    pub total: usize,
    /// The workers of the page.
    pub workers: Vec<Worker>,
}

/// A checked [`WorkersQuery`].
#[derive(Debug)]
pub(super) struct WorkerFilter {
    sort: Sort,
    states: Vec<WorkerState>,
    part: String,
    after: usize,
    limit: usize,
}

#[derive(Debug, Clone, Copy)]
enum Sort {
    Trouble,
    Name,
    Rate,
}

impl WorkersQuery {
    /// Checks the parameters.
    pub(super) fn parsed(self) -> Result<WorkerFilter, QueryError> {
        let sort = match self.sort.as_deref() {
            None | Some("" | "trouble") => Sort::Trouble,
            Some("name") => Sort::Name,
            Some("rate") => Sort::Rate,
            Some(value) => return Err(unknown("sort", value, "trouble, name or rate")),
        };
        let names = self.state.unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        let states = names.map(|name| {
            let state = WorkerState::ALL
                .into_iter()
                .find(|state| state.name() == name);
            let known = "active, silent, lost, draining or quarantined";
            state.ok_or_else(|| unknown("state", name, known))
        });
        Ok(WorkerFilter {
            sort,
            states: states.collect::<Result<_, _>>()?,
            part: self.q.unwrap_or_default().to_lowercase(),
            after: self.after.unwrap_or_default(),
            limit: self.limit.unwrap_or(PAGE).min(PAGE),
        })
    }
}

pub(super) fn unknown(parameter: &'static str, value: &str, expected: &'static str) -> QueryError {
    QueryError::Parameter {
        parameter,
        value: shared::outcome::printable_within(value, 64),
        expected,
    }
}

impl WorkerFilter {
    /// The page of these workers.
    pub(super) fn page(&self, workers: &[WorkerView]) -> WorkersPage {
        let matches = |worker: &&WorkerView| {
            let is_in_state = self.states.is_empty() || self.states.contains(&worker.state);
            let has_part = |name: &str| name.to_lowercase().contains(&self.part);
            is_in_state && (has_part(&worker.name) || has_part(&worker.host))
        };
        let mut found: Vec<&WorkerView> = workers.iter().filter(matches).collect();
        match self.sort {
            Sort::Trouble => found.sort_by(|one, other| by_trouble(one, other)),
            Sort::Name => found.sort_by(|one, other| one.name.cmp(&other.name)),
            Sort::Rate => found.sort_by(|one, other| by_rate(one, other)),
        }
        let page = found.iter().skip(self.after).take(self.limit);
        WorkersPage {
            workers: page.map(|worker| shown(worker)).collect(),
            total: found.len(),
        }
    }
}

/// The summary of a snapshot.
pub(super) fn summarized(workers: &[WorkerView]) -> Workers {
    let number = |wanted| {
        let in_state = workers.iter().filter(|worker| worker.state == wanted);
        in_state.count() as u64
    };
    let states = WorkerState::ALL.map(|state| (state, number(state)));
    let mut worst: Vec<&WorkerView> = workers.iter().collect();
    if worst.len() > FIRST {
        worst.select_nth_unstable_by(FIRST, |one, other| by_trouble(one, other));
        worst.truncate(FIRST);
    }
    worst.sort_unstable_by(|one, other| by_trouble(one, other));
    let active = workers
        .iter()
        .filter(|worker| worker.state == WorkerState::Active);
    let mut rates: Vec<u64> = active.map(|worker| worker.bytes_per_second).collect();
    rates.sort_unstable();
    Workers {
        total: workers.len() as u64,
        states: states
            .into_iter()
            .filter(|(_, number)| *number > 0)
            .collect(),
        first: worst.into_iter().map(shown).collect(),
        bytes_per_second: quartiles(&rates),
    }
}

/// Lowest, quartiles and highest of sorted rates, each the rate of one worker (the nearest rank).
fn quartiles(rates: &[u64]) -> Option<[u64; 5]> {
    let last = rates.len().checked_sub(1)?;
    Some([0, 1, 2, 3, 4].map(|quarter| rates[(last * quarter + 2) / 4]))
}

/// Lost, silent, quarantined and draining workers first, then the slowest active ones. Of equals
/// the first by name, so that rows keep their places.
fn by_trouble(one: &WorkerView, other: &WorkerView) -> Ordering {
    let by_state = other.state.cmp(&one.state);
    by_state.then_with(|| by_rate(one, other))
}

fn by_rate(one: &WorkerView, other: &WorkerView) -> Ordering {
    let by_rate = one.bytes_per_second.cmp(&other.bytes_per_second);
    by_rate.then_with(|| one.name.cmp(&other.name))
}

fn shown(worker: &WorkerView) -> Worker {
    let waits_for = worker.waits_for;
    Worker {
        name: worker.name.clone(),
        state: worker.state,
        since_ms: Some(unix_milliseconds(worker.since)),
        slots: worker.slots,
        leased: worker.leased,
        success: worker.success,
        skipped: worker.skipped,
        failed: worker.failed,
        bytes_per_second: worker.bytes_per_second,
        received_bytes: worker.received_bytes,
        disk_free: worker.disk_free,
        build: worker.build.clone(),
        host: (!worker.host.is_empty()).then(|| worker.host.clone()),
        waits_for: waits_for
            .map(|reason| reason.to_string())
            .unwrap_or_default(),
    }
}

//! Lists of classes by state, worker or id, a page at a time, and one class. The states come from
//! the publisher's view, holders from the dispatcher, outcomes from the ledger's thread: at most
//! [`PAGE`] lookups each. A list by worker also asks the dispatcher for all classes that the worker
//! holds, and the ledger for all that it has settled.

use std::collections::HashMap;

use serde::Serialize;
use shared::{Wnid, outcome::Outcome};

use super::{PAGE, QueryError, list::List, ranking::unknown};
use crate::{
    dispatcher::DispatcherHandle,
    fleet::{HeldClass, LiveView},
    ledger::{Outcomes, SettledClass},
};

/// The letters of the states, without that of rows that have no class id.
const LETTERS: &str = "wdrskf";

/// The parameters of `api/v1/classes`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassesQuery {
    /// Letters of the wanted states; all if absent.
    pub state: Option<String>,
    /// Only classes that this worker holds or has settled.
    pub worker: Option<String>,
    /// A part of the id.
    pub q: Option<String>,
    /// The class before the page.
    pub after: Option<String>,
    /// Classes in the page, at most [`PAGE`].
    pub limit: Option<usize>,
}

/// A page of classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassesPage {
    /// Number of classes that match, on all pages.
    pub total: usize,
    /// The classes of the page, ordered by id.
    pub classes: Vec<ClassRow>,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassRow {
    /// Its id.
    pub wnid: String,
    /// The letter of its state.
    pub state: char,
    /// The worker that holds it or has settled it.
    pub worker: Option<String>,
    /// Offset in the tar; of a complete class its length.
    pub bytes: Option<u64>,
    /// Length of the tar.
    pub length: Option<u64>,
    /// Attempts that ended without a result since the coordinator started, of a class that has
    /// failed or waits for a retry; `None` if there were none, as after a restart.
    pub attempts: Option<u32>,
    /// Why it failed.
    pub failure: Option<ClassFailure>,
    /// When it was settled, in Unix milliseconds.
    pub at_ms: Option<u64>,
}

/// Why a class failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassFailure {
    /// The kind of failure.
    pub kind: String,
    /// The reason, one line.
    pub reason: String,
}

/// A checked [`ClassesQuery`].
#[derive(Debug)]
pub(super) struct ClassFilter {
    letters: String,
    worker: Option<String>,
    part: String,
    after: Option<Wnid>,
    limit: usize,
}

impl ClassesQuery {
    /// Checks the parameters.
    pub(super) fn parsed(self) -> Result<ClassFilter, QueryError> {
        let letters = self.state.unwrap_or_default().replace(',', "");
        if let Some(letter) = letters.chars().find(|letter| !LETTERS.contains(*letter)) {
            return Err(unknown(
                "state",
                &letter.to_string(),
                "letters of w, d, r, s, k and f",
            ));
        }
        let after = self.after.filter(|after| !after.is_empty());
        let after = after.map(|after| {
            let wnid = after.parse();
            wnid.map_err(|_| unknown("after", &after, "a class id like n02124075"))
        });
        Ok(ClassFilter {
            letters: if letters.is_empty() {
                LETTERS.to_owned()
            } else {
                letters
            },
            worker: self.worker.filter(|worker| !worker.is_empty()),
            part: self.q.unwrap_or_default().to_lowercase(),
            after: after.transpose()?,
            limit: self.limit.unwrap_or(PAGE).min(PAGE),
        })
    }
}

impl ClassFilter {
    /// The page of the classes that match.
    pub(super) async fn page(
        &self,
        handle: &DispatcherHandle,
        list: &List,
        view: &LiveView,
    ) -> Result<ClassesPage, QueryError> {
        let rows = match &self.worker {
            Some(worker) => self.rows_of(worker, handle, list).await?,
            None => list.by_id.clone(),
        };
        let letters = view.letters.as_bytes();
        let matches = |row: &usize| {
            let letter = char::from(letters[*row]);
            let has_part = || list.wnids[*row].to_string().contains(&self.part);
            self.letters.contains(letter) && (self.part.is_empty() || has_part())
        };
        let rows: Vec<usize> = rows.into_iter().filter(matches).collect();
        let first = rows.partition_point(|row| Some(list.wnids[*row]) <= self.after);
        let page = rows[first..].iter().copied().take(self.limit).collect();
        Ok(ClassesPage {
            total: rows.len(),
            classes: described(handle, list, view, page).await?,
        })
    }

    /// The rows that a worker holds or has settled, in the order of their ids.
    async fn rows_of(
        &self,
        worker: &str,
        handle: &DispatcherHandle,
        list: &List,
    ) -> Result<Vec<usize>, QueryError> {
        let mut rows = Vec::new();
        if self.letters.contains('r') {
            let held = handle.held_by(worker.to_owned()).await?;
            rows.extend(held.iter().map(|held| held.row));
        }
        let outcomes = Outcomes {
            success: self.letters.contains('s'),
            skipped: self.letters.contains('k'),
            failed: self.letters.contains('f'),
        };
        if outcomes.any() {
            let name = worker.to_owned();
            let read =
                handle.read_ledger(move |ledger, run| ledger.settled_by(run, &name, outcomes));
            rows.extend(read.await?.into_iter().filter_map(|wnid| list.row(wnid)));
        }
        rows.sort_unstable_by_key(|row| list.wnids[*row]);
        rows.dedup();
        Ok(rows)
    }
}

/// What is known about these rows, in their order.
pub(super) async fn described(
    handle: &DispatcherHandle,
    list: &List,
    view: &LiveView,
    rows: Vec<usize>,
) -> Result<Vec<ClassRow>, QueryError> {
    let letters = view.letters.as_bytes();
    let rows_in = |wanted: &[u8]| -> Vec<usize> {
        let rows = rows.iter().copied();
        rows.filter(|row| wanted.contains(&letters[*row])).collect()
    };
    let running = rows_in(b"r");
    let held = if running.is_empty() {
        Vec::new()
    } else {
        handle.held_rows(running).await?
    };
    let held: HashMap<usize, HeldClass> = held.into_iter().map(|held| (held.row, held)).collect();
    let attempted = rows_in(b"fd");
    let attempts = if attempted.is_empty() {
        Vec::new()
    } else {
        handle.ended_attempts(attempted).await?
    };
    let attempts: HashMap<usize, u32> = attempts.into_iter().collect();
    let wnids: Vec<Wnid> = rows_in(b"skf")
        .into_iter()
        .map(|row| list.wnids[row])
        .collect();
    let settled = if wnids.is_empty() {
        Vec::new()
    } else {
        let read = handle.read_ledger(move |ledger, run| ledger.settled_of(run, &wnids));
        read.await?
    };
    let settled: HashMap<Wnid, SettledClass> = settled
        .into_iter()
        .map(|class| (class.record.wnid, class))
        .collect();
    let row = |row: usize| {
        let wnid = list.wnids[row];
        let nothing = ClassRow {
            wnid: wnid.to_string(),
            state: char::from(letters[row]),
            worker: None,
            bytes: None,
            length: None,
            attempts: attempts.get(&row).copied(),
            failure: None,
            at_ms: None,
        };
        match (held.get(&row), settled.get(&wnid)) {
            (Some(held), _) => nothing.held(held),
            (None, Some(settled)) => nothing.settled(settled),
            (None, None) => nothing,
        }
    };
    Ok(rows.iter().copied().map(row).collect())
}

impl ClassRow {
    fn held(self, held: &HeldClass) -> Self {
        Self {
            worker: Some(held.worker.clone()),
            bytes: Some(held.bytes),
            length: (held.length > 0).then_some(held.length),
            ..self
        }
    }

    fn settled(self, class: &SettledClass) -> Self {
        let (bytes, failure) = match &class.record.outcome {
            Outcome::Success(published) | Outcome::Skipped(published) => {
                ((published.bytes > 0).then_some(published.bytes), None)
            }
            Outcome::Failed(failure) => {
                let failure = ClassFailure {
                    kind: failure.kind.to_string(),
                    reason: failure.message.clone(),
                };
                (None, Some(failure))
            }
        };
        Self {
            worker: class.record.worker.clone(),
            bytes,
            length: bytes,
            failure,
            at_ms: class.at.map(|seconds| seconds.saturating_mul(1000)),
            ..self
        }
    }
}

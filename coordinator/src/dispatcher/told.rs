//! What the dispatcher tells people: notices of the lease table, failed classes, and why the origin
//! has not answered. Every line about the origin names its host and port.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use shared::{
    Wnid,
    job::JobStatus,
    outcome::{Failure, Outcome, Suspect},
};
use tokio::time::Instant;

use super::{Dispatcher, refusals::Refusals};
use crate::{
    failure_lines::FailureLines,
    lease_table::{LeaseNotice, PROBE_EVERY},
    ledger::Record,
};

/// Different sentences on why the origin has not answered.
const MOST_TROUBLES: usize = 8;

/// What was told, and what messages need.
#[derive(Debug)]
pub(super) struct Told {
    /// Scheme, host and port.
    origin: String,
    failures: FailureLines,
    refusals: Refusals,
    tells_first_trouble: bool,
    troubles: Vec<String>,
}

impl Default for Told {
    fn default() -> Self {
        Self::of("the origin".to_owned(), false)
    }
}

impl Told {
    pub(super) fn of(origin: String, tells_first_trouble: bool) -> Self {
        Self {
            origin,
            failures: FailureLines::default(),
            refusals: Refusals::default(),
            tells_first_trouble,
            troubles: Vec::new(),
        }
    }

    /// A class has failed.
    pub(super) fn failed(&mut self, wnid: Wnid, failure: &Failure) {
        self.refusals.note(failure.refusal);
        let named = self.naming_origin(failure);
        self.failures.tell(&wnid.to_string(), &named, Instant::now());
    }

    /// A worker has had no answer of the origin yet. Once for each sentence, whichever worker says
    /// it, and not once a class is there.
    pub(super) fn first_trouble(&mut self, worker: &str, trouble: String, has_success: bool) {
        let is_new = !self.troubles.contains(&trouble) && self.troubles.len() < MOST_TROUBLES;
        if self.tells_first_trouble && !has_success && is_new {
            tracing::warn!("worker {worker}: {trouble}");
            self.troubles.push(trouble);
        }
    }

    /// What the user can do about it where all classes were refused alike. `rows`: of the list that
    /// are class ids.
    pub(super) fn advice(&self, status: &JobStatus, rows: u64) -> Option<&'static str> {
        self.refusals.advice(status, rows)
    }

    /// What is due.
    pub(super) fn tick(&mut self, now: Instant) {
        self.failures.due(now).iter().for_each(|line| tracing::warn!("{line}"));
    }

    /// What was not told of failed classes, at the end of the job.
    pub(super) fn rest(&mut self, now: Instant) {
        self.failures.rest(now).iter().for_each(|line| tracing::warn!("{line}"));
    }

    /// The same failure; one of the origin names its address.
    fn naming_origin(&self, failure: &Failure) -> Failure {
        let is_of_origin = failure.suspect == Suspect::Origin || failure.refusal.is_some();
        if !is_of_origin || failure.message.contains(&self.origin) {
            return failure.clone();
        }
        Failure { message: format!("{} ({})", failure.message, self.origin), ..failure.clone() }
    }
}

impl Dispatcher {
    /// A class that has failed without a report of its own.
    pub(super) fn given_up_record(&mut self, wnid: Wnid, failure: Failure) -> Record {
        self.told.failed(wnid, &failure);
        Record { wnid, outcome: Outcome::Failed(failure), worker: None }
    }

    /// Tells people what they should hear.
    pub(super) fn tell(&mut self) {
        for notice in self.table.take_notices() {
            match notice {
                LeaseNotice::NotReturned(worker) => {
                    tracing::warn!("worker {worker} did not come back; its classes go to others");
                }
                LeaseNotice::NoProgress { wnid, worker } => {
                    tracing::warn!("{wnid} does not get on with worker {worker} and goes to another");
                }
                LeaseNotice::Silent { wnid, worker } => {
                    tracing::info!("worker {worker} receives nothing of {wnid}, which goes to an idle one");
                }
                LeaseNotice::Elsewhere(news) => tracing::warn!("{news}"),
                LeaseNotice::Copy { wnid, worker, news } => {
                    self.counters.copies.note(&news);
                    tracing::info!("worker {worker} {news}: {wnid}");
                }
                LeaseNotice::OriginUnavailable { failure, waits } => {
                    let origin = &self.told.origin;
                    let (every, end) = (PROBE_EVERY.as_secs(), format_rfc3339_seconds(SystemTime::now() + waits));
                    tracing::warn!(
                        "no class can be had from {origin} ({failure}). Paused: one class tries again every {every} s. \
                         Classes fail only if it goes on until {end}"
                    );
                }
                LeaseNotice::OriginAvailable => tracing::warn!("{} answers again", self.told.origin),
                LeaseNotice::Quarantined { worker, failure } => tracing::warn!(
                    "worker {worker} fails what others can do and gets nothing for a while; the last was {failure}"
                ),
            }
        }
        if let Some(refuses) = self.table.origin_refuses().filter(|_| self.refuses.borrow().is_none()) {
            self.refuses.send_replace(Some(refuses.clone()));
        }
        if self.published.phase(&self.table) {
            tracing::info!("now {:?}", self.table.phase());
        }
    }
}

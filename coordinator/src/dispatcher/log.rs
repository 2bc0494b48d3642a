//! The dispatcher's log lines: notices of the lease table, failed classes, and why the origin has
//! not responded. Each line about the origin contains its host and port.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use shared::{
    Wnid,
    failure_lines::{FailureLines, warn_each},
    ids::SessionId,
    outcome::{Failure, Outcome, Suspect},
};
use tokio::time::Instant;

use super::{Dispatcher, refusals::Refusals};
use crate::{
    concurrency::ConcurrencyNotice,
    lease_table::{LeaseNotice, PROBE_EVERY},
    ledger::Record,
};

/// A longer wait is announced on the screen, with its end in UTC as in the log file; a shorter one
/// only in the log.
const LONG_WAIT: Duration = Duration::from_mins(1);

/// Maximum number of different messages about why the origin has not responded.
const MAX_FIRST_FAILURES: usize = 8;

/// The log of the dispatcher: the messages that were already logged, and the data that messages
/// need.
#[derive(Debug)]
pub(super) struct DispatcherLog {
    /// Scheme, host and port of the origin.
    origin: String,
    failures: FailureLines,
    pub(super) refusals: Refusals,
    logs_first_failure: bool,
    first_failures: Vec<String>,
    /// The failure with which the origin last began to fail for all workers.
    pub(super) outage: Option<String>,
}

impl Default for DispatcherLog {
    fn default() -> Self {
        Self::of("the origin".to_owned(), false)
    }
}

impl DispatcherLog {
    pub(super) fn of(origin: String, logs_first_failure: bool) -> Self {
        Self {
            origin,
            failures: FailureLines::default(),
            refusals: Refusals::default(),
            logs_first_failure,
            first_failures: Vec::new(),
            outage: None,
        }
    }

    /// Records and logs a failed class.
    pub(super) fn record_failure(&mut self, wnid: Wnid, failure: &Failure) {
        self.refusals.note(failure.refusal);
        let named = self.with_origin(failure);
        self.failures
            .tell(&wnid.to_string(), &named, Instant::now());
    }

    /// Logs the summarized failures that are due.
    pub(super) fn tick(&mut self, now: Instant) {
        warn_each(self.failures.due(now));
    }

    /// Logs the remaining summarized failures at the end of the job.
    pub(super) fn log_rest(&mut self, now: Instant) {
        warn_each(self.failures.rest(now));
    }

    /// The failure; if the origin caused it, with the origin's address.
    fn with_origin(&self, failure: &Failure) -> Failure {
        let is_of_origin = failure.suspect == Suspect::Origin || failure.refusal.is_some();
        if !is_of_origin || failure.message.contains(&self.origin) {
            return failure.clone();
        }
        Failure {
            message: format!("{} ({})", failure.message, self.origin),
            ..failure.clone()
        }
    }
}

impl Dispatcher {
    /// The last message about why no worker has received a response of the origin yet.
    pub(super) fn first_failure_of_origin(&self) -> Option<String> {
        let is_answering = self.table.status().success > 0;
        let last = self.log.first_failures.last().cloned();
        last.filter(|_| !is_answering)
    }

    /// A worker has received no response from the origin yet. Each message is logged once,
    /// whichever worker sends it, and only until a first class is complete.
    pub(super) fn first_failure(&mut self, session: SessionId, failure: String) {
        let log = &mut self.log;
        let is_new =
            !log.first_failures.contains(&failure) && log.first_failures.len() < MAX_FIRST_FAILURES;
        let worker = self.table.worker(session);
        if let Some(worker) = worker
            && log.logs_first_failure
            && is_new
            && self.table.status().success == 0
        {
            tracing::warn!("worker {worker}: {failure}");
            log.first_failures.push(failure);
        }
    }

    /// The record of a class that failed without a report about it. Also logs the failure.
    pub(super) fn given_up_record(&mut self, wnid: Wnid, failure: Failure) -> Record {
        self.log.record_failure(wnid, &failure);
        Record {
            wnid,
            outcome: Outcome::Failed(failure),
            worker: None,
        }
    }

    /// Logs the notices of the controller and of the lease table, and publishes the phase and
    /// whether the origin refuses all classes.
    pub(super) fn log_notices(&mut self) {
        let notices = self.controller.take_notices();
        self.publish_limit_changes(&notices);
        let origin = &self.log.origin;
        for notice in notices {
            match notice {
                ConcurrencyNotice::Refused { rest } if rest > LONG_WAIT => {
                    let end = format_rfc3339_seconds(SystemTime::now() + rest);
                    tracing::warn!("{notice} ({origin}), until {end}");
                }
                notice => tracing::info!("{notice} ({origin})"),
            }
        }
        for notice in self.table.take_notices() {
            match notice {
                LeaseNotice::NotReturned(worker) => {
                    tracing::warn!("worker {worker} did not come back; its classes go to others");
                }
                LeaseNotice::NoProgress { wnid, worker } => {
                    tracing::warn!(
                        "{wnid} does not get on with worker {worker} and goes to another"
                    );
                }
                LeaseNotice::Silent { wnid, worker } => {
                    tracing::info!(
                        "worker {worker} receives nothing of {wnid}, which goes to an idle one"
                    );
                }
                LeaseNotice::Elsewhere(news) => tracing::warn!("{news}"),
                LeaseNotice::Attempt { wnid, worker, news } => {
                    self.counters.attempts.note(&news);
                    tracing::info!("worker {worker} {news}: {wnid}");
                }
                LeaseNotice::OriginUnavailable { failure, waits } => {
                    let every = PROBE_EVERY.as_secs();
                    let end = format_rfc3339_seconds(SystemTime::now() + waits);
                    self.log.outage = Some(failure.message.clone());
                    let origin = &self.log.origin;
                    tracing::warn!(
                        "no class can be had from {origin} ({failure}). Paused: one class tries again every {every} s. \
                         Classes fail only if it goes on until {end}"
                    );
                }
                LeaseNotice::OriginAvailable => {
                    tracing::warn!("{} answers again", self.log.origin);
                }
                LeaseNotice::Quarantined { worker, failure } => tracing::warn!(
                    "worker {worker} fails what others can do and gets nothing for a while; the last was {failure}"
                ),
            }
        }
        if let Some(refuses) = self
            .table
            .origin_refuses()
            .filter(|_| self.refuses.borrow().is_none())
        {
            self.refuses.send_replace(Some(refuses.clone()));
        }
        if self.published.publish_phase(&self.table) {
            tracing::info!("now {:?}", self.table.phase());
        }
    }
}

//! Reports of workers: settles classes, logs how they ended, and records that in the ledger.

use shared::{Wnid, ids::SessionId, outcome::Outcome};
use tokio::time::Instant;

use super::{Dispatcher, Reply};
use crate::{
    lease_table::{Lease, ReportVerdict},
    ledger::{Entry, Record},
};

/// The outcome of a class, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The lease of the class.
    pub lease: Lease,
    /// The outcome.
    pub outcome: Outcome,
    /// The class is complete, but its lease still has work to do, so it is not settled yet.
    pub needs_lease: bool,
}

/// The worker that reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Its session, which may have ended.
    pub session: SessionId,
    /// The name that the worker sends. Used if the session is not known.
    pub name: Option<String>,
    /// Requests that the worker has sent to the origin in this session, including those that
    /// followed redirects.
    pub requests: u64,
}

/// Answer to a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Results that the worker need not send again.
    pub acked: Vec<Wnid>,
    /// Whether the session has not ended.
    pub is_known: bool,
}

impl Dispatcher {
    /// Settles classes. The answer is sent after the ledger has confirmed the returned entry.
    pub(super) fn reported(
        &mut self,
        reporter: &Reporter,
        results: Vec<Reported>,
        reply: Reply<Receipt>,
    ) -> Entry {
        let running = self.running();
        let session = reporter.session;
        let is_known = self.table.known(session).is_ok();
        self.table.has_sent_requests(session, reporter.requests);
        let mut receipt = Receipt {
            acked: Vec::new(),
            is_known,
        };
        let mut entry = Entry::default();
        for reported in results {
            let wnid = reported.lease.wnid;
            let is_acked = if reported.needs_lease {
                // For an unknown session the worker sends it again after it has registered.
                self.table.needs_lease(session, wnid).is_ok()
            } else {
                // A failure from an unknown session may still be accepted, once the worker has
                // registered with the lease that it holds. It is therefore not acknowledged.
                self.settle(reporter, reported, running, &mut entry) != ReportVerdict::Stale
                    || is_known
            };
            receipt.acked.extend(is_acked.then_some(wnid));
        }
        // If the worker is gone by then, it gets the answer to its next request.
        entry.answering(reply, receipt)
    }

    /// Settles a class and all classes whose state depends on it. The changes go into the entry in
    /// the order in which they happened.
    fn settle(
        &mut self,
        reporter: &Reporter,
        Reported { lease, outcome, .. }: Reported,
        running: Instant,
        entry: &mut Entry,
    ) -> ReportVerdict {
        let wnid = lease.wnid;
        let session = reporter.session;
        let position = self.table.position_in_tar(session, wnid);
        let verdict = self
            .table
            .report(session, lease, &outcome, running, rand::random());
        if let (ReportVerdict::Settled, Outcome::Success(published)) = (verdict, &outcome) {
            self.time_left
                .completed(session, published.bytes.saturating_sub(position));
        }
        // After a restart of the coordinator a result may arrive before its worker has registered
        // again.
        let worker = self.table.worker(session).or(reporter.name.as_deref());
        let worker = worker.map(str::to_owned);
        self.log_result(lease, &outcome, verdict, worker.as_deref());
        if verdict == ReportVerdict::Corrected {
            entry.corrected.push(wnid);
        }
        if matches!(verdict, ReportVerdict::Settled | ReportVerdict::Corrected) {
            entry.records.push(Record {
                wnid,
                outcome,
                worker,
            });
        }
        entry.records.extend(self.take_given_up());
        verdict
    }

    fn log_result(
        &mut self,
        Lease { wnid, token }: Lease,
        outcome: &Outcome,
        verdict: ReportVerdict,
        worker: Option<&str>,
    ) {
        use ReportVerdict::{AttemptFailed, Corrected, Doubted, Excused, Retried, Settled};
        match (verdict, outcome) {
            (Settled, Outcome::Failed(failure)) => self.log.failed(wnid, failure),
            (Settled | Corrected, Outcome::Success(published) | Outcome::Skipped(published)) => {
                let ended = match outcome {
                    Outcome::Success(_) => "success",
                    _ => "skipped",
                };
                tracing::info!(
                    worker,
                    files = published.files,
                    bytes = published.bytes,
                    "{wnid} {ended}"
                );
            }
            (Retried, Outcome::Failed(failure)) => {
                tracing::info!("{wnid} failed, and another worker will try it: {failure}");
            }
            (AttemptFailed, Outcome::Failed(failure)) => {
                tracing::info!("a copy of {wnid} failed: {failure}");
            }
            (Doubted | Excused, Outcome::Failed(failure)) => {
                tracing::info!("{wnid} failed, which may be the origin's fault: {failure}");
            }
            _ => tracing::debug!(%token, ?verdict, "{wnid} reported, and nothing changed"),
        }
    }
}

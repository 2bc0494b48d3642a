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
    /// The class is complete without a lease, but a worker needs a lease of it to remove the tar
    /// that an earlier run kept. It is not settled yet.
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
    /// Bytes that the worker's process has received, for display.
    pub received: u64,
}

/// Answer to a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Results that the worker need not send again.
    pub acked: Vec<Wnid>,
    /// Whether the session exists. If not, the worker has to register.
    pub is_known: bool,
}

impl Dispatcher {
    /// Settles classes. The answer is sent after the ledger has confirmed the returned entry.
    pub(super) fn report(
        &mut self,
        reporter: &Reporter,
        results: Vec<Reported>,
        reply: Reply<Receipt>,
    ) -> Entry {
        let lease_now = self.lease_now();
        let session = reporter.session;
        let is_known = self
            .table
            .record_call(session, reporter.received, lease_now)
            .is_ok();
        self.table.record_sent_requests(session, reporter.requests);
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
                // A stale failure from an unknown session is not acknowledged: when the worker has
                // registered with the lease that it holds, it repeats the report, which then
                // counts. All other results need not be sent again.
                self.settle(reporter, reported, lease_now, &mut entry) != ReportVerdict::Stale
                    || is_known
            };
            receipt.acked.extend(is_acked.then_some(wnid));
        }
        // If the worker has disconnected by then, it repeats the report, and nothing changes twice.
        entry.answering(reply, receipt)
    }

    /// Settles a class. An answer of the origin can also settle classes whose failure was in doubt
    /// ([`ReportVerdict::Doubted`]). The ledger writes the changes in the order of the entry, so
    /// they go into it in the order in which they happened.
    fn settle(
        &mut self,
        reporter: &Reporter,
        Reported { lease, outcome, .. }: Reported,
        lease_now: Instant,
        entry: &mut Entry,
    ) -> ReportVerdict {
        let wnid = lease.wnid;
        let session = reporter.session;
        let position = self.table.position_in_tar(session, wnid);
        // Spreads the times at which failed classes are tried again.
        let random = rand::random();
        let verdict = self
            .table
            .report(session, lease, &outcome, lease_now, random);
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

    /// Logs a result by its verdict; [`ReportVerdict`] defines them.
    fn log_result(
        &mut self,
        Lease { wnid, token }: Lease,
        outcome: &Outcome,
        verdict: ReportVerdict,
        worker: Option<&str>,
    ) {
        use ReportVerdict::{AttemptFailed, Corrected, Doubted, Excused, Retried, Settled};
        match (verdict, outcome) {
            (Settled, Outcome::Failed(failure)) => self.log.record_failure(wnid, failure),
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

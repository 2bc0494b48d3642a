//! The outbox: results that the coordinator has not acknowledged. A result stays here until it is
//! acknowledged.

use std::collections::HashSet;

use shared::{
    Wnid,
    outcome::Outcome,
    protocol::{MAX_BATCH, MAX_REPORT, MAX_SLOTS},
};

use crate::slots::Lease;

/// With this many results waiting, no new class is leased. Together with the running classes they
/// then fit into one message that lists all held leases.
const LEASING_LIMIT: usize = 1024;
/// Limit for the size of a message in bytes (exceeded only by a single larger result): a slow
/// network must transfer it within the deadline of a call.
const LARGEST_MESSAGE: usize = 1 << 20;
/// Estimated bytes of a result on the wire with its trace context, without the message of a
/// failure.
const RESULT_SIZE: usize = 128;

const _: () = {
    assert!(
        LEASING_LIMIT + MAX_SLOTS as usize <= MAX_BATCH,
        "one message names all leases"
    );
    // The size of a result is an estimate.
    assert!(
        2 * LARGEST_MESSAGE <= MAX_REPORT,
        "a coordinator accepts each report"
    );
};

/// A result that is to be reported to the coordinator.
#[derive(Debug, Clone)]
pub(crate) struct UnreportedResult {
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome,
    /// The class is complete, but a step that requires a lease remains.
    pub(crate) needs_lease: bool,
}

impl UnreportedResult {
    /// Estimated number of bytes on the wire.
    fn size(&self) -> usize {
        match &self.outcome {
            Outcome::Failed(failure) => RESULT_SIZE + failure.message.len(),
            Outcome::Success(_) | Outcome::Skipped(_) => RESULT_SIZE,
        }
    }
}

/// The unacknowledged results, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    results: Vec<UnreportedResult>,
    /// Number of results at the front that were in the last report.
    sent: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Whether the results fill a whole message.
    pub(crate) fn is_full(&self) -> bool {
        self.results.len() >= MAX_BATCH
    }

    /// Whether the coordinator must acknowledge results before more classes are leased.
    pub(crate) fn blocks_leasing(&self) -> bool {
        self.results.len() >= LEASING_LIMIT
    }

    pub(crate) fn add(&mut self, finished: impl IntoIterator<Item = UnreportedResult>) {
        self.results.extend(finished);
    }

    /// The content of the next report: the oldest results, as many as fit.
    pub(crate) fn batch(&mut self) -> &[UnreportedResult] {
        let mut bytes = 0;
        let fits = |finished: &&UnreportedResult| {
            bytes += finished.size();
            bytes <= LARGEST_MESSAGE
        };
        let sent = self.results.iter().take(MAX_BATCH).take_while(fits).count();
        self.sent = sent.max(1).min(self.results.len());
        &self.results[..self.sent]
    }

    /// Removes the results of the last report that are settled. Returns `false` if there were none;
    /// then an immediate retry is useless. A result that was added after the report stays, even if
    /// it is of a settled class.
    pub(crate) fn acknowledge(&mut self, settled: &[Wnid]) -> bool {
        let settled = settled.iter().collect::<HashSet<_>>();
        let before = self.results.len();
        let mut sent = std::mem::take(&mut self.sent);
        self.results.retain(|finished| {
            let was_sent = sent > 0;
            sent = sent.saturating_sub(1);
            !(was_sent && settled.contains(&finished.lease.wnid))
        });
        self.results.len() < before
    }

    /// The leases of the results that are not acknowledged.
    pub(crate) fn leases(&self) -> impl Iterator<Item = Lease> {
        self.results
            .iter()
            .map(|finished| finished.lease)
            .filter(|lease| lease.token.0 > 0)
    }

    /// Removes all results.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use shared::{
        ids::LeaseToken,
        outcome::{Failure, FailureKind, Published},
        telemetry::trace::TraceParent,
    };

    use super::*;

    fn wnid(number: usize) -> Wnid {
        format!("n{number:08}").parse().unwrap()
    }

    fn finished(number: usize, token: u64, outcome: Outcome) -> UnreportedResult {
        UnreportedResult {
            lease: Lease {
                wnid: wnid(number),
                token: LeaseToken(token),
                probe: false,
                trace: TraceParent::default(),
            },
            outcome,
            needs_lease: false,
        }
    }

    fn skipped(number: usize) -> UnreportedResult {
        finished(number, 0, Outcome::Skipped(Published::default()))
    }

    #[test]
    fn a_report_is_bounded_and_no_result_is_lost() {
        let mut outbox = Outbox::default();
        outbox.add((0..10_000).map(skipped));
        let mut sizes = Vec::new();
        while !outbox.is_empty() {
            let settled: Vec<Wnid> = outbox
                .batch()
                .iter()
                .map(|finished| finished.lease.wnid)
                .collect();
            sizes.push(settled.len());
            assert!(outbox.acknowledge(&settled));
        }
        assert_eq!(sizes, [4096, 4096, 1808]);
    }

    #[test]
    fn reports_with_long_failure_messages_hold_fewer_results() {
        let mut outbox = Outbox::default();
        let failure = Failure::new(FailureKind::TarError, "");
        let long = |bytes| {
            Outcome::Failed(Failure {
                message: "x".repeat(bytes),
                ..failure.clone()
            })
        };
        outbox.add((0..10).map(|number| finished(number, 1, long(400_000))));
        assert_eq!(outbox.batch().len(), 2);
        outbox.clear();
        outbox.add([finished(0, 1, long(3 << 20))]);
        assert_eq!(
            outbox.batch().len(),
            1,
            "a result above the size limit is sent alone"
        );
    }

    #[test]
    fn acknowledging_keeps_unsettled_results_and_results_added_after_the_report() {
        let mut outbox = Outbox::default();
        outbox.add([skipped(1), skipped(2)]);
        outbox.batch();
        outbox.add([finished(1, 7, Outcome::Success(Published::default()))]);
        assert!(outbox.acknowledge(&[wnid(1)]));
        let left: Vec<Wnid> = outbox
            .batch()
            .iter()
            .map(|finished| finished.lease.wnid)
            .collect();
        assert_eq!(left, [wnid(2), wnid(1)]);
        assert_eq!(
            outbox.leases().count(),
            1,
            "a result of the inventory has no lease"
        );
        assert!(
            !outbox.acknowledge(&[]),
            "an immediate retry would not help"
        );
    }
}

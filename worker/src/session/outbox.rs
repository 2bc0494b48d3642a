//! Results that the coordinator has not acknowledged. None leaves here before that.

use std::collections::HashSet;

use shared::{Wnid, outcome::Outcome};

use crate::slots::Lease;

/// No message holds more results.
pub(crate) const LARGEST_BATCH: usize = 4096;
/// With so many results waiting nothing new is begun: together with what runs they fit into one list of what is held.
const ENOUGH: usize = 1024;
/// No message is much larger: a slow line must bring it across within the deadline of a call.
const LARGEST_MESSAGE: usize = 1 << 20;
/// A result on the wire with its place in a trace, without the words of a failure.
const RESULT: usize = 128;

/// A result that is to be delivered.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) lease: Lease,
    pub(crate) outcome: Outcome,
    /// The class is complete, but a lease of it still has work to do.
    pub(crate) needs_lease: bool,
}

impl Finished {
    /// About as many bytes as it takes on the wire.
    fn size(&self) -> usize {
        match &self.outcome {
            Outcome::Failed(failure) => RESULT + failure.message.len(),
            Outcome::Success(_) | Outcome::Skipped(_) => RESULT,
        }
    }
}

/// Results in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Unreported {
    results: Vec<Finished>,
    /// So many of the first were in the last report.
    sent: usize,
}

impl Unreported {
    pub(crate) fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Whether a whole message is waiting already.
    pub(crate) fn is_full(&self) -> bool {
        self.results.len() >= LARGEST_BATCH
    }

    /// Whether the coordinator has to settle some of them before there may be more.
    pub(crate) fn pile_up(&self) -> bool {
        self.results.len() >= ENOUGH
    }

    pub(crate) fn add(&mut self, finished: impl IntoIterator<Item = Finished>) {
        self.results.extend(finished);
    }

    /// What goes into the next report: the oldest results, as many as fit.
    pub(crate) fn batch(&mut self) -> &[Finished] {
        let mut bytes = 0;
        let fits = |finished: &&Finished| {
            bytes += finished.size();
            bytes <= LARGEST_MESSAGE
        };
        let sent = self.results.iter().take(LARGEST_BATCH).take_while(fits).count();
        self.sent = sent.max(1).min(self.results.len());
        &self.results[..self.sent]
    }

    /// Forgets what was in the last report and is settled; `false` if that was nothing, so that it is of no use to ask at
    /// once. A result that came since then is another one, also if it is of the same class.
    pub(crate) fn acknowledge(&mut self, settled: &[Wnid]) -> bool {
        let (settled, before) = (settled.iter().collect::<HashSet<_>>(), self.results.len());
        let mut sent = std::mem::take(&mut self.sent);
        self.results.retain(|finished| {
            let was_sent = sent > 0;
            sent = sent.saturating_sub(1);
            !(was_sent && settled.contains(&finished.lease.wnid))
        });
        self.results.len() < before
    }

    /// The leases of what could not be delivered.
    pub(crate) fn leases(&self) -> impl Iterator<Item = Lease> {
        self.results.iter().map(|finished| finished.lease).filter(|lease| lease.token.0 > 0)
    }

    /// Forgets everything.
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

    fn finished(number: usize, token: u64, outcome: Outcome) -> Finished {
        Finished {
            lease: Lease { wnid: wnid(number), token: LeaseToken(token), probe: false, trace: TraceParent::default() },
            outcome,
            needs_lease: false,
        }
    }

    fn skipped(number: usize) -> Finished {
        finished(number, 0, Outcome::Skipped(Published::default()))
    }

    #[test]
    fn a_report_holds_no_more_than_fits_and_nothing_is_lost() {
        let mut unreported = Unreported::default();
        unreported.add((0..10_000).map(skipped));
        let mut sizes = Vec::new();
        while !unreported.is_empty() {
            let settled: Vec<Wnid> = unreported.batch().iter().map(|finished| finished.lease.wnid).collect();
            sizes.push(settled.len());
            assert!(unreported.acknowledge(&settled));
        }
        assert_eq!(sizes, [4096, 4096, 1808]);
    }

    #[test]
    fn long_words_make_short_reports() {
        let mut unreported = Unreported::default();
        let failure = Failure::new(FailureKind::TarError, "");
        let long = |bytes| Outcome::Failed(Failure { message: "x".repeat(bytes), ..failure.clone() });
        unreported.add((0..10).map(|number| finished(number, 1, long(400_000))));
        assert_eq!(unreported.batch().len(), 2);
        unreported.clear();
        unreported.add([finished(0, 1, long(3 << 20))]);
        assert_eq!(unreported.batch().len(), 1, "one that is too long alone goes alone");
    }

    #[test]
    fn what_was_not_acknowledged_stays_and_what_came_since_is_not_meant() {
        let mut unreported = Unreported::default();
        unreported.add([skipped(1), skipped(2)]);
        unreported.batch();
        unreported.add([finished(1, 7, Outcome::Success(Published::default()))]);
        assert!(unreported.acknowledge(&[wnid(1)]));
        let left: Vec<Wnid> = unreported.batch().iter().map(|finished| finished.lease.wnid).collect();
        assert_eq!(left, [wnid(2), wnid(1)]);
        assert_eq!(unreported.leases().count(), 1, "nobody leased what was only found");
        assert!(!unreported.acknowledge(&[]), "asking again at once would not help");
    }
}

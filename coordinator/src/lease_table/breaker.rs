//! The origin's breaker: tells an origin that fails everybody from a class that always fails. Pure.
//!
//! A failure that the origin may have caused is a doubt until any worker gets an answer from the
//! origin: then the class has failed. When [`OPENS_AT`] classes in a row have failed for most
//! workers, and no worker has got an answer, the breaker opens: none of them has failed, and one
//! class at a time probes whether the origin is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shared::{
    ids::{LeaseToken, SessionId},
    outcome::Failure,
};
use tokio::time::Instant;

/// Different classes that fail in a row, for most workers, before the breaker opens. A worker has
/// tried each of them several times.
pub(super) const OPENS_AT: usize = 12;
/// Between two classes that find out: thirty requests in a quarter of an hour.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// An origin that answered in this run is waited for so long; then its classes fail.
pub(super) const PATIENCE: Duration = Duration::from_mins(30);
/// One that has never answered is more likely to be a mistake in `--url`.
pub(super) const PATIENCE_WITH_A_STRANGER: Duration = Duration::from_mins(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    since: Instant,
    next_probe: Instant,
}

/// What a failure of the origin's kind means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nobody knows yet.
    Unclear,
    /// It is the origin: this failure does not count.
    Origin,
    /// The origin was waited for long enough: it counts.
    Class,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: Option<Open>,
    /// Classes that have failed since the last answer of the origin.
    in_a_row: BTreeSet<usize>,
    /// The sessions that failed them, without those that have ended.
    failed_by: BTreeSet<SessionId>,
    /// When the first of these classes failed.
    failing_since: Option<Instant>,
    /// Those of them that nobody will try again, with what they will have failed of if the origin is well.
    doubts: BTreeMap<usize, Failure>,
    /// The last grant before the first of them failed: what was granted later and succeeds, the origin was there for.
    began_after: Option<LeaseToken>,
    has_answered: bool,
}

impl Breaker {
    /// A session has failed a class, and the origin may be to blame. `last`: the last token that
    /// was granted.
    pub(super) fn note(&mut self, class: usize, id: SessionId, last: LeaseToken, now: Instant) {
        self.began_after.get_or_insert(last);
        if self.open.is_none() {
            self.failing_since.get_or_insert(now);
            self.in_a_row.insert(class);
            self.failed_by.insert(id);
        }
    }

    /// Whether so many classes have failed in a row that the origin may be away.
    pub(super) fn is_long(&self) -> bool {
        self.in_a_row.len() >= OPENS_AT
    }

    /// When the first of them failed.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// Whether a session has failed one of them.
    pub(super) fn has_failed(&self, id: SessionId) -> bool {
        self.failed_by.contains(&id)
    }

    /// A session has ended.
    pub(super) fn left(&mut self, id: SessionId) {
        self.failed_by.remove(&id);
    }

    /// What the last failure means. `is_common`: a whole row of classes has failed, and for most
    /// workers.
    pub(super) fn judge(&mut self, is_common: bool, now: Instant) -> Meaning {
        if let Some(open) = self.open {
            return if now - open.since < self.patience() { Meaning::Origin } else { Meaning::Class };
        }
        if !is_common {
            return Meaning::Unclear;
        }
        self.open = Some(Open { since: now, next_probe: now + PROBE_EVERY });
        Meaning::Origin
    }

    /// How long the origin is waited for.
    pub(super) fn patience(&self) -> Duration {
        if self.has_answered { PATIENCE } else { PATIENCE_WITH_A_STRANGER }
    }

    /// Keeps a failure until it is clear who is to blame.
    pub(super) fn doubt(&mut self, class: usize, failure: Failure) {
        self.doubts.insert(class, failure);
    }

    /// The class is no longer in doubt.
    pub(super) fn end_doubt(&mut self, class: usize) {
        self.doubts.remove(&class);
    }

    /// Whether what became of a lease says that the origin is there now: its bytes may be older than the trouble.
    pub(super) fn is_answer(&self, token: LeaseToken) -> bool {
        self.began_after.is_none_or(|began_after| token > began_after)
    }

    /// An earlier coordinator of the run has heard from the origin.
    pub(super) fn has_been_answered(&mut self) {
        self.has_answered = true;
    }

    /// The origin was heard of. Gives the failures that are now the classes' own; whether it was thought to be away.
    pub(super) fn answered(&mut self) -> (BTreeMap<usize, Failure>, bool) {
        self.has_answered = true;
        self.began_after = None;
        self.take_row();
        (std::mem::take(&mut self.doubts), self.open.take().is_some())
    }

    /// Failures that are still in doubt, for whoever decides.
    pub(super) fn take_doubts(&mut self) -> BTreeMap<usize, Failure> {
        std::mem::take(&mut self.doubts)
    }

    /// Classes that failed in a row until the breaker opened.
    pub(super) fn take_row(&mut self) -> BTreeSet<usize> {
        self.failed_by.clear();
        self.failing_since = None;
        std::mem::take(&mut self.in_a_row)
    }

    /// How many classes have failures that are in doubt.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.len() as u64
    }

    /// Classes whose failures are in doubt, in the order of the list.
    #[cfg(test)]
    pub(super) fn doubted(&self) -> Vec<usize> {
        self.doubts.keys().copied().collect()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Since when it is open.
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.open.map(|open| open.since)
    }

    /// Whether it is time for one class to find out.
    pub(super) fn is_probe_due(&self, now: Instant) -> bool {
        self.open.is_some_and(|open| now >= open.next_probe)
    }

    /// One class was sent to find out.
    pub(super) fn probed(&mut self, now: Instant) {
        let patience = self.patience();
        if let Some(open) = &mut self.open {
            // Once it was waited for long enough, nothing is spared any more.
            open.next_probe = if now - open.since < patience { now + PROBE_EVERY } else { now };
        }
    }
}

//! The circuit breaker for the origin: distinguishes an origin that fails all requests from a class
//! that always fails. No I/O, no clock.
//!
//! A failure that the origin may have caused is undecided until any worker gets an answer from the
//! origin; then the class has failed. If [`OPENS_AT`] classes in a row have failed, for most
//! workers, and no worker has got an answer meanwhile, the breaker opens: none of these classes has
//! failed, and one class at a time probes whether the origin is available again.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use shared::{
    ids::{LeaseToken, SessionId},
    outcome::Failure,
};
use tokio::time::Instant;

/// Number of different classes that must fail in a row, for most workers, to open the breaker. A
/// worker has made several attempts at each of them.
pub(super) const OPENS_AT: usize = 12;
/// Interval between two probes: thirty requests in a quarter of an hour.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// Maximum time to wait for an origin that has answered in this run; then its classes fail.
pub(super) const MAX_WAIT: Duration = Duration::from_mins(30);
/// Maximum time to wait for an origin that has never answered, which is more likely a mistake in
/// `--url`.
pub(super) const MAX_WAIT_NEVER_ANSWERED: Duration = Duration::from_mins(2);

/// An open breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    since: Instant,
    next_probe: Instant,
}

/// The cause of a failure of a kind that the origin may have caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// Not decided yet.
    Unclear,
    /// The origin: the failure does not count.
    Origin,
    /// The class: the maximum wait for the origin has passed, so the failure counts.
    Class,
}

/// The breaker's state, and the failures since the origin's last answer.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    open: Option<Open>,
    /// Classes that failed since the last answer of the origin.
    in_a_row: BTreeSet<usize>,
    /// The sessions that failed them, except those that have ended.
    pub(super) failed_by: BTreeSet<SessionId>,
    /// Time of the first of these failures.
    pub(super) failing_since: Option<Instant>,
    /// Undecided failures of classes that are not tried again meanwhile. They become final if the
    /// origin answers.
    pub(super) doubts: BTreeMap<usize, Failure>,
    /// The last token that was granted before the first of these failures. A success under a later
    /// token shows that the origin is available.
    began_after: Option<LeaseToken>,
    /// Whether the origin has answered a worker in this run.
    pub(super) has_answered: bool,
}

impl Breaker {
    /// Records a failure that the origin may have caused. `last`: the last token that was granted.
    pub(super) fn note(&mut self, class: usize, id: SessionId, last: LeaseToken, now: Instant) {
        self.began_after.get_or_insert(last);
        if self.open.is_none() {
            self.failing_since.get_or_insert(now);
            self.in_a_row.insert(class);
            self.failed_by.insert(id);
        }
    }

    /// Whether enough classes have failed in a row that the origin may be unavailable.
    pub(super) fn is_long(&self) -> bool {
        self.in_a_row.len() >= OPENS_AT
    }

    /// Decides the cause of the last failure. `is_common`: a full row of classes has failed, and
    /// for most workers.
    pub(super) fn judge(&mut self, is_common: bool, now: Instant) -> FailureCause {
        match self.open {
            Some(open) if now - open.since < self.patience() => FailureCause::Origin,
            Some(_) => FailureCause::Class,
            None if is_common => {
                self.open = Some(Open {
                    since: now,
                    next_probe: now + PROBE_EVERY,
                });
                FailureCause::Origin
            }
            None => FailureCause::Unclear,
        }
    }

    /// Maximum time to wait for the origin.
    pub(super) fn patience(&self) -> Duration {
        if self.has_answered {
            MAX_WAIT
        } else {
            MAX_WAIT_NEVER_ANSWERED
        }
    }

    /// Whether a success under this token shows that the origin is available now. The bytes of an
    /// older lease may have been received before the first failure.
    pub(super) fn is_answer(&self, token: LeaseToken) -> bool {
        self.began_after
            .is_none_or(|began_after| token > began_after)
    }

    /// Records an answer of the origin. Returns the undecided failures, which are final now, and
    /// whether the breaker was open.
    pub(super) fn answered(&mut self) -> (BTreeMap<usize, Failure>, bool) {
        self.has_answered = true;
        self.began_after = None;
        self.take_row();
        (mem::take(&mut self.doubts), self.open.take().is_some())
    }

    /// Returns the classes that failed in a row, and starts a new row.
    pub(super) fn take_row(&mut self) -> BTreeSet<usize> {
        self.failed_by.clear();
        self.failing_since = None;
        mem::take(&mut self.in_a_row)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// When it opened, if it is open.
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.open.map(|open| open.since)
    }

    /// Whether the next probe is due.
    pub(super) fn is_probe_due(&self, now: Instant) -> bool {
        self.open.is_some_and(|open| now >= open.next_probe)
    }

    /// Records that a probe was granted.
    pub(super) fn probed(&mut self, now: Instant) {
        let patience = self.patience();
        if let Some(open) = &mut self.open {
            // After the maximum wait, classes are granted without delay.
            open.next_probe = if now - open.since < patience {
                now + PROBE_EVERY
            } else {
                now
            };
        }
    }
}

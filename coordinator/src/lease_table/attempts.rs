//! Speculative attempts. Near the end of a job, an idle worker also downloads a class whose holder
//! takes too long, to a storage of its own. The first of the two workers to publish the class
//! settles it, and the other one drops its lease.
//!
//! Invariants: only a leased class has a speculative attempt, and at most one, which no count of
//! classes includes. The class belongs to its holder until the holder loses or fails it; then the
//! lease passes to the speculative attempt. A failure of the attempt ends only the attempt. The
//! bytes of all attempts together are at most [`BUDGET`] percent of the bytes of completed classes.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use shared::ids::{LeaseToken, SessionId};
use tokio::time::Instant;

use super::{
    AttemptEvent, Lease, LeaseNotice, LeaseTable,
    leases::LeaseProgress,
    sessions::{Session, use_different_storages},
    stragglers::{Speeds, time_left},
};

/// Limit on the bytes of all speculative attempts, in percent of the bytes of all classes that were
/// completed since the coordinator started.
const BUDGET: u64 = 3;

/// The lease of a speculative attempt: a second lease of a class.
#[derive(Debug)]
pub(super) struct SpeculativeAttempt {
    pub(super) session: SessionId,
    pub(super) token: LeaseToken,
    pub(super) holding: LeaseProgress,
}

/// The speculative attempts, the classes that may get one, and their budget.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) of: BTreeMap<usize, SpeculativeAttempt>,
    /// Classes that may get an attempt, as of the last scan, in descending order of their remaining
    /// time.
    due: Vec<usize>,
    /// Classes whose attempt failed or was lost; they get no other one.
    failed: HashSet<usize>,
    pub(super) speeds: Speeds,
    /// Bytes of the completed classes, and bytes charged for the attempts.
    pub(super) completed: u64,
    pub(super) charged: u64,
}

impl Attempts {
    /// Progress of the attempt that a session makes under this token.
    pub(super) fn get_mut(
        &mut self,
        class: usize,
        id: SessionId,
        token: LeaseToken,
    ) -> Option<&mut LeaseProgress> {
        let attempt = self.of.get_mut(&class)?;
        (attempt.session == id && attempt.token == token).then_some(&mut attempt.holding)
    }

    /// Records a settled class and its bytes. Returns the attempt, which ends.
    pub(super) fn settled(&mut self, class: usize, bytes: u64) -> Option<SpeculativeAttempt> {
        self.failed.remove(&class);
        self.completed = self.completed.saturating_add(bytes);
        self.of.remove(&class)
    }

    /// Charges bytes that will be received a second time.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.charged = self.charged.saturating_add(bytes);
    }

    /// Whether the budget permits receiving so many bytes a second time.
    pub(super) fn affords(&self, length: u64) -> bool {
        u128::from(self.charged) + u128::from(length)
            <= u128::from(self.completed) * u128::from(BUDGET) / 100
    }
}

impl LeaseTable {
    /// Finds the classes that delay the end of the job, and wakes waiting workers if there are new
    /// ones. `is_paused`: no worker may send requests to the origin now, so no lease counts as
    /// slow.
    pub fn look_for_stragglers(&mut self, is_paused: bool, now: Instant) {
        self.note_pause(is_paused, now);
        let due = if is_paused || !self.may_have_idle_workers() {
            Vec::new()
        } else {
            self.stragglers(now)
        };
        if due.iter().any(|class| !self.attempts.due.contains(class)) {
            self.wake_ups += 1;
        }
        self.attempts.due = due;
        self.scan_for_silent_leases(is_paused, now);
    }

    /// Whether no class is pending that could be granted.
    pub(super) fn no_class_is_pending(&self) -> bool {
        self.recovery.is_none() && self.fresh == self.classes.len() && self.returned.is_empty()
    }

    /// Whether workers may be idle, and the workers use more than one storage.
    fn may_have_idle_workers(&self) -> bool {
        let mut sessions = self.sessions.by_id.values();
        let first = sessions.next();
        self.no_class_is_pending()
            && first.is_some_and(|first| sessions.any(|other| use_different_storages(first, other)))
    }

    fn stragglers(&self, now: Instant) -> Vec<usize> {
        let median = self.attempts.speeds.median();
        let mut found: Vec<(Duration, usize)> = self
            .leases()
            .filter(|(class, _, held)| self.may_get_attempt(*class, held.length))
            .filter_map(|(class, _, held)| Some((time_left(held, median, self.ttl, now)?, class)))
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.into_iter().map(|(_, class)| class).collect()
    }

    fn may_get_attempt(&self, class: usize, length: u64) -> bool {
        !self.attempts.of.contains_key(&class)
            && !self.attempts.failed.contains(&class)
            && self.attempts.affords(length)
    }

    /// Grants an attempt at the class with the longest remaining time, of those that this worker
    /// may attempt.
    pub(super) fn grant_attempt(&mut self, id: SessionId, now: Instant) -> Option<Lease> {
        let session = &self.sessions.by_id[&id];
        let mut due = self.attempts.due.iter();
        let at = due.position(|class| self.may_attempt(*class, session, now))?;
        let class = self.attempts.due.remove(at);
        let (holder, held) = self.holder(class)?;
        let length = held.length;
        let holder = holder.worker_info.worker.clone();
        self.last_token = self.last_token.next();
        let attempt = SpeculativeAttempt {
            session: id,
            token: self.last_token,
            holding: LeaseProgress::granted(now, true),
        };
        self.attempts.of.insert(class, attempt);
        self.attempts.spend(length);
        self.tell_of_attempt(class, id, AttemptEvent::Granted { holder, length });
        Some(Lease {
            wnid: self.classes[class].wnid,
            token: self.last_token,
        })
    }

    fn may_attempt(&self, class: usize, session: &Session, now: Instant) -> bool {
        self.holder(class).is_some_and(|(holder, held)| {
            holder.id != session.id
                && session.is_healthy(now)
                && use_different_storages(session, holder)
                && self.may_get_attempt(class, held.length)
                && !self.class_failures.has_failed(class, session, now)
                && time_left(held, self.attempts.speeds.median(), self.ttl, now).is_some()
        })
    }

    /// Called when the holder has lost or failed a class. Passes the lease to the speculative
    /// attempt and returns true, if there is one.
    pub(super) fn hand_over(&mut self, class: usize) -> bool {
        let Some(attempt) = self.attempts.of.remove(&class) else {
            return false;
        };
        self.classes[class].token = Some(attempt.token);
        self.hold(class, attempt.session, attempt.holding);
        self.tell_of_attempt(class, attempt.session, AttemptEvent::Promoted);
        true
    }

    /// Ends an attempt, which is not a failure of its class. After an attempt that failed or was
    /// lost the class gets no other one. It may get one if the grant never reached its worker, or
    /// if the worker leaves.
    pub(super) fn end_attempt(&mut self, class: usize, news: AttemptEvent) {
        if let Some(attempt) = self.attempts.of.remove(&class) {
            if news == AttemptEvent::Failed {
                self.attempts.failed.insert(class);
                self.classes[class].count_attempt();
            }
            self.tell_of_attempt(class, attempt.session, news);
        }
    }

    /// The classes at which a session makes an attempt.
    pub(super) fn attempted_by(&self, id: SessionId) -> Vec<usize> {
        let attempts = self.attempts.of.iter();
        let its_own = attempts.filter(|(_, attempt)| attempt.session == id);
        its_own.map(|(class, _)| *class).collect()
    }

    /// Records an event of an attempt of this session.
    pub(super) fn tell_of_attempt(&mut self, class: usize, id: SessionId, news: AttemptEvent) {
        if !matches!(news, AttemptEvent::Granted { .. } | AttemptEvent::Promoted) {
            self.slot_was_freed(id);
        }
        let worker = self.worker(id).unwrap_or_default().to_owned();
        self.notices.push(LeaseNotice::Attempt {
            wnid: self.classes[class].wnid,
            worker,
            news,
        });
    }
}

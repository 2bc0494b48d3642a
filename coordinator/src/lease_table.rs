//! The lease table: which worker holds which class, and how each class ended. Pure: no I/O, no
//! clock, no async.
//!
//! Invariants: each class is in exactly one state, and the counts change only where a state
//! changes, so they always add up to the total. A complete class (success or skipped) stays
//! complete. Fencing tokens strictly increase. A success is accepted from any session, a failure
//! only from the session that holds the lease, with its token. A session holds at most as many
//! classes as it has slots.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    time::Duration,
};

use shared::{
    Wnid,
    ids::{CredentialId, LeaseToken, SessionId},
    job::JobStatus,
    outcome::{Failure, Outcome},
};
use tokio::time::Instant;

mod answers;
mod attempts;
mod breaker;
mod class;
mod class_failures;
mod drains;
mod elsewhere;
mod first_answers;
mod grants;
mod high_water;
mod inventories;
mod later_answers;
mod leases;
mod live;
mod live_view;
mod losses;
mod lost_workers;
mod names;
mod pauses;
mod recent;
mod recovery;
mod registration;
mod remaining;
mod sessions;
mod silent;
mod slots;
mod stragglers;
mod transfers;
mod under_way;
mod verdicts;

pub use answers::{
    AttemptEvent, ElsewhereEvent, ElsewhereNotice, Ended, Granted, Lease, LeaseNotice, Registered,
    Renewed, ReportVerdict, ReportedLease, UnknownSession,
};
use attempts::Attempts;
use breaker::Breaker;
pub use breaker::PROBE_EVERY;
use class::{Class, State};
use class_failures::ClassFailureTable;
pub use drains::Drain;
use elsewhere::Elsewhere;
pub use elsewhere::JOIN_TIMEOUT;
use first_answers::FirstAnswers;
use high_water::HighWater;
pub use high_water::Mark;
use inventories::Inventories;
use later_answers::LaterAnswers;
use live::Received;
pub use live::{LiveReport, StateCounts};
use losses::Losses;
use lost_workers::LostWorkers;
use names::Names;
pub use names::Renamed;
use recent::LruMap;
pub use recovery::Expected;
use remaining::Lengths;
use sessions::{FORMER, MOST_SESSIONS, Session, Sessions};
pub use sessions::{Refused, WorkerInfo};

use crate::fleet::Phase;

/// Added to the time to live, so that on any two clocks a worker stops by itself before its leases
/// are granted to another worker.
pub const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// The states, leases and counts of all classes of a job, and the sessions of its workers.
#[derive(Debug, Default)]
pub struct LeaseTable {
    classes: Vec<Class>,
    index: HashMap<Wnid, usize>,
    /// The classes in [`State::Queued`], by its key: the order in which they were returned. They
    /// are granted first.
    returned: BTreeMap<u64, usize>,
    /// The classes in [`State::Delayed`], in the order in which their delays end.
    delayed: BTreeSet<(Instant, usize)>,
    /// The last key in the queue of returned classes.
    last_queued: u64,
    /// The storage that may hold the partial file of a returned class, if it is known.
    begun_on: HashMap<usize, String>,
    /// The worker whose session expired while it held the class, as long as the class is queued:
    /// only that worker may resume its lease.
    lost_by: HashMap<usize, String>,
    /// Cursor in the list: no class before it is in [`State::Fresh`], except those that are
    /// withheld during a recovery.
    fresh: usize,
    high_water: HighWater,
    sessions: Sessions,
    inventories: Inventories,
    names: Names,
    class_failures: ClassFailureTable,
    losses: Losses,
    breaker: Breaker,
    first_answers: FirstAnswers,
    later_answers: LaterAnswers,
    /// Classes that the last run of the same URL left failed. Their refusals are no evidence.
    failed_before: HashSet<usize>,
    attempts: Attempts,
    /// Time of the last call of [`Self::note_pause`].
    last_pause_check: Option<Instant>,
    /// Leased classes whose holders receive no bytes, as of the last scan.
    silent: BTreeSet<usize>,
    /// Time without a byte after which a lease is silent, if its class was never taken.
    silent_after: Duration,
    /// The workers that are expected back after a restart of the coordinator.
    recovery: Option<Expected>,
    /// The drained process of each worker, by the worker's name.
    drains: LruMap<String, Vec<u8>, MOST_SESSIONS>,
    elsewhere: Elsewhere,
    /// Bytes received by each worker process, including the most recent processes whose sessions
    /// have ended.
    received: LruMap<Vec<u8>, Received, { MOST_SESSIONS + FORMER }>,
    /// The workers whose sessions have expired, for display.
    lost: LostWorkers,
    /// Longest time between two observations of a worker.
    observation_interval: Duration,
    first_token: LeaseToken,
    last_token: LeaseToken,
    ttl: Duration,
    /// A class whose holder still names it in heartbeats, but makes no progress for this long, goes
    /// to another worker.
    stuck_after: Duration,
    /// The counts. Changed only together with a state.
    status: JobStatus,
    lengths: Lengths,
    /// The wake-up generation: changes when a worker whose request had no result may be granted a
    /// class.
    wake_ups: u64,
    /// Classes that failed without a report about them.
    given_up: Vec<(Wnid, Failure)>,
    notices: Vec<LeaseNotice>,
}

impl LeaseTable {
    /// A table with all classes pending. `invalid` rows count as failed from the start. `epoch`
    /// must be higher than that of every earlier coordinator of the same workers. `ttl` is the time
    /// to live that workers receive.
    pub fn new(wnids: &[Wnid], invalid: u64, epoch: u32, ttl: Duration) -> Self {
        let count = wnids.len() as u64;
        let first_token = LeaseToken::first(epoch);
        Self {
            classes: wnids.iter().copied().map(Class::fresh).collect(),
            index: wnids
                .iter()
                .enumerate()
                .map(|(position, wnid)| (*wnid, position))
                .collect(),
            high_water: HighWater::at(Mark::from(wnids.len())),
            // Session ids start at the epoch, so a session of an earlier coordinator is never
            // mistaken for one of this coordinator.
            sessions: Sessions::new(SessionId(first_token.0), ttl),
            silent_after: Duration::MAX,
            observation_interval: live::OBSERVATION_INTERVAL,
            first_token,
            last_token: first_token,
            ttl,
            stuck_after: Duration::MAX,
            status: JobStatus {
                total: count + invalid,
                failed: invalid,
                pending: count,
                ..JobStatus::default()
            },
            lengths: Lengths::with_invalid_rows(invalid),
            ..Self::default()
        }
    }

    /// Takes a class from a live worker that makes no progress for this long. Without it such
    /// classes are not taken.
    #[must_use]
    pub fn expecting_progress_within(self, stuck_after: Duration) -> Self {
        Self {
            stuck_after,
            ..self
        }
    }

    /// Grants a class to an idle worker if its holder has received nothing for this long. Without
    /// it such classes are not granted.
    #[must_use]
    pub fn expecting_bytes_within(self, silent_after: Duration) -> Self {
        Self {
            silent_after,
            ..self
        }
    }

    /// Restores the outcome of a class from the ledger, before any lease is granted.
    pub fn restore(&mut self, wnid: Wnid, outcome: &Outcome) {
        if let Some(position) = self.position(wnid) {
            self.set(position, State::of(outcome));
            self.lengths.note(outcome);
        }
        self.breaker.has_answered |= matches!(outcome, Outcome::Success(_));
    }

    /// Restores the names that were used earlier in the run, with their owners.
    pub fn restore_names(&mut self, names: impl IntoIterator<Item = (String, CredentialId)>) {
        for (name, credential) in names {
            self.names.bind(&name, credential);
        }
    }

    fn position(&self, wnid: Wnid) -> Option<usize> {
        self.index.get(&wnid).copied()
    }

    /// The job's counts.
    pub fn status(&self) -> JobStatus {
        self.status
    }

    /// The wake-up generation: changes when a worker whose request had no result may be granted a
    /// class.
    pub fn wake_ups(&self) -> u64 {
        self.wake_ups
    }

    /// Takes the classes that failed without a report about them since the last call.
    pub fn take_given_up(&mut self) -> Vec<(Wnid, Failure)> {
        mem::take(&mut self.given_up)
    }

    /// Takes the notices for log and screen since the last call.
    pub fn take_notices(&mut self) -> Vec<LeaseNotice> {
        mem::take(&mut self.notices)
    }

    /// The phase of the job.
    pub fn phase(&self) -> Phase {
        match () {
            () if self.status.is_done() => Phase::Done,
            () if self.recovery.is_some() => Phase::Recovering,
            () if self.sessions.by_id.is_empty() => Phase::WaitingForWorkers,
            () if self.breaker.is_open() => Phase::OriginPaused,
            () => Phase::Running,
        }
    }

    /// Fails if the session has ended or never existed.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn check_session(&self, id: SessionId) -> Result<(), UnknownSession> {
        self.sessions.get(id).map(drop)
    }

    /// The worker of a session that has not ended.
    pub fn worker(&self, id: SessionId) -> Option<&str> {
        let session = self.sessions.by_id.get(&id)?;
        Some(&session.worker_info.worker)
    }

    /// The number of workers that were heard of (a registration or a heartbeat) within the last
    /// `span`, or that are expected back.
    pub fn heard_of(&self, span: Duration, now: Instant) -> usize {
        let is_recent = |session: &&Session| now <= session.heard + span;
        let heard_of = self.sessions.by_id.values().filter(is_recent).count();
        let missing = self.recovery.as_ref();
        heard_of + missing.map_or(0, |recovery| recovery.workers.len())
    }

    /// Processes timeouts: sessions without a heartbeat end (their tokens stay valid until the
    /// class is granted again), and all deadlines that have passed take effect.
    pub fn tick(&mut self, now: Instant) -> Vec<Ended> {
        let ended = self
            .sessions
            .late(now)
            .into_iter()
            .map(|id| self.expire_session(id, now))
            .collect();
        if self
            .recovery
            .as_ref()
            .is_some_and(|recovery| now >= recovery.until)
        {
            self.end_recovery();
        }
        while let Some((until, position)) = self.delayed.first().copied()
            && until <= now
        {
            self.queue(position);
        }
        self.wait_for_absent(now);
        self.update_states(now);
        let inventories_over = self.inventories.expire(now);
        let quarantines_over = self.sessions.end_quarantines(now);
        if inventories_over || quarantines_over || self.breaker.is_probe_due(now) {
            self.wake_ups += 1;
        }
        self.check_sample(now);
        self.settle_lonely_doubts();
        ended
    }
}

/// A count as a number of elements in memory.
fn to_usize(count: impl TryInto<usize>) -> usize {
    count.try_into().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;

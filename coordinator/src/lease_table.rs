//! The lease table: which worker holds which class, and how each class ended. Pure: no I/O, no
//! clock, no async.
//!
//! Invariants: each class is in exactly one state, and the counts change only where a state
//! changes, so they always add up to the total. A complete class (success or skipped) stays
//! complete. Fencing tokens strictly increase. A success is accepted from any session, a failure
//! only from the session that holds the lease, with its token. A session holds at most as many
//! classes as it has slots.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    time::Duration,
};

use shared::{
    Wnid,
    ids::{CredentialId, LeaseToken, SessionId},
    job::JobStatus,
    outcome::{Failure, Outcome},
    protocol::RENEWALS_PER_TTL,
};
use tokio::time::Instant;

mod answers;
mod attempts;
mod breaker;
mod class;
mod drains;
mod elsewhere;
mod first_answers;
mod grants;
mod high_water;
mod later_answers;
mod leases;
mod losses;
mod names;
mod pauses;
mod recent;
mod recovery;
mod remaining;
mod sessions;
mod silent;
mod slots;
mod stragglers;
mod trouble;
mod under_way;
mod verdicts;

pub use answers::{
    AttemptEvent, ElsewhereEvent, Ended, Granted, Lease, LeaseNotice, Registered, Renewed,
    ReportVerdict, ReportedLease, UnknownSession,
};
use attempts::Attempts;
use breaker::Breaker;
pub use breaker::PROBE_EVERY;
use class::{Class, State};
pub use drains::Drain;
use drains::Drains;
use elsewhere::Elsewhere;
pub use elsewhere::JOIN_TIMEOUT;
use first_answers::FirstAnswers;
use high_water::HighWater;
pub use high_water::Mark;
pub use losses::MAX_LOSSES;
use losses::{LOSS, Loss, Losses, RESTART};
use names::Names;
pub use names::Renamed;
use pauses::Pauses;
use recent::LruMap;
pub use recovery::Expected;
use recovery::Recovery;
use remaining::Lengths;
use sessions::{FORMER, MOST_SESSIONS, NameClaim, Session, Sessions};
pub use sessions::{Refused, WorkerInfo};
use silent::Silent;
use trouble::ClassFailureTable;

use crate::fleet::{Phase, WorkerView};

/// Added to the time to live, so that on any two clocks a worker stops by itself before its leases
/// are granted to another worker.
pub const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// The states, leases and counts of all classes of a job, and the sessions of its workers.
#[derive(Debug)]
pub struct LeaseTable {
    classes: Vec<Class>,
    index: HashMap<Wnid, usize>,
    /// The classes in [`State::Queued`], by its key: the order in which they were returned. They
    /// are granted first.
    returned: BTreeMap<u64, usize>,
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
    names: Names,
    troubles: ClassFailureTable,
    losses: Losses,
    breaker: Breaker,
    first_answers: FirstAnswers,
    attempts: Attempts,
    pauses: Pauses,
    silent: Silent,
    recovery: Option<Recovery>,
    drains: Drains,
    elsewhere: Elsewhere,
    /// Bytes received by each worker process, including the most recent processes whose sessions
    /// have ended.
    received: LruMap<Vec<u8>, u64>,
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
        Self {
            classes: wnids.iter().copied().map(Class::fresh).collect(),
            index: wnids
                .iter()
                .enumerate()
                .map(|(position, wnid)| (*wnid, position))
                .collect(),
            returned: BTreeMap::new(),
            last_queued: 0,
            begun_on: HashMap::new(),
            lost_by: HashMap::new(),
            fresh: 0,
            high_water: HighWater::at(Mark::from(wnids.len())),
            // Session ids start at the epoch, so a session of an earlier coordinator is never
            // mistaken for one of this coordinator.
            sessions: Sessions::new(SessionId(LeaseToken::first(epoch).0), ttl),
            names: Names::default(),
            troubles: ClassFailureTable::default(),
            losses: Losses::default(),
            breaker: Breaker::default(),
            first_answers: FirstAnswers::default(),
            attempts: Attempts::default(),
            pauses: Pauses::default(),
            silent: Silent::default(),
            recovery: None,
            drains: Drains::default(),
            elsewhere: Elsewhere::default(),
            received: LruMap::of_at_most(MOST_SESSIONS + FORMER),
            first_token: LeaseToken::first(epoch),
            last_token: LeaseToken::first(epoch),
            ttl,
            stuck_after: Duration::MAX,
            status: JobStatus {
                total: count + invalid,
                failed: invalid,
                pending: count,
                ..JobStatus::default()
            },
            lengths: Lengths::with_invalid_rows(invalid),
            wake_ups: 0,
            given_up: Vec::new(),
            notices: Vec::new(),
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
    pub fn expecting_bytes_within(self, patience: Duration) -> Self {
        Self {
            silent: Silent::after(patience),
            ..self
        }
    }

    /// Restores the outcome of a class from the ledger, before any lease is granted.
    pub fn restore(&mut self, wnid: Wnid, outcome: &Outcome) {
        if let Some(position) = self.index.get(&wnid).copied() {
            self.set(position, State::of(outcome));
            self.lengths.note(outcome);
        }
        if matches!(outcome, Outcome::Success(_)) {
            self.breaker.has_been_answered();
        }
    }

    /// Restores the names that were used earlier in the run, with their owners.
    pub fn restore_names(&mut self, names: impl IntoIterator<Item = (String, CredentialId)>) {
        for (name, credential) in names {
            self.names.bind(&name, credential);
        }
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

    /// The workers with a session, by name.
    pub fn workers(&self, now: Instant) -> Vec<WorkerView> {
        let received = |instance: &[u8]| self.received.get(instance).copied().unwrap_or_default();
        let mut workers = self.sessions.views(received, now);
        for (_, attempt) in self.attempts.iter() {
            let name = &self.sessions.by_id[&attempt.session].hello.worker;
            if let Ok(at) = workers.binary_search_by(|worker| worker.name.cmp(name)) {
                workers[at].leased += 1;
            }
        }
        workers
    }

    /// Whether a session has not ended.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn known(&self, id: SessionId) -> Result<(), UnknownSession> {
        if self.sessions.by_id.contains_key(&id) {
            Ok(())
        } else {
            Err(UnknownSession)
        }
    }

    /// The worker of a session that has not ended.
    pub fn worker(&self, id: SessionId) -> Option<&str> {
        self.sessions
            .by_id
            .get(&id)
            .map(|session| session.hello.worker.as_str())
    }

    /// The number of workers that were heard of (a registration or a heartbeat) within the last
    /// `span`, or that are expected back.
    pub fn heard_of(&self, span: Duration, now: Instant) -> usize {
        let fresh = self
            .sessions
            .by_id
            .keys()
            .filter(|id| self.sessions.is_fresh(**id, span, now))
            .count();
        fresh + self.recovery.as_ref().map_or(0, Recovery::missing)
    }

    /// Opens a session for a worker process, or returns its existing one. Another process of the
    /// same name ends the older session, whose leases are returned at once.
    ///
    /// # Errors
    /// [`Refused`], for example if both processes are alive. No session changes then.
    pub fn register(
        &mut self,
        hello: &WorkerInfo,
        held: &[ReportedLease],
        now: Instant,
    ) -> Result<Registered, Refused> {
        if !self.names.allow(hello) {
            return Err(Refused::NameOfAnother {
                worker: hello.worker.clone(),
            });
        }
        let mut evicted = None;
        let (session, replaced) = match self.sessions.claim(&hello.worker, &hello.instance, now)? {
            NameClaim::Mine(id) => {
                let renewed = self.sessions.renew(id, now);
                renewed.expect("a session that was found is known");
                (id, None)
            }
            NameClaim::Takeover(id) => {
                let weight = if self.sessions.is_fresh(id, self.ttl / RENEWALS_PER_TTL, now) {
                    RESTART
                } else {
                    LOSS
                };
                let (older, ended) = self.end(id, Some(Loss { weight, at: now }));
                (self.sessions.open(hello, Some(older), now), Some(ended))
            }
            NameClaim::Free => {
                evicted = self.make_room(hello.session)?;
                (self.sessions.open(hello, None, now), None)
            }
        };
        self.count_workers();
        let drain_over = self.drain_again(&hello.worker);
        let drop = self.reconcile(session, held, now);
        let survey = self.needs_inventory(session, held, now);
        self.is_back(&hello.worker);
        let renamed = hello
            .credential
            .map(|credential| self.names.bind(&hello.worker, credential));
        Ok(Registered {
            session,
            drop,
            survey,
            replaced,
            evicted,
            renamed: renamed.unwrap_or_default(),
            drain_over,
        })
    }

    /// Handles a heartbeat: keeps a session and its leases alive, and returns the leases that the
    /// worker must give up. An expired lease is resumed if the class was not granted to another
    /// worker meanwhile. A lease that the worker has not named for a whole time to live (its grant
    /// was lost in transit), or whose transfer makes no progress for a long time, is returned.
    pub fn renew(
        &mut self,
        id: SessionId,
        held: &[ReportedLease],
        received_bytes: u64,
        now: Instant,
    ) -> Result<Renewed, UnknownSession> {
        let heard_before = self.sessions.heard(id)?;
        let instance = self.sessions.renew(id, now)?.to_owned();
        let before = self.received.entry(&instance);
        let more = received_bytes.saturating_sub(*before);
        self.status.received_bytes = self.status.received_bytes.saturating_add(more);
        *before = received_bytes.max(*before);
        if more > 0 {
            let session = self
                .sessions
                .by_id
                .get_mut(&id)
                .expect("it was renewed just now");
            (session.last_received, session.last_progress) = (now, now);
        }
        // Bytes arrived after the origin was considered unavailable, so it is available again.
        if more > 0
            && self
                .breaker
                .open_since()
                .is_some_and(|since| since <= heard_before)
        {
            self.origin_answered(now);
        }
        let drop = self.reconcile(id, held, now);
        self.first_bytes(
            held.iter().map(|held| held.bytes).max().unwrap_or_default(),
            more > 0,
        );
        self.later_bytes(id);
        self.take_back_idle(id, now);
        Ok(Renewed {
            drop,
            drain: self.sessions.by_id[&id].draining,
        })
    }

    /// Binds a session's name to the credential that its worker shows now, after it has read its
    /// token file again. Only the worker knows its session, so this is safe.
    pub fn bind_credential(&mut self, id: SessionId, credential: CredentialId) -> Renamed {
        let Some(session) = self.sessions.by_id.get(&id) else {
            return Renamed::default();
        };
        self.names.bind(&session.hello.worker, credential)
    }

    /// Ends a session at the worker's request. Its classes become pending again without a penalty.
    pub fn leave(&mut self, id: SessionId) -> Result<Ended, UnknownSession> {
        self.known(id)?;
        Ok(self.end(id, None).1)
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
            .is_some_and(|recovery| recovery.is_over_at(now))
        {
            self.end_recovery();
        }
        for position in self.troubles.due(now) {
            self.queue(position);
        }
        self.wait_for_absent(now);
        let surveys_over = self.sessions.expire_surveys(now);
        let quarantines_over = self.sessions.end_quarantines(now);
        if surveys_over || quarantines_over || self.breaker.is_probe_due(now) {
            self.wake_ups += 1;
        }
        self.check_sample(now);
        self.settle_lonely_doubts();
        ended
    }

    fn count_workers(&mut self) {
        self.status.workers = u32::try_from(self.sessions.by_id.len()).unwrap_or(u32::MAX);
        self.high_water.follow(self.sessions.slots);
    }
}

#[cfg(test)]
mod tests;

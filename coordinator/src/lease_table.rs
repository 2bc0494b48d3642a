//! The lease table: who works on what, and how each class ended. Pure: no I/O, no clock, no async.
//!
//! Invariants: each class is in exactly one state, and the counts are changed only where a state
//! changes, so they add up to the total at every instant. A class that is there (success or
//! skipped) stays so. Tokens grow strictly. A success is accepted from any session, a failure only
//! from the session that holds the lease, with its token. A session holds at most as many classes
//! as it has slots.

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
mod breaker;
mod class;
mod copies;
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
    AttemptEvent, ElsewhereEvent, Ended, Granted, Lease, LeaseNotice, Registered, Renewed, ReportVerdict,
    ReportedLease, UnknownSession,
};
use breaker::Breaker;
pub use breaker::PROBE_EVERY;
use class::{Class, State};
use copies::Attempts;
pub use drains::Drain;
use drains::Drains;
use elsewhere::Elsewhere;
pub use elsewhere::PATIENCE;
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

/// Added to the time to live: the worker stops by itself before anybody else gets its leases, on any two clocks.
pub const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct LeaseTable {
    classes: Vec<Class>,
    index: HashMap<Wnid, usize>,
    /// The classes in [`State::Queued`], by its key: the order in which they were given back, first to be granted again.
    returned: BTreeMap<u64, usize>,
    /// The last key in the queue of returned classes.
    last_queued: u64,
    /// The storage on which a returned class was begun, where that is known.
    begun_on: HashMap<usize, String>,
    /// The worker whose session ran out while it held a class, for as long as the class is queued:
    /// only that worker may take it up again.
    lost_by: HashMap<usize, String>,
    /// The cursor over the list: no class before it is in [`State::Fresh`], but for those that are held back in a recovery.
    fresh: usize,
    high_water: HighWater,
    sessions: Sessions,
    names: Names,
    troubles: ClassFailureTable,
    losses: Losses,
    breaker: Breaker,
    first_answers: FirstAnswers,
    copies: Attempts,
    pauses: Pauses,
    silent: Silent,
    recovery: Option<Recovery>,
    drains: Drains,
    elsewhere: Elsewhere,
    /// Bytes received, for each process of a worker, also of the last ones whose session ended.
    received: LruMap<Vec<u8>, u64>,
    first_token: LeaseToken,
    last_token: LeaseToken,
    ttl: Duration,
    /// A class whose worker names it, but which gets no further for so long, goes to another worker.
    stuck_after: Duration,
    /// The only place where anything is counted.
    status: JobStatus,
    lengths: Lengths,
    /// Changes whenever somebody who got nothing may get something.
    turn: u64,
    /// Classes that were settled as failed by something else than a report of their own.
    given_up: Vec<(Wnid, Failure)>,
    notices: Vec<LeaseNotice>,
}

impl LeaseTable {
    /// A table with all classes pending. `invalid` rows count as failed from the start. `epoch` must be higher than that of
    /// any earlier coordinator of the same workers; `ttl` is what workers are told.
    pub fn new(wnids: &[Wnid], invalid: u64, epoch: u32, ttl: Duration) -> Self {
        let count = wnids.len() as u64;
        Self {
            classes: wnids.iter().copied().map(Class::fresh).collect(),
            index: wnids.iter().enumerate().map(|(position, wnid)| (*wnid, position)).collect(),
            returned: BTreeMap::new(),
            last_queued: 0,
            begun_on: HashMap::new(),
            lost_by: HashMap::new(),
            fresh: 0,
            high_water: HighWater::at(Mark::from(wnids.len())),
            // A session of an earlier coordinator must not be taken for one of this.
            sessions: Sessions::new(SessionId(LeaseToken::first(epoch).0), ttl),
            names: Names::default(),
            troubles: ClassFailureTable::default(),
            losses: Losses::default(),
            breaker: Breaker::default(),
            first_answers: FirstAnswers::default(),
            copies: Attempts::default(),
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
            status: JobStatus { total: count + invalid, failed: invalid, pending: count, ..JobStatus::default() },
            lengths: Lengths::with_invalid_rows(invalid),
            turn: 0,
            given_up: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Takes a class from a worker that is alive when it got no further for so long. Without it no class is taken.
    #[must_use]
    pub fn expecting_progress_within(self, stuck_after: Duration) -> Self {
        Self { stuck_after, ..self }
    }

    /// Lets an idle worker take a class of which its holder has received nothing for so long.
    /// Without it no class is taken for that.
    #[must_use]
    pub fn expecting_bytes_within(self, patience: Duration) -> Self {
        Self { silent: Silent::after(patience), ..self }
    }

    /// Settles a class as the ledger has it, before anything is leased.
    pub fn restore(&mut self, wnid: Wnid, outcome: &Outcome) {
        if let Some(position) = self.index.get(&wnid).copied() {
            self.set(position, State::of(outcome));
            self.lengths.note(outcome);
        }
        if matches!(outcome, Outcome::Success(_)) {
            self.breaker.has_been_answered();
        }
    }

    /// Names that were used earlier in the run, and whose they are.
    pub fn restore_names(&mut self, names: impl IntoIterator<Item = (String, CredentialId)>) {
        for (name, credential) in names {
            self.names.bind(&name, credential);
        }
    }

    /// The job's counts.
    pub fn status(&self) -> JobStatus {
        self.status
    }

    /// Changes whenever somebody who got nothing may get something.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// Classes that were settled as failed since the last call, other than by a report of their own.
    pub fn take_given_up(&mut self) -> Vec<(Wnid, Failure)> {
        mem::take(&mut self.given_up)
    }

    /// What people should hear, since the last call.
    pub fn take_notices(&mut self) -> Vec<LeaseNotice> {
        mem::take(&mut self.notices)
    }

    /// What the coordinator is doing.
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
        for (_, copy) in self.copies.iter() {
            let name = &self.sessions.by_id[&copy.session].hello.worker;
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
        if self.sessions.by_id.contains_key(&id) { Ok(()) } else { Err(UnknownSession) }
    }

    /// The worker of a session that has not ended.
    pub fn worker(&self, id: SessionId) -> Option<&str> {
        self.sessions.by_id.get(&id).map(|session| session.hello.worker.as_str())
    }

    /// Workers that were heard of (a registration or a renewal) within the last `span`, or that are expected back.
    pub fn heard_of(&self, span: Duration, now: Instant) -> usize {
        let fresh = self.sessions.by_id.keys().filter(|id| self.sessions.is_fresh(**id, span, now)).count();
        fresh + self.recovery.as_ref().map_or(0, Recovery::missing)
    }

    /// Opens a session for a worker process, or finds the one it has. Another process under the same name ends the older
    /// session, and its leases go back at once.
    ///
    /// # Errors
    /// [`Refused`], for example when both processes are alive; no session is touched then.
    pub fn register(
        &mut self,
        hello: &WorkerInfo,
        held: &[ReportedLease],
        now: Instant,
    ) -> Result<Registered, Refused> {
        if !self.names.allow(hello) {
            return Err(Refused::NameOfAnother { worker: hello.worker.clone() });
        }
        let mut evicted = None;
        let (session, replaced) = match self.sessions.claim(&hello.worker, &hello.instance, now)? {
            NameClaim::Mine(id) => {
                let renewed = self.sessions.renew(id, now);
                renewed.expect("a session that was found is known");
                (id, None)
            }
            NameClaim::Takeover(id) => {
                let weight = if self.sessions.is_fresh(id, self.ttl / RENEWALS_PER_TTL, now) { RESTART } else { LOSS };
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
        let survey = self.has_to_survey(session, held, now);
        self.is_back(&hello.worker);
        let renamed = hello.credential.map(|credential| self.names.bind(&hello.worker, credential));
        Ok(Registered { session, drop, survey, replaced, evicted, renamed: renamed.unwrap_or_default(), drain_over })
    }

    /// Keeps a session and all its leases alive and says which of the held ones to give up. A lease that expired is taken up
    /// again if nobody else got the class meanwhile. One that the worker has not named for a whole time to live (its grant
    /// was lost on the way), or that does not get on for a long time, goes back.
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
            let session = self.sessions.by_id.get_mut(&id).expect("it was renewed just now");
            (session.last_received, session.last_progress) = (now, now);
        }
        // Bytes that came after the origin was given up for away: it is back.
        if more > 0 && self.breaker.open_since().is_some_and(|since| since <= heard_before) {
            self.origin_answered(now);
        }
        let drop = self.reconcile(id, held, now);
        self.first_bytes(held.iter().map(|held| held.bytes).max().unwrap_or_default(), more > 0);
        self.later_bytes(id);
        self.take_back_idle(id, now);
        Ok(Renewed { drop, drain: self.sessions.by_id[&id].draining })
    }

    /// A session's worker shows this credential now, because it has read its token file again. The
    /// name is bound to it: only the worker knows its session.
    pub fn comes_with(&mut self, id: SessionId, credential: CredentialId) -> Renamed {
        let Some(session) = self.sessions.by_id.get(&id) else { return Renamed::default() };
        self.names.bind(&session.hello.worker, credential)
    }

    /// Ends a session on the worker's wish; what it still had is pending again, without a penalty.
    pub fn leave(&mut self, id: SessionId) -> Result<Ended, UnknownSession> {
        self.known(id)?;
        Ok(self.end(id, None).1)
    }

    /// What the time brings: sessions that were not renewed end (their tokens stay good until somebody else gets the class),
    /// and whatever somebody waits for comes due.
    pub fn tick(&mut self, now: Instant) -> Vec<Ended> {
        let ended = self.sessions.late(now).into_iter().map(|id| self.expire_session(id, now)).collect();
        if self.recovery.as_ref().is_some_and(|recovery| recovery.is_over_at(now)) {
            self.end_recovery();
        }
        for position in self.troubles.due(now) {
            self.queue(position);
        }
        self.wait_for_absent(now);
        let surveys_over = self.sessions.expire_surveys(now);
        let quarantines_over = self.sessions.end_quarantines(now);
        if surveys_over || quarantines_over || self.breaker.is_probe_due(now) {
            self.turn += 1;
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

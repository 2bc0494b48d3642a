//! The lease table: who works on what, and how each class ended. Pure: no I/O, no clock, no async.
//!
//! Invariants: each class is in exactly one state, and the counts are changed only where a state changes, so they add up to
//! the total at every instant. A class that is there (success or skipped) stays so. Tokens grow strictly. Good news is
//! believed whoever brings it, bad news only with the token of the last grant.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    time::Duration,
};

use shared::{
    Wnid,
    ids::{LeaseToken, SessionId},
    job::JobStatus,
    outcome::Outcome,
};
use tokio::time::Instant;

mod sessions;

pub use sessions::NameTaken;
use sessions::{Claim, Session, Sessions};

/// Added to the time to live: the worker stops by itself before anybody else gets its leases, on any two clocks.
pub const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// A class whose lease was lost this often takes its workers down with it: it is settled as failed.
pub const MAX_LOSSES: u8 = 10;
/// What a loss counts.
const LOSS: u8 = 10;
/// What it counts when the worker, heard of a moment ago, is there again as a new process: it was started again, or its
/// supervisor is quick. A tenth, so that a crash at each start comes to an end too.
const RESTART: u8 = 1;

/// A class and the fencing token of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The class.
    pub wnid: Wnid,
    /// Who may bring bad news.
    pub token: LeaseToken,
}

/// The session is not known, or not any more: the worker must register again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("find the session: it has ended, register again")]
pub struct UnknownSession;

/// Answer to a registration.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered {
    /// The worker's session.
    pub session: SessionId,
    /// What the worker holds and must give up.
    pub drop: Vec<Wnid>,
    /// The older session of the same worker that this one replaces.
    pub replaced: Option<Ended>,
}

/// A session that ended without a farewell.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The worker's name.
    pub worker: String,
    /// Leases that went back.
    pub returned: usize,
    /// Classes that were lost too often and are settled as failed by this.
    pub given_up: Vec<Wnid>,
}

/// What became of a reported outcome. None of them needs to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Settled by this report.
    Settled,
    /// Was settled as failed; this good news corrects it.
    Corrected,
    /// Was settled before, in the same way or a better one.
    AlreadySettled,
    /// Bad news from somebody whose lease went to another: not believed.
    Stale,
    /// Not a class of this job.
    NotInList,
}

/// The states of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Leased(SessionId),
    Success,
    Skipped,
    Failed,
}

impl State {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => Self::Success,
            Outcome::Skipped(_) => Self::Skipped,
            Outcome::Failed(_) => Self::Failed,
        }
    }
}

/// About 32 bytes, and 20 more in the index.
#[derive(Debug)]
struct Class {
    wnid: Wnid,
    state: State,
    /// Of the last grant; `None` when nobody may refer to it any more.
    token: Option<LeaseToken>,
    /// The sum of what its losses count.
    losses: u8,
    /// Stands in `returned`, at most once, so that this queue never outgrows the list.
    queued: bool,
}

/// See the module.
#[derive(Debug)]
pub struct LeaseTable {
    classes: Vec<Class>,
    index: HashMap<Wnid, usize>,
    /// Given back, first to be granted again. May hold classes that are no longer pending; they are passed over.
    returned: VecDeque<usize>,
    /// Everything before it was granted or settled at some time.
    fresh: usize,
    sessions: Sessions,
    /// Bytes received, for each process of a worker, also after its session ended.
    received: HashMap<Vec<u8>, u64>,
    last_token: LeaseToken,
    ttl: Duration,
    /// The only place where anything is counted.
    status: JobStatus,
}

impl LeaseTable {
    /// A table with all classes pending. `invalid` rows count as failed from the start. `epoch` must be higher than that of
    /// any earlier coordinator of the same workers; `ttl` is what workers are told.
    pub fn new(wnids: &[Wnid], invalid: u64, epoch: u32, ttl: Duration) -> Self {
        let pending = |wnid: &Wnid| Class { wnid: *wnid, state: State::Pending, token: None, losses: 0, queued: false };
        let count = wnids.len() as u64;
        Self {
            classes: wnids.iter().map(pending).collect(),
            index: wnids.iter().enumerate().map(|(position, wnid)| (*wnid, position)).collect(),
            returned: VecDeque::new(),
            fresh: 0,
            // A session of an earlier coordinator must not be taken for one of this.
            sessions: Sessions::new(SessionId(LeaseToken::first(epoch).0), ttl),
            received: HashMap::new(),
            last_token: LeaseToken::first(epoch),
            ttl,
            status: JobStatus { total: count + invalid, failed: invalid, pending: count, ..JobStatus::default() },
        }
    }

    /// The job's counts.
    pub fn status(&self) -> JobStatus {
        self.status
    }

    /// Whether a session has not ended.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn known(&self, id: SessionId) -> Result<(), UnknownSession> {
        if self.sessions.by_id.contains_key(&id) { Ok(()) } else { Err(UnknownSession) }
    }

    /// Sessions whose workers were heard of (a registration or a renewal) within the last `span`.
    pub fn heard_of(&self, span: Duration, now: Instant) -> usize {
        self.sessions.by_id.keys().filter(|id| self.sessions.is_fresh(**id, span, now)).count()
    }

    /// Opens a session for a worker process, or finds the one it has. Another process under the same name ends the older
    /// session, and its leases go back at once.
    ///
    /// # Errors
    /// [`NameTaken`] when both processes are alive; the session of the one that has the name is not touched.
    pub fn register(
        &mut self,
        worker: &str,
        instance: &[u8],
        held: &[Lease],
        now: Instant,
    ) -> Result<Registered, NameTaken> {
        let (session, replaced) = match self.sessions.claim(worker, instance, now)? {
            Claim::Mine(id) => {
                let renewed = self.sessions.renew(id, now);
                renewed.expect("a session that was found is known");
                (id, None)
            }
            Claim::Takeover(id) => {
                let weight = if self.sessions.is_fresh(id, self.ttl / 3, now) { RESTART } else { LOSS };
                let (older, ended) = self.end(id, weight);
                (self.sessions.open(worker, instance, Some(older), now), Some(ended))
            }
            Claim::Free => (self.sessions.open(worker, instance, None, now), None),
        };
        self.count_workers();
        Ok(Registered { session, drop: self.reconcile(session, held, now), replaced })
    }

    /// Keeps a session and all its leases alive and says which of the held ones to give up. A lease that expired is taken up
    /// again if nobody else got the class meanwhile, and a lease that the worker has not named for a whole time to live (its
    /// grant was lost on the way) goes back.
    pub fn renew(
        &mut self,
        id: SessionId,
        held: &[Lease],
        received_bytes: u64,
        now: Instant,
    ) -> Result<Vec<Wnid>, UnknownSession> {
        let instance = self.sessions.renew(id, now)?;
        let before = self.received.entry(instance.to_owned()).or_default();
        self.status.received_bytes += received_bytes.saturating_sub(*before);
        *before = received_bytes.max(*before);
        let drop = self.reconcile(id, held, now);
        self.take_back_forgotten(id, now);
        Ok(drop)
    }

    /// Grants up to `max` classes, given-back ones first, then in list order.
    pub fn acquire(&mut self, id: SessionId, max: usize, now: Instant) -> Result<Vec<Lease>, UnknownSession> {
        self.known(id)?;
        let mut leases = Vec::new();
        while leases.len() < max {
            let Some(position) = self.next_pending() else { break };
            self.last_token = self.last_token.next();
            self.classes[position].token = Some(self.last_token);
            self.lease(position, id, now);
            leases.push(Lease { wnid: self.classes[position].wnid, token: self.last_token });
        }
        Ok(leases)
    }

    /// Settles a class. Idempotent: the same report again changes nothing.
    pub fn report(&mut self, lease: Lease, outcome: &Outcome) -> Verdict {
        let Some(position) = self.index.get(&lease.wnid).copied() else { return Verdict::NotInList };
        let class = &self.classes[position];
        let settled = State::of(outcome);
        let verdict = match (class.state, settled) {
            (State::Success | State::Skipped, _) | (State::Failed, State::Failed) => return Verdict::AlreadySettled,
            (State::Pending | State::Leased(_), State::Failed) if class.token != Some(lease.token) => {
                return Verdict::Stale;
            }
            (State::Failed, _) => Verdict::Corrected,
            (State::Pending | State::Leased(_), _) => Verdict::Settled,
        };
        self.set(position, settled);
        verdict
    }

    /// Settles a class as the ledger has it, before anything is leased.
    pub fn restore(&mut self, wnid: Wnid, outcome: &Outcome) {
        if let Some(position) = self.index.get(&wnid).copied() {
            self.set(position, State::of(outcome));
        }
    }

    /// Takes leases back that were granted but never reached the worker.
    pub fn take_back(&mut self, id: SessionId, leases: &[Lease]) {
        for lease in leases {
            if let Some(position) = self.index.get(&lease.wnid).copied() {
                let class = &self.classes[position];
                if class.state == State::Leased(id) && class.token == Some(lease.token) {
                    self.give_back(position);
                }
            }
        }
    }

    /// Ends a session on the worker's wish; what it still had is pending again, without a penalty.
    pub fn leave(&mut self, id: SessionId) -> Result<Ended, UnknownSession> {
        self.known(id)?;
        Ok(self.end(id, 0).1)
    }

    /// Ends the sessions that were not renewed in time. Their tokens stay good until somebody else gets the class.
    pub fn expire(&mut self, now: Instant) -> Vec<Ended> {
        self.sessions.late(now).into_iter().map(|id| self.expire_session(id)).collect()
    }

    fn expire_session(&mut self, id: SessionId) -> Ended {
        let tokens: Vec<_> =
            self.sessions.by_id[&id].leases.keys().map(|position| (*position, self.classes[*position].token)).collect();
        let (_, ended) = self.end(id, LOSS);
        for (position, token) in tokens {
            self.classes[position].token = token;
        }
        ended
    }

    /// Ends a session and gives back what it had; `weight` is what that counts as a loss.
    fn end(&mut self, id: SessionId, weight: u8) -> (Session, Ended) {
        let mut session = self.sessions.remove(id);
        self.count_workers();
        let mut ended = Ended { worker: session.worker.clone(), returned: 0, given_up: Vec::new() };
        for position in mem::take(&mut session.leases).into_keys() {
            self.classes[position].losses += weight;
            if self.classes[position].losses >= MAX_LOSSES * LOSS {
                self.set(position, State::Failed);
                ended.given_up.push(self.classes[position].wnid);
            } else {
                self.give_back(position);
                ended.returned += 1;
            }
        }
        (session, ended)
    }

    /// Makes a leased class pending; the old token is worth nothing from now on.
    fn give_back(&mut self, position: usize) {
        self.set(position, State::Pending);
        let class = &mut self.classes[position];
        class.token = None;
        if !mem::replace(&mut class.queued, true) {
            self.returned.push_back(position);
        }
    }

    fn next_pending(&mut self) -> Option<usize> {
        while let Some(position) = self.returned.pop_front() {
            self.classes[position].queued = false;
            if self.classes[position].state == State::Pending {
                return Some(position);
            }
        }
        while self.fresh < self.classes.len() {
            self.fresh += 1;
            let class = &self.classes[self.fresh - 1];
            if class.state == State::Pending {
                return Some(self.fresh - 1);
            }
        }
        None
    }

    /// What the session must give up; takes up again what is pending under the very token that it holds.
    fn reconcile(&mut self, id: SessionId, held: &[Lease], now: Instant) -> Vec<Wnid> {
        let mut drop = Vec::new();
        for lease in held {
            let position = self.index.get(&lease.wnid).copied();
            let current = position.filter(|position| self.classes[*position].token == Some(lease.token));
            match current.map(|position| (position, self.classes[position].state)) {
                Some((position, State::Leased(holder))) if holder == id => self.lease(position, id, now),
                Some((position, State::Pending)) => self.lease(position, id, now),
                _ => drop.push(lease.wnid),
            }
        }
        drop
    }

    /// Gives a class to a session, or notes that the session still has it.
    fn lease(&mut self, position: usize, id: SessionId, now: Instant) {
        self.set(position, State::Leased(id));
        self.sessions.by_id.get_mut(&id).expect("leases go to known sessions").leases.insert(position, now);
    }

    fn take_back_forgotten(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.by_id.get(&id) else { return };
        let forgotten = |(position, named): (&usize, &Instant)| (now - *named >= self.ttl).then_some(*position);
        for position in session.leases.iter().filter_map(forgotten).collect::<Vec<_>>() {
            self.give_back(position);
        }
    }

    /// The one place where a class changes its state, and with it the counts and the sessions' leases.
    fn set(&mut self, position: usize, state: State) {
        let before = mem::replace(&mut self.classes[position].state, state);
        *counter(&mut self.status, before) -= 1;
        *counter(&mut self.status, state) += 1;
        if let State::Leased(id) = before
            && let Some(session) = self.sessions.by_id.get_mut(&id)
        {
            session.leases.remove(&position);
        }
    }

    fn count_workers(&mut self) {
        self.status.workers = u32::try_from(self.sessions.by_id.len()).unwrap_or(u32::MAX);
    }
}

fn counter(status: &mut JobStatus, state: State) -> &mut u64 {
    match state {
        State::Pending => &mut status.pending,
        State::Leased(_) => &mut status.leased,
        State::Success => &mut status.success,
        State::Skipped => &mut status.skipped,
        State::Failed => &mut status.failed,
    }
}

#[cfg(test)]
mod tests;

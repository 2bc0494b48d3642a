//! The sessions of workers, and which process owns a worker name if two processes claim it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use shared::{
    ids::{CredentialId, SessionId},
    job::JobStatus,
};
use tokio::time::Instant;

use super::{
    EXPIRY_MARGIN, UnknownSession,
    leases::LeaseProgress,
    live::{Live, StateCounts},
};

/// Maximum number of takeovers of a name within [`TAKEOVER_WINDOW`]; with more of them, two
/// processes use the name.
const MAX_TAKEOVERS: usize = 3;
const TAKEOVER_WINDOW: Duration = Duration::from_mins(1);
/// Number of former processes that are remembered for each name.
const MAX_DISPLACED: usize = 8;
/// Number of failures in a row, while other workers complete their classes, after which a worker is
/// quarantined.
const FAILURES_IN_A_ROW: u32 = 5;
/// Time for which a quarantined worker is granted nothing.
pub(super) const QUARANTINE: Duration = Duration::from_mins(5);
/// Maximum number of sessions: twice the number of workers that a coordinator is tested with. A
/// session takes about 1 KB.
pub(super) const MOST_SESSIONS: usize = 20_000;
/// Number of sessions that are examined to find an idle one to evict.
const SAMPLE: usize = 64;
/// Number of processes and storages that are remembered after their sessions have ended.
pub(super) const FORMER: usize = 1024;

/// Reason for which a registration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Two live processes use one name; the process that has the session keeps it.
    #[error("two workers are called {worker}; give each its own --name")]
    NameTaken {
        /// The name.
        worker: String,
    },
    /// Another credential has used the name in this run.
    #[error(
        "the name {worker} belongs to another token in this run; give this worker its own --name, or the token that used \
         the name first"
    )]
    NameOfAnother {
        /// The name.
        worker: String,
    },
    /// The maximum number of sessions is reached, and no idle one was found.
    #[error(
        "{MOST_SESSIONS} workers are registered, and there is no room for more; try again later"
    )]
    TooMany,
}

/// Name, capacity and credential of a worker process, as its registration states them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Name of the worker, stable across restarts.
    pub worker: String,
    /// Nonce of the process.
    pub instance: Vec<u8>,
    /// Number of slots: it holds at most so many classes.
    pub slots: u32,
    /// Id of the storage, which several workers may share; empty where it is not known.
    pub storage: String,
    /// Version of the worker.
    pub build: String,
    /// Name of its host, for display; empty if unknown.
    pub host: String,
    /// Whether the process reports that it drains.
    pub draining: bool,
    /// Id for a new session, drawn at random by the caller, so that other workers cannot guess it.
    /// If it is 0 or in use, sessions are numbered.
    pub session: u64,
    /// The credential that the process authenticated with; `None` where none is required.
    pub credential: Option<CredentialId>,
    /// All credentials that are valid now.
    pub valid: Vec<CredentialId>,
}

/// The session of one worker.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) worker_info: WorkerInfo,
    /// Time of the registration or of the last heartbeat.
    pub(super) heard: Instant,
    pub(super) leases: BTreeMap<usize, LeaseProgress>,
    /// The processes that had the name before, and when each lost it.
    displaced: VecDeque<(Vec<u8>, Instant)>,
    /// One of them is alive: the name passes to no other process while this session lasts.
    contested: bool,
    /// Whether the worker is drained.
    pub(super) draining: bool,
    /// An `Acquire` call asked for more leases than there were free slots, so it may wait for a
    /// slot.
    pub(super) waits_for_slot: bool,
    pub(super) quarantined_until: Option<Instant>,
    /// Number of failures since the last success that the worker may have caused, and the time of
    /// the first of them.
    in_a_row: u32,
    in_a_row_since: Instant,
    pub(super) last_success: Option<Instant>,
    /// Time of the last heartbeat that reported newly received bytes, of any class.
    pub(super) last_received: Instant,
    /// The same, moved forward by the pauses since then.
    pub(super) last_progress: Instant,
    /// The classes that it has settled.
    pub(super) settled: JobStatus,
    pub(super) live: Live,
}

impl Session {
    /// The key under which failures that the worker caused are recorded. It names the storage, if
    /// known, because workers that share a storage fail for the same reason.
    pub(super) fn host_key(&self) -> String {
        if self.worker_info.storage.is_empty() {
            self.name_key()
        } else {
            format!("storage {}", self.worker_info.storage)
        }
    }

    /// The key under which all other failures are recorded.
    pub(super) fn name_key(&self) -> String {
        format!("worker {}", self.worker_info.worker)
    }

    pub(super) fn is_quarantined(&self, now: Instant) -> bool {
        self.quarantined_until.is_some_and(|until| now < until)
    }

    /// Whether the worker may be granted classes.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        !self.draining && !self.is_quarantined(now)
    }

    /// Decides whether another process may have the name of this session. The newest process gets
    /// it, which usually is a restarted worker. If a process registers again that had lost the
    /// name, it is alive, so two processes use the name.
    pub(super) fn allow_takeover(&mut self, instance: &[u8], now: Instant) -> Result<(), Refused> {
        let mut displaced = self.displaced.iter();
        self.contested |= displaced.any(|(older, _)| older == instance);
        let is_recent = |(_, lost): &&(_, Instant)| now - *lost < TAKEOVER_WINDOW;
        let takeovers = self.displaced.iter().filter(is_recent).count();
        if self.contested || takeovers >= MAX_TAKEOVERS {
            return Err(Refused::NameTaken {
                worker: self.worker_info.worker.clone(),
            });
        }
        Ok(())
    }
}

/// The sessions that have not ended.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) by_id: BTreeMap<SessionId, Session>,
    pub(super) by_worker: HashMap<String, SessionId>,
    /// Total number of slots.
    pub(super) slots: u64,
    /// The sessions in each state, as of their last update.
    pub(super) states: StateCounts,
    last: SessionId,
    pub(super) ttl: Duration,
}

impl Sessions {
    /// No sessions; ids are numbered after `last`.
    pub(super) fn new(last: SessionId, ttl: Duration) -> Self {
        Self {
            last,
            ttl,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, id: SessionId) -> Result<&Session, UnknownSession> {
        self.by_id.get(&id).ok_or(UnknownSession)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Result<&mut Session, UnknownSession> {
        self.by_id.get_mut(&id).ok_or(UnknownSession)
    }

    /// The session of the worker of this name.
    pub(super) fn of_worker(&mut self, worker: &str) -> Option<&mut Session> {
        self.by_id.get_mut(self.by_worker.get(worker)?)
    }

    /// Opens a session. `replaced`: the previous session of the name.
    pub(super) fn open(
        &mut self,
        worker_info: &WorkerInfo,
        replaced: Option<Session>,
        now: Instant,
    ) -> SessionId {
        let mut displaced = VecDeque::new();
        if let Some(older) = replaced {
            displaced = older.displaced;
            displaced.push_back((older.worker_info.instance, now));
            if displaced.len() > MAX_DISPLACED {
                displaced.pop_front();
            }
        }
        let drawn = SessionId(worker_info.session);
        let id = if drawn.0 == 0 || self.by_id.contains_key(&drawn) {
            self.last = SessionId(self.last.0 + 1);
            self.last
        } else {
            drawn
        };
        let session = Session {
            id,
            worker_info: worker_info.clone(),
            heard: now,
            leases: BTreeMap::new(),
            displaced,
            contested: false,
            draining: false,
            waits_for_slot: false,
            quarantined_until: None,
            in_a_row: 0,
            in_a_row_since: now,
            last_success: None,
            last_received: now,
            last_progress: now,
            settled: JobStatus::default(),
            live: Live::of_new_session(now),
        };
        self.states.add(session.live.state);
        self.by_id.insert(id, session);
        self.slots += u64::from(worker_info.slots);
        self.by_worker.insert(worker_info.worker.clone(), id);
        id
    }

    /// Records that a worker has completed a class.
    pub(super) fn succeeded(&mut self, id: SessionId, now: Instant) {
        if let Some(session) = self.by_id.get_mut(&id) {
            session.in_a_row = 0;
            session.last_success = Some(now);
            session.quarantined_until = None;
        }
    }

    /// Records that a worker has failed a class that other workers may complete. Returns whether
    /// the worker is quarantined for it.
    pub(super) fn failed(&mut self, id: SessionId, now: Instant) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else {
            return false;
        };
        if session.in_a_row == 0 {
            session.in_a_row_since = now;
        }
        session.in_a_row += 1;
        if session.in_a_row < FAILURES_IN_A_ROW {
            return false;
        }
        let since = session.in_a_row_since;
        let mut successes = self.by_id.values().filter(|other| other.id != id);
        if !successes.any(|other| other.last_success >= Some(since)) {
            return false;
        }
        let session = self.by_id.get_mut(&id).expect("it was there a moment ago");
        session.in_a_row = 0;
        session.quarantined_until = Some(now + QUARANTINE);
        true
    }

    /// Ends quarantines whose time has passed. Returns whether there were any.
    pub(super) fn end_quarantines(&mut self, now: Instant) -> bool {
        let is_over = |until: &mut Instant| *until <= now;
        let sessions = self.by_id.values_mut();
        let ended = sessions.filter_map(|session| session.quarantined_until.take_if(is_over));
        ended.count() > 0
    }

    /// Of [`SAMPLE`] sessions that follow this id, the matching one whose last heartbeat is the
    /// oldest. The caller draws the id at random.
    pub(super) fn sample(&self, id: u64, fits: impl Fn(&Session) -> bool) -> Option<SessionId> {
        let behind = self.by_id.range(SessionId(id)..).chain(&self.by_id);
        behind
            .take(SAMPLE)
            .filter(|(_, session)| fits(session))
            .min_by_key(|(_, session)| session.heard)
            .map(|(id, _)| *id)
    }

    /// Whether a matching worker may be granted classes.
    pub(super) fn any_healthy(&self, now: Instant, fits: impl Fn(&Session) -> bool) -> bool {
        self.by_id
            .values()
            .any(|session| session.is_healthy(now) && fits(session))
    }

    /// Whether a worker that may be granted classes, and whose time to live has not passed, has
    /// completed a class in its session.
    pub(super) fn is_there_proven(&self, now: Instant) -> bool {
        self.any_healthy(now, |session| {
            session.last_success.is_some() && !self.is_late(session, now)
        })
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Session {
        let session = self.by_id.remove(&id).expect("only known sessions end");
        self.by_worker.remove(&session.worker_info.worker);
        self.states.remove(session.live.state);
        self.slots -= u64::from(session.worker_info.slots);
        session
    }

    /// The sessions whose time to live has passed.
    pub(super) fn late(&self, now: Instant) -> Vec<SessionId> {
        let sessions = self.by_id.values();
        let late = sessions.filter(|session| self.is_late(session, now));
        late.map(|session| session.id).collect()
    }

    fn is_late(&self, session: &Session, now: Instant) -> bool {
        session.heard + self.ttl + EXPIRY_MARGIN <= now
    }
}

/// Whether two workers write to different storages. A worker whose storage is not known counts as
/// having its own.
pub(super) fn use_different_storages(one: &Session, other: &Session) -> bool {
    one.worker_info.storage.is_empty() || one.worker_info.storage != other.worker_info.storage
}

//! The sessions of workers, and which process owns a worker name if two processes claim it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use shared::ids::{CredentialId, SessionId};
use tokio::time::Instant;

use super::{EXPIRY_MARGIN, UnknownSession, leases::LeaseProgress, recent::LruMap};
use crate::fleet::{WorkerState, WorkerView};

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
/// Time for which other workers wait for the inventory of a worker's storage.
pub(super) const INVENTORY_TIMEOUT: Duration = Duration::from_secs(30);
/// All inventories together delay the first grant by at most this, however many storages register.
pub(super) const ALL_INVENTORIES_TIMEOUT: Duration = Duration::from_mins(1);
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
    pub(super) hello: WorkerInfo,
    expires: Instant,
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
    quarantined_until: Option<Instant>,
    /// Number of failures since the last success that the worker may have caused, and the time of
    /// the first of them.
    in_a_row: u32,
    in_a_row_since: Instant,
    pub(super) last_success: Option<Instant>,
    /// Time of the last heartbeat that reported newly received bytes, of any class.
    pub(super) last_received: Instant,
    /// The same, moved forward by the pauses since then.
    pub(super) last_progress: Instant,
    /// Number of classes that it has settled: success, skipped, failed.
    pub(super) settled: [u64; 3],
}

impl Session {
    /// The key under which failures that the worker caused are recorded. It names the storage, if
    /// known, because workers that share a storage fail for the same reason.
    pub(super) fn host_key(&self) -> String {
        if self.hello.storage.is_empty() {
            self.name_key()
        } else {
            format!("storage {}", self.hello.storage)
        }
    }

    /// The key under which all other failures are recorded.
    pub(super) fn name_key(&self) -> String {
        format!("worker {}", self.hello.worker)
    }

    /// Both keys under which its failures are recorded.
    pub(super) fn keys(&self) -> [String; 2] {
        [self.name_key(), self.host_key()]
    }

    pub(super) fn is_quarantined(&self, now: Instant) -> bool {
        self.quarantined_until.is_some_and(|until| now < until)
    }

    /// Whether the worker may be granted classes.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        !self.draining && !self.is_quarantined(now)
    }

    fn view(&self, ttl: Duration, received: u64, now: Instant) -> WorkerView {
        let state = match (self.draining, self.is_quarantined(now)) {
            (true, _) => WorkerState::Draining,
            (_, true) => WorkerState::Quarantined,
            _ => WorkerState::Active,
        };
        let [success, skipped, failed] = self.settled;
        WorkerView {
            name: self.hello.worker.clone(),
            state,
            slots: self.hello.slots,
            leased: u32::try_from(self.leases.len()).unwrap_or(u32::MAX),
            success,
            skipped,
            failed,
            received_bytes: received,
            silent: (now + ttl + EXPIRY_MARGIN).saturating_duration_since(self.expires),
            storage: self.hello.storage.clone(),
            build: self.hello.build.clone(),
        }
    }
}

/// State of a name for a process that registers under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameClaim {
    /// The process already has the session.
    Mine(SessionId),
    /// The session belongs to another process, which is assumed to have ended.
    Takeover(SessionId),
    /// The name has no session.
    Free,
}

/// The sessions that have not ended.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) by_id: BTreeMap<SessionId, Session>,
    pub(super) by_worker: HashMap<String, SessionId>,
    /// Total number of slots.
    pub(super) slots: u64,
    last: SessionId,
    ttl: Duration,
    /// Sessions whose workers are taking the inventory of their storage, and since when.
    surveys: BTreeMap<SessionId, Instant>,
    /// When the first inventory of the run began.
    first_inventory: Option<Instant>,
    /// Storages whose inventory was requested from a worker.
    surveyed: LruMap<String, bool>,
}

impl Sessions {
    /// No sessions; ids are numbered after `last`.
    pub(super) fn new(last: SessionId, ttl: Duration) -> Self {
        let by_id = BTreeMap::new();
        let by_worker = HashMap::new();
        let surveys = BTreeMap::new();
        let surveyed = LruMap::of_at_most(FORMER);
        Self {
            by_id,
            by_worker,
            slots: 0,
            last,
            ttl,
            surveys,
            first_inventory: None,
            surveyed,
        }
    }

    /// Decides whether a process may have a name. The newest process gets it, which usually is a
    /// restarted worker. If a process registers again that had lost the name, it is alive, so two
    /// processes use the name.
    pub(super) fn claim(
        &mut self,
        worker: &str,
        instance: &[u8],
        now: Instant,
    ) -> Result<NameClaim, Refused> {
        let Some(id) = self.by_worker.get(worker).copied() else {
            return Ok(NameClaim::Free);
        };
        let session = self
            .by_id
            .get_mut(&id)
            .expect("names lead to known sessions");
        if session.hello.instance == instance {
            return Ok(NameClaim::Mine(id));
        }
        session.contested |= session.displaced.iter().any(|(older, _)| older == instance);
        let lately = session
            .displaced
            .iter()
            .filter(|(_, lost)| now - *lost < TAKEOVER_WINDOW)
            .count();
        if session.contested || lately >= MAX_TAKEOVERS {
            return Err(Refused::NameTaken {
                worker: worker.to_owned(),
            });
        }
        Ok(NameClaim::Takeover(id))
    }

    /// Opens a session. `replaced`: the previous session of the name.
    pub(super) fn open(
        &mut self,
        hello: &WorkerInfo,
        replaced: Option<Session>,
        now: Instant,
    ) -> SessionId {
        let mut displaced = VecDeque::new();
        if let Some(older) = replaced {
            displaced = older.displaced;
            displaced.push_back((older.hello.instance, now));
            if displaced.len() > MAX_DISPLACED {
                displaced.pop_front();
            }
        }
        let drawn = SessionId(hello.session);
        let id = if drawn.0 == 0 || self.by_id.contains_key(&drawn) {
            self.last = SessionId(self.last.0 + 1);
            self.last
        } else {
            drawn
        };
        let session = Session {
            hello: hello.clone(),
            expires: now + self.ttl + EXPIRY_MARGIN,
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
            settled: [0; 3],
        };
        self.by_id.insert(id, session);
        self.slots += u64::from(hello.slots);
        self.by_worker.insert(hello.worker.clone(), id);
        id
    }

    /// Whether a worker must report the inventory of its storage: it was requested from no other
    /// worker, or this worker has not finished it.
    pub(super) fn survey(&mut self, id: SessionId, now: Instant) -> bool {
        let storage = &self.by_id[&id].hello.storage;
        let asked = !storage.is_empty() && !std::mem::replace(self.surveyed.entry(storage), true);
        if asked {
            self.first_inventory.get_or_insert(now);
            self.surveys.insert(id, now);
        }
        asked || self.surveys.contains_key(&id)
    }

    /// Number of storages that are remembered.
    #[cfg(test)]
    pub(super) fn remembered_storages(&self) -> usize {
        self.surveyed.values().count()
    }

    /// Records that a worker has reported its inventory. Returns whether other workers may have
    /// waited for it.
    pub(super) fn end_survey(&mut self, id: SessionId) -> bool {
        self.surveys.remove(&id).is_some()
    }

    /// Whether grants wait for the inventory of some storage.
    pub(super) fn is_surveying(&self, now: Instant) -> bool {
        let in_time = self
            .first_inventory
            .is_some_and(|first| now - first < ALL_INVENTORIES_TIMEOUT);
        in_time
            && self
                .surveys
                .values()
                .any(|since| now - *since < INVENTORY_TIMEOUT)
    }

    /// Stops waiting for inventories that take too long. Returns whether there were any.
    pub(super) fn expire_surveys(&mut self, now: Instant) -> bool {
        let before = self.surveys.len();
        let in_time = self
            .first_inventory
            .is_some_and(|first| now - first < ALL_INVENTORIES_TIMEOUT);
        self.surveys
            .retain(|_, since| in_time && now - *since < INVENTORY_TIMEOUT);
        self.surveys.len() < before
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
        let since = session.in_a_row_since;
        let enough = session.in_a_row >= FAILURES_IN_A_ROW;
        let is_known_to_work = |(other, session): (&SessionId, &Session)| {
            *other != id && session.last_success.is_some_and(|success| success >= since)
        };
        if !enough || !self.by_id.iter().any(is_known_to_work) {
            return false;
        }
        let session = self.by_id.get_mut(&id).expect("it was there a moment ago");
        session.in_a_row = 0;
        session.quarantined_until = Some(now + QUARANTINE);
        true
    }

    /// Ends quarantines whose time has passed. Returns whether there were any.
    pub(super) fn end_quarantines(&mut self, now: Instant) -> bool {
        let mut ended = false;
        for session in self.by_id.values_mut() {
            if session.quarantined_until.is_some_and(|until| until <= now) {
                session.quarantined_until = None;
                ended = true;
            }
        }
        ended
    }

    /// Of [`SAMPLE`] sessions that follow this id, the matching one whose last heartbeat is the
    /// oldest. The caller draws the id at random.
    pub(super) fn sample(&self, id: u64, fits: impl Fn(&Session) -> bool) -> Option<SessionId> {
        let behind = self
            .by_id
            .range(SessionId(id)..)
            .chain(&self.by_id)
            .take(SAMPLE);
        let fitting = behind.filter(|(_, session)| fits(session));
        fitting
            .min_by_key(|(_, session)| session.expires)
            .map(|(id, _)| *id)
    }

    /// Whether a matching worker other than this one may be granted classes.
    pub(super) fn is_there_another(
        &self,
        id: SessionId,
        now: Instant,
        fits: impl Fn(&Session) -> bool,
    ) -> bool {
        self.by_id
            .iter()
            .any(|(other, session)| *other != id && session.is_healthy(now) && fits(session))
    }

    /// Whether a worker that may be granted classes, and whose time to live has not passed, has
    /// completed a class in its session.
    pub(super) fn is_there_proven(&self, now: Instant) -> bool {
        let is_proven = |session: &Session| session.last_success.is_some() && now < session.expires;
        self.by_id
            .values()
            .any(|session| is_proven(session) && session.is_healthy(now))
    }

    /// All workers, by name.
    pub(super) fn views(&self, received: impl Fn(&[u8]) -> u64, now: Instant) -> Vec<WorkerView> {
        let view =
            |session: &Session| session.view(self.ttl, received(&session.hello.instance), now);
        let mut views: Vec<WorkerView> = self.by_id.values().map(view).collect();
        views.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// Records a heartbeat of a worker. Returns the nonce of its process.
    pub(super) fn renew(&mut self, id: SessionId, now: Instant) -> Result<&[u8], UnknownSession> {
        let session = self.by_id.get_mut(&id).ok_or(UnknownSession)?;
        session.expires = now + self.ttl + EXPIRY_MARGIN;
        Ok(&session.hello.instance)
    }

    /// Time of the last heartbeat of a worker.
    pub(super) fn heard(&self, id: SessionId) -> Result<Instant, UnknownSession> {
        let session = self.by_id.get(&id).ok_or(UnknownSession)?;
        Ok(session.expires - (self.ttl + EXPIRY_MARGIN))
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Session {
        let session = self.by_id.remove(&id).expect("only known sessions end");
        self.by_worker.remove(&session.hello.worker);
        self.slots -= u64::from(session.hello.slots);
        if self.surveys.remove(&id).is_some() {
            // Another worker must report the inventory.
            self.surveyed.remove(&session.hello.storage);
        }
        session
    }

    /// The sessions whose time to live has passed.
    pub(super) fn late(&self, now: Instant) -> Vec<SessionId> {
        self.by_id
            .iter()
            .filter_map(|(id, session)| (session.expires <= now).then_some(*id))
            .collect()
    }

    /// Whether the last heartbeat of a worker is at most `span` ago.
    pub(super) fn is_fresh(&self, id: SessionId, span: Duration, now: Instant) -> bool {
        self.by_id
            .get(&id)
            .is_some_and(|session| now + self.ttl + EXPIRY_MARGIN <= session.expires + span)
    }
}

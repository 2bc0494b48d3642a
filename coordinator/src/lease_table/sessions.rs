//! Who works: the workers' sessions, and whose a name is when two processes say that it is theirs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use shared::ids::{CredentialId, SessionId};
use tokio::time::Instant;

use super::{EXPIRY_MARGIN, UnknownSession, leases::Holding, recent::Recent};
use crate::fleet::{WorkerState, WorkerView};

/// A name that changes hands more often than this in [`TAKEOVER_WINDOW`] has two owners.
const MAX_TAKEOVERS: usize = 3;
const TAKEOVER_WINDOW: Duration = Duration::from_mins(1);
/// So many of the processes that had a name are remembered.
const REMEMBERED: usize = 8;
/// A worker that failed so many classes in a row, while others did theirs, is at fault itself.
const FAILURES_IN_A_ROW: u32 = 5;
/// It gets nothing for so long.
pub(super) const QUARANTINE: Duration = Duration::from_mins(5);
/// Others wait so long for a worker to say what its storage has.
pub(super) const SURVEY: Duration = Duration::from_secs(30);
/// All inventories together delay the first grant by at most this, however many storages register.
pub(super) const SURVEYS: Duration = Duration::from_mins(1);
/// Sessions at the same time: twice the workers that one coordinator is tested with. A session
/// takes about 1 KB.
pub(super) const MOST_SESSIONS: usize = 20_000;
/// Sessions that are examined for an idle one to evict.
const SAMPLE: usize = 64;
/// Processes and storages that are remembered after their sessions have ended.
pub(super) const FORMER: usize = 1024;

/// Why a process gets no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Two living processes have one name: the one that has it keeps it.
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
    /// There are as many sessions as there may be, and no idle one was found.
    #[error("{MOST_SESSIONS} workers are registered, and there is no room for more; try again later")]
    TooMany,
}

/// How a worker introduces itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Stable name.
    pub worker: String,
    /// New for each process.
    pub instance: Vec<u8>,
    /// Parallel downloads: it holds at most so many classes.
    pub slots: u32,
    /// Names the storage that it shares with others; empty where it is not known.
    pub storage: String,
    /// Its version.
    pub build: String,
    /// The process was told to end, and says so.
    pub draining: bool,
    /// The session that it gets if it has none, drawn by the caller, so that nobody can guess another worker's. Where it is
    /// 0 or taken, sessions are numbered.
    pub session: u64,
    /// What it has proved itself with; `None` where nothing is asked for.
    pub credential: Option<CredentialId>,
    /// All credentials that are valid now.
    pub valid: Vec<CredentialId>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) hello: Hello,
    expires: Instant,
    pub(super) leases: BTreeMap<usize, Holding>,
    /// The processes that had the name before, and when each lost it.
    displaced: VecDeque<(Vec<u8>, Instant)>,
    /// One of them turned out to be alive: nobody gets the name any more while this session lasts.
    contested: bool,
    /// Told to end.
    pub(super) draining: bool,
    /// It asked for more leases than it had free slots, so a call of it may wait for a slot.
    pub(super) waits_for_slot: bool,
    quarantined_until: Option<Instant>,
    /// Failures since its last success that may be its own, and when the first of them came.
    in_a_row: u32,
    in_a_row_since: Instant,
    pub(super) last_success: Option<Instant>,
    /// When it last said that more bytes have come, of whatever class.
    pub(super) last_received: Instant,
    /// The same, but pauses since then are not counted.
    pub(super) last_progress: Instant,
    /// What it has settled: success, skipped, failed.
    pub(super) settled: [u64; 3],
}

impl Session {
    /// What a failure that is the worker's own is noted under: its storage is as good as its name where others share it.
    pub(super) fn host_key(&self) -> String {
        if self.hello.storage.is_empty() { self.name_key() } else { format!("storage {}", self.hello.storage) }
    }

    /// What any other failure is noted under.
    pub(super) fn name_key(&self) -> String {
        format!("worker {}", self.hello.worker)
    }

    /// All that its failures are noted under.
    pub(super) fn keys(&self) -> [String; 2] {
        [self.name_key(), self.host_key()]
    }

    pub(super) fn is_quarantined(&self, now: Instant) -> bool {
        self.quarantined_until.is_some_and(|until| now < until)
    }

    /// Whether it gets classes at all.
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

/// What a process finds that registers under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Its own session.
    Mine(SessionId),
    /// That of another process, which has ended as far as anybody knows.
    Takeover(SessionId),
    /// None.
    Free,
}

/// The sessions that have not ended.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) by_id: BTreeMap<SessionId, Session>,
    pub(super) by_worker: HashMap<String, SessionId>,
    /// Of all of them together.
    pub(super) slots: u64,
    last: SessionId,
    ttl: Duration,
    /// Who is looking at what its storage has, and since when.
    surveys: BTreeMap<SessionId, Instant>,
    /// When the first one began.
    first_survey: Option<Instant>,
    /// Storages that a worker was asked about.
    surveyed: Recent<String, bool>,
}

impl Sessions {
    /// None yet; ids begin after `last`.
    pub(super) fn new(last: SessionId, ttl: Duration) -> Self {
        let (by_id, by_worker) = (BTreeMap::new(), HashMap::new());
        let (surveys, surveyed) = (BTreeMap::new(), Recent::of_at_most(FORMER));
        Self { by_id, by_worker, slots: 0, last, ttl, surveys, first_survey: None, surveyed }
    }

    /// Judges who may have a name. The newest process gets it: usually a worker that was started again. One that had lost
    /// it and comes back is alive, so that there are two.
    pub(super) fn claim(&mut self, worker: &str, instance: &[u8], now: Instant) -> Result<Claim, Refused> {
        let Some(id) = self.by_worker.get(worker).copied() else { return Ok(Claim::Free) };
        let session = self.by_id.get_mut(&id).expect("names lead to known sessions");
        if session.hello.instance == instance {
            return Ok(Claim::Mine(id));
        }
        session.contested |= session.displaced.iter().any(|(older, _)| older == instance);
        let lately = session.displaced.iter().filter(|(_, lost)| now - *lost < TAKEOVER_WINDOW).count();
        if session.contested || lately >= MAX_TAKEOVERS {
            return Err(Refused::NameTaken { worker: worker.to_owned() });
        }
        Ok(Claim::Takeover(id))
    }

    /// Opens a session; `replaced` is the one that had the name before.
    pub(super) fn open(&mut self, hello: &Hello, replaced: Option<Session>, now: Instant) -> SessionId {
        let mut displaced = VecDeque::new();
        if let Some(older) = replaced {
            displaced = older.displaced;
            displaced.push_back((older.hello.instance, now));
            if displaced.len() > REMEMBERED {
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

    /// Whether a worker has to say what its storage has: nobody else was asked, and it has just begun.
    pub(super) fn survey(&mut self, id: SessionId, now: Instant) -> bool {
        let storage = &self.by_id[&id].hello.storage;
        let asked = !storage.is_empty() && !std::mem::replace(self.surveyed.entry(storage), true);
        if asked {
            self.first_survey.get_or_insert(now);
            self.surveys.insert(id, now);
        }
        asked || self.surveys.contains_key(&id)
    }

    /// Storages that are remembered.
    #[cfg(test)]
    pub(super) fn surveyed_storages(&self) -> usize {
        self.surveyed.values().count()
    }

    /// A worker has said what its storage has; whether anybody may have waited for that.
    pub(super) fn end_survey(&mut self, id: SessionId) -> bool {
        self.surveys.remove(&id).is_some()
    }

    /// Whether what some storage has will be known in a moment.
    pub(super) fn is_surveying(&self, now: Instant) -> bool {
        let in_time = self.first_survey.is_some_and(|first| now - first < SURVEYS);
        in_time && self.surveys.values().any(|since| now - *since < SURVEY)
    }

    /// Gives up waiting for surveys that take too long; whether there were any.
    pub(super) fn expire_surveys(&mut self, now: Instant) -> bool {
        let before = self.surveys.len();
        let in_time = self.first_survey.is_some_and(|first| now - first < SURVEYS);
        self.surveys.retain(|_, since| in_time && now - *since < SURVEY);
        self.surveys.len() < before
    }

    /// Notes that a worker has done a class.
    pub(super) fn succeeded(&mut self, id: SessionId, now: Instant) {
        if let Some(session) = self.by_id.get_mut(&id) {
            session.in_a_row = 0;
            session.last_success = Some(now);
            session.quarantined_until = None;
        }
    }

    /// Notes that a worker has failed a class that others may do; whether it is put into quarantine for that.
    pub(super) fn failed(&mut self, id: SessionId, now: Instant) -> bool {
        let Some(session) = self.by_id.get_mut(&id) else { return false };
        if session.in_a_row == 0 {
            session.in_a_row_since = now;
        }
        session.in_a_row += 1;
        let (since, enough) = (session.in_a_row_since, session.in_a_row >= FAILURES_IN_A_ROW);
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

    /// Ends quarantines that are over; whether there were any.
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

    /// Of [`SAMPLE`] sessions that follow this id, the one that fits and whose last renewal is the
    /// oldest. The caller draws the id at random.
    pub(super) fn sample(&self, id: u64, fits: impl Fn(&Session) -> bool) -> Option<SessionId> {
        let behind = self.by_id.range(SessionId(id)..).chain(&self.by_id).take(SAMPLE);
        let fitting = behind.filter(|(_, session)| fits(session));
        fitting.min_by_key(|(_, session)| session.expires).map(|(id, _)| *id)
    }

    /// Whether a worker other than this one gets classes and fits.
    pub(super) fn is_there_another(&self, id: SessionId, now: Instant, fits: impl Fn(&Session) -> bool) -> bool {
        self.by_id.iter().any(|(other, session)| *other != id && session.is_healthy(now) && fits(session))
    }

    /// Whether a worker that gets classes, and is not silent, has done one in its session.
    pub(super) fn is_there_proven(&self, now: Instant) -> bool {
        let is_proven = |session: &Session| session.last_success.is_some() && now < session.expires;
        self.by_id.values().any(|session| is_proven(session) && session.is_healthy(now))
    }

    /// All workers, by name.
    pub(super) fn views(&self, received: impl Fn(&[u8]) -> u64, now: Instant) -> Vec<WorkerView> {
        let view = |session: &Session| session.view(self.ttl, received(&session.hello.instance), now);
        let mut views: Vec<WorkerView> = self.by_id.values().map(view).collect();
        views.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// Notes that a worker was heard of; gives the process that it is.
    pub(super) fn renew(&mut self, id: SessionId, now: Instant) -> Result<&[u8], UnknownSession> {
        let session = self.by_id.get_mut(&id).ok_or(UnknownSession)?;
        session.expires = now + self.ttl + EXPIRY_MARGIN;
        Ok(&session.hello.instance)
    }

    /// When a worker was last heard of.
    pub(super) fn heard(&self, id: SessionId) -> Result<Instant, UnknownSession> {
        let session = self.by_id.get(&id).ok_or(UnknownSession)?;
        Ok(session.expires - (self.ttl + EXPIRY_MARGIN))
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Session {
        let session = self.by_id.remove(&id).expect("only known sessions end");
        self.by_worker.remove(&session.hello.worker);
        self.slots -= u64::from(session.hello.slots);
        if self.surveys.remove(&id).is_some() {
            // Somebody else has to say it.
            self.surveyed.remove(&session.hello.storage);
        }
        session
    }

    /// Whose time is over.
    pub(super) fn late(&self, now: Instant) -> Vec<SessionId> {
        self.by_id.iter().filter_map(|(id, session)| (session.expires <= now).then_some(*id)).collect()
    }

    /// Whether a worker was heard of within the last `span`.
    pub(super) fn is_fresh(&self, id: SessionId, span: Duration, now: Instant) -> bool {
        self.by_id.get(&id).is_some_and(|session| now + self.ttl + EXPIRY_MARGIN <= session.expires + span)
    }
}

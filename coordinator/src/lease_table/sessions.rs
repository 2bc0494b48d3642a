//! Who works: the workers' sessions, and whose a name is when two processes say that it is theirs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{EXPIRY_MARGIN, UnknownSession};

/// A name that changes hands more often than this in [`TAKEOVER_WINDOW`] has two owners.
const MAX_TAKEOVERS: usize = 3;
const TAKEOVER_WINDOW: Duration = Duration::from_mins(1);
/// So many of the processes that had a name are remembered.
const REMEMBERED: usize = 8;

/// Two living processes have one name: the one that has it keeps it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two workers are called {worker}; give each its own --name")]
pub struct NameTaken {
    /// The name.
    pub worker: String,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) worker: String,
    instance: Vec<u8>,
    expires: Instant,
    /// Its classes, and when the worker was granted or last named each.
    pub(super) leases: BTreeMap<usize, Instant>,
    /// The processes that had the name before, and when each lost it.
    displaced: VecDeque<(Vec<u8>, Instant)>,
    /// One of them turned out to be alive: nobody gets the name any more while this session lasts.
    contested: bool,
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
    last: SessionId,
    ttl: Duration,
}

impl Sessions {
    /// None yet; ids begin after `last`.
    pub(super) fn new(last: SessionId, ttl: Duration) -> Self {
        Self { by_id: BTreeMap::new(), by_worker: HashMap::new(), last, ttl }
    }

    /// Judges who may have a name. The newest process gets it: usually a worker that was started again. One that had lost
    /// it and comes back is alive, so that there are two.
    pub(super) fn claim(&mut self, worker: &str, instance: &[u8], now: Instant) -> Result<Claim, NameTaken> {
        let Some(id) = self.by_worker.get(worker).copied() else { return Ok(Claim::Free) };
        let session = self.by_id.get_mut(&id).expect("names lead to known sessions");
        if session.instance == instance {
            return Ok(Claim::Mine(id));
        }
        session.contested |= session.displaced.iter().any(|(older, _)| older == instance);
        let lately = session.displaced.iter().filter(|(_, lost)| now - *lost < TAKEOVER_WINDOW).count();
        if session.contested || lately >= MAX_TAKEOVERS {
            return Err(NameTaken { worker: worker.to_owned() });
        }
        Ok(Claim::Takeover(id))
    }

    /// Opens a session; `replaced` is the one that had the name before.
    pub(super) fn open(&mut self, worker: &str, instance: &[u8], replaced: Option<Session>, now: Instant) -> SessionId {
        let mut displaced = VecDeque::new();
        if let Some(older) = replaced {
            displaced = older.displaced;
            displaced.push_back((older.instance, now));
            if displaced.len() > REMEMBERED {
                displaced.pop_front();
            }
        }
        self.last = SessionId(self.last.0 + 1);
        let session = Session {
            worker: worker.to_owned(),
            instance: instance.to_owned(),
            expires: now + self.ttl + EXPIRY_MARGIN,
            leases: BTreeMap::new(),
            displaced,
            contested: false,
        };
        self.by_id.insert(self.last, session);
        self.by_worker.insert(worker.to_owned(), self.last);
        self.last
    }

    /// Notes that a worker was heard of; gives the process that it is.
    pub(super) fn renew(&mut self, id: SessionId, now: Instant) -> Result<&[u8], UnknownSession> {
        let session = self.by_id.get_mut(&id).ok_or(UnknownSession)?;
        session.expires = now + self.ttl + EXPIRY_MARGIN;
        Ok(&session.instance)
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Session {
        let session = self.by_id.remove(&id).expect("only known sessions end");
        self.by_worker.remove(&session.worker);
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

//! Registrations: how a worker's process gets a session, and which session ends for it.

use shared::{
    ids::{CredentialId, SessionId},
    protocol::RENEWALS_PER_TTL,
};
use tokio::time::Instant;

use super::{
    Ended, LeaseTable, Refused, Registered, Renamed, ReportedLease, UnknownSession, WorkerInfo,
    losses::{LOSS, Loss, RESTART},
    sessions::MOST_SESSIONS,
};

impl LeaseTable {
    /// Opens a session for a worker process, or returns its existing one. Another process of the
    /// same name ends the older session, whose leases are returned at once.
    ///
    /// # Errors
    /// [`Refused`], for example if both processes are alive. No session changes then.
    pub fn register(
        &mut self,
        worker_info: &WorkerInfo,
        held: &[ReportedLease],
        now: Instant,
    ) -> Result<Registered, Refused> {
        if !self.names.allow(worker_info) {
            return Err(Refused::NameOfAnother {
                worker: worker_info.worker.clone(),
            });
        }
        let mut replaced = None;
        let mut evicted = None;
        let session = match self.sessions.of_worker(&worker_info.worker) {
            Some(session) if session.worker_info.instance == worker_info.instance => {
                session.heard = now;
                session.live.heard(now);
                session.id
            }
            Some(session) => {
                session.allow_takeover(&worker_info.instance, now)?;
                let is_restart = now <= session.heard + self.ttl / RENEWALS_PER_TTL;
                let loss = Loss {
                    weight: if is_restart { RESTART } else { LOSS },
                    at: now,
                };
                let id = session.id;
                let (older, ended) = self.end(id, Some(loss));
                replaced = Some(ended);
                self.sessions.open(worker_info, Some(older), now)
            }
            None => {
                evicted = self.make_room(worker_info.session)?;
                self.sessions.open(worker_info, None, now)
            }
        };
        self.count_workers();
        let drain_over = self.drain_again(&worker_info.worker);
        let drop = self.reconcile(session, held, now);
        let needs_inventory = self.needs_inventory(session, held, now);
        self.is_back(&worker_info.worker);
        self.lost.remove(&worker_info.worker);
        let renamed = worker_info
            .credential
            .map(|credential| self.names.bind(&worker_info.worker, credential));
        Ok(Registered {
            session,
            drop,
            needs_inventory,
            replaced,
            evicted,
            renamed: renamed.unwrap_or_default(),
            drain_over,
        })
    }

    /// Ends an idle session if there are [`MOST_SESSIONS`]. A session that holds a class or has
    /// settled one is not idle. The worker of the ended session registers again at its next
    /// heartbeat.
    fn make_room(&mut self, random: u64) -> Result<Option<Ended>, Refused> {
        if self.sessions.by_id.len() < MOST_SESSIONS {
            return Ok(None);
        }
        let idle = self.sessions.sample(random, |session| {
            session.leases.is_empty() && session.settled.settled() == 0
        });
        let id = idle.filter(|id| self.attempted_by(*id).is_empty());
        let (_, ended) = self.end(id.ok_or(Refused::TooMany)?, None);
        Ok(Some(ended))
    }

    /// Binds a session's name to the credential that its worker shows now, after it has read its
    /// token file again. Only the worker knows its session, so this is safe.
    pub fn bind_credential(&mut self, id: SessionId, credential: CredentialId) -> Renamed {
        let Some(session) = self.sessions.by_id.get(&id) else {
            return Renamed::default();
        };
        self.names.bind(&session.worker_info.worker, credential)
    }

    /// Ends a session at the worker's request. Its classes become pending again without a penalty.
    pub fn leave(&mut self, id: SessionId) -> Result<Ended, UnknownSession> {
        self.check_session(id)?;
        Ok(self.end(id, None).1)
    }

    /// Updates what depends on the number of workers and of their slots.
    pub(super) fn count_workers(&mut self) {
        self.status.workers = u32::try_from(self.sessions.by_id.len()).unwrap_or(u32::MAX);
        self.high_water.follow(self.sessions.slots);
    }
}

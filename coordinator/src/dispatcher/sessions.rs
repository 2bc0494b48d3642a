//! Begin and end of sessions within the dispatcher: updates the log, the concurrency controller and
//! the ledger.

use shared::ids::{CredentialId, SessionId};
use tokio::time::Instant;

use super::{Dispatcher, Reply};
use crate::{
    lease_table::{Ended, Refused, Registered, Renewed, ReportedLease, UnknownSession, WorkerInfo},
    ledger::Entry,
};

/// A heartbeat of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The session.
    pub session: SessionId,
    /// The credential that the worker has shown; `None` without authentication.
    pub credential: Option<CredentialId>,
    /// The leases that the worker holds.
    pub held: Vec<ReportedLease>,
    /// Bytes that the worker's process has received.
    pub received: u64,
}

/// A worker that left because of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStopped {
    /// The worker's name.
    pub name: String,
    /// The reason, as one sentence for users.
    pub reason: String,
}

impl Dispatcher {
    /// Opens a session. The answer is sent after the ledger has confirmed the returned entry.
    pub(super) fn register(
        &mut self,
        worker_info: &WorkerInfo,
        held: &[ReportedLease],
        reply: Reply<Result<Registered, Refused>>,
    ) -> Entry {
        let lease_now = self.lease_now();
        let registered = match self.table.register(worker_info, held, lease_now) {
            Ok(registered) => registered,
            Err(refused) => {
                tracing::warn!("a worker was refused: {refused}");
                self.send(reply, Err(refused));
                return Entry::default();
            }
        };
        tracing::info!(
            worker = worker_info.worker,
            session = registered.session.0,
            held = held.len(),
            "registered"
        );
        if let Some(ended) = &registered.replaced {
            self.session_ended(ended, "was restarted");
        }
        let evicted = registered.evicted.as_ref();
        if let Some(ended) = evicted {
            self.session_ended(ended, "was idle and made room for another");
        }
        let entry = Entry {
            opened: vec![worker_info.worker.clone()],
            closed: evicted
                .map(|ended| ended.worker.clone())
                .into_iter()
                .collect(),
            renamed: vec![registered.renamed.clone()],
            drains: registered.drain_over.iter().cloned().collect(),
            ..Entry::default()
        };
        entry.answering(reply, Ok(registered))
    }

    /// Keeps a session alive.
    pub(super) fn renew(
        &mut self,
        renewal: &Renewal,
        reply: Reply<Result<Renewed, UnknownSession>>,
    ) -> Entry {
        let Renewal {
            session, received, ..
        } = *renewal;
        let lease_now = self.lease_now();
        let renewed = self
            .table
            .renew(session, &renewal.held, received, lease_now);
        if renewed.is_ok() {
            self.time_left.renewed(session, received);
        }
        let credential = renewal.credential;
        let renamed = credential.map(|credential| self.table.bind_credential(session, credential));
        self.send(reply, renewed);
        Entry {
            renamed: renamed.into_iter().collect(),
            ..Entry::default()
        }
    }

    /// Ends the session of a worker that leaves.
    pub(super) fn leave(
        &mut self,
        session: SessionId,
        reason: Option<String>,
        reply: Reply<()>,
    ) -> Entry {
        let entry = self.table.leave(session).map(|ended| Entry {
            drains: self.table.end_drain(&ended.worker).into_iter().collect(),
            closed: vec![self.worker_left(ended, reason)],
            ..Entry::default()
        });
        self.send(reply, ());
        entry.unwrap_or_else(|UnknownSession| {
            tracing::debug!(session = session.0, "a session left that had ended");
            Entry::default()
        })
    }

    /// Drains a worker. The caller gets its answer after the ledger has recorded the drain, so that
    /// it survives a restart of the coordinator. The worker may receive the drain before.
    pub(super) fn drain(&mut self, name: &str, reply: Reply<bool>) -> Entry {
        let Some(drains) = self.table.drain(name) else {
            self.send(reply, false);
            return Entry::default();
        };
        tracing::info!("worker {name} was told to finish what it holds and to end");
        let entry = Entry {
            drains,
            ..Entry::default()
        };
        entry.answering(reply, true)
    }

    /// Logs the end of a session.
    pub(super) fn session_ended(&mut self, ended: &Ended, why: &str) {
        self.forget_session(ended.session);
        if ended.returned > 0 {
            tracing::warn!(
                "worker {} {why}: its {} leases are released",
                ended.worker,
                ended.returned
            );
        } else {
            tracing::info!("worker {} {why}", ended.worker);
        }
    }

    fn forget_session(&mut self, session: SessionId) {
        self.controller.left(session, Instant::now());
        self.time_left.ended(session);
    }

    /// Logs that a worker has left. Returns its name.
    fn worker_left(&mut self, ended: Ended, reason: Option<String>) -> String {
        self.forget_session(ended.session);
        if let Some(reason) = reason {
            if self.own_worker.as_ref() == Some(&ended.worker) {
                // The job ends with this worker and reports the worker's error itself.
                tracing::info!("worker {} stopped: {reason}", ended.worker);
            } else {
                tracing::warn!(
                    "worker {} stopped: {reason}. Then start that worker again; {} of its classes go to other workers",
                    ended.worker,
                    ended.returned
                );
            }
            self.stopped.send_replace(Some(WorkerStopped {
                name: ended.worker.clone(),
                reason,
            }));
        } else {
            tracing::info!(returned = ended.returned, "worker {} left", ended.worker);
        }
        ended.worker
    }
}

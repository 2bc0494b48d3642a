//! Begin and end of sessions within the dispatcher: updates the log, the concurrency controller and
//! the ledger.

use shared::{
    ids::SessionId,
    outcome::{Failure, FailureKind},
};
use tokio::time::Instant;

use super::{Dispatcher, Reply, WorkerStopped};
use crate::{
    lease_table::{Ended, MAX_LOSSES, Refused, Registered, ReportedLease, WorkerInfo},
    ledger::{Entry, Record},
};

impl Dispatcher {
    /// Opens a session. The answer is sent after the ledger has confirmed the returned entry.
    pub(super) fn register(
        &mut self,
        hello: &WorkerInfo,
        held: &[ReportedLease],
        reply: Reply<Result<Registered, Refused>>,
        running: Instant,
    ) -> Entry {
        let registered = match self.table.register(hello, held, running) {
            Ok(registered) => registered,
            Err(refused) => {
                tracing::warn!("a worker was refused: {refused}");
                self.send(reply, Err(refused));
                return Entry::default();
            }
        };
        let Registered {
            session,
            replaced,
            evicted,
            renamed,
            drain_over,
            ..
        } = &registered;
        tracing::info!(
            worker = hello.worker,
            session = session.0,
            held = held.len(),
            "registered"
        );
        let again = replaced
            .as_ref()
            .map(|ended| self.session_ended(ended, "was restarted"));
        let room = evicted
            .as_ref()
            .map(|ended| self.session_ended(ended, "was idle and made room for another"));
        let entry = Entry {
            records: [again, room].into_iter().flatten().flatten().collect(),
            opened: vec![hello.worker.clone()],
            closed: evicted.iter().map(|ended| ended.worker.clone()).collect(),
            renamed: vec![renamed.clone()],
            drains: drain_over.iter().cloned().collect(),
            ..Entry::default()
        };
        entry.confirming(move || drop(reply.send(Ok(registered))))
    }

    /// Ends the session of a worker that leaves.
    pub(super) fn left(&mut self, session: SessionId, reason: Option<String>) -> Entry {
        let Ok(ended) = self.table.leave(session) else {
            tracing::debug!(session = session.0, "a session left that had ended");
            return Entry::default();
        };
        let drains = self.table.end_drain(&ended.worker).into_iter().collect();
        Entry {
            closed: vec![self.worker_left(ended, reason)],
            drains,
            ..Entry::default()
        }
    }

    /// Drains a worker. The caller gets its answer after the ledger has recorded the drain, so that
    /// it survives a restart of the coordinator. The worker may receive the drain before.
    pub(super) fn drain(&mut self, name: &str, reply: Reply<bool>) -> Entry {
        let Some(drains) = self.table.drain(name) else {
            self.send(reply, false);
            return Entry::default();
        };
        tracing::info!("worker {name} was told to finish what it holds and to end");
        Entry {
            drains,
            ..Entry::confirmed(move || reply.send(true).unwrap_or_default())
        }
    }

    /// Logs the end of a session. Returns the records of the classes that it settles as failed.
    pub(super) fn session_ended(&mut self, ended: &Ended, why: &str) -> Vec<Record> {
        self.pacing.left(ended.session, Instant::now());
        self.time_left.ended(ended.session);
        if ended.returned > 0 || !ended.given_up.is_empty() {
            tracing::warn!(
                "worker {} {why}: its {} leases are released",
                ended.worker,
                ended.returned
            );
        } else {
            tracing::info!("worker {} {why}", ended.worker);
        }
        let given_up = ended.given_up.iter().map(|wnid| {
            let message = format!(
                "the lease was lost {MAX_LOSSES} times or more; its workers crashed or were cut off"
            );
            self.given_up_record(*wnid, Failure::new(FailureKind::LeaseLost, message))
        });
        given_up.collect()
    }

    /// Logs that a worker has left. Returns its name.
    fn worker_left(&mut self, ended: Ended, reason: Option<String>) -> String {
        self.pacing.left(ended.session, Instant::now());
        self.time_left.ended(ended.session);
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

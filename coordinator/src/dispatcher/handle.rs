//! The handle of the dispatcher: commands over a bounded queue, each with a reply channel.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use shared::{
    Wnid,
    ids::{CredentialId, SessionId},
    job::JobStatus,
    outcome::Outcome,
    refused_sample::OriginRefuses,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    concurrency::{Budget, ConcurrencyStatus, Observation},
    counters::JobCounters,
    fleet::{ClassPage, Fleet, ListedState, Phase},
    lease_table::{
        Granted, Lease, Refused, Registered, Renewed, ReportedLease, UnknownSession, WorkerInfo,
    },
};

/// A worker that left because of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStopped {
    /// The worker's name.
    pub name: String,
    /// The reason, as one sentence for users.
    pub reason: String,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The worker must register again.
    #[error(transparent)]
    UnknownSession(#[from] UnknownSession),
    /// The registration is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The class is not in the list of the job.
    #[error(transparent)]
    NotInList(#[from] NotInList),
    /// The dispatcher has ended.
    #[error("reach the dispatcher: it has stopped")]
    Stopped,
}

/// A class that is to be retried is not in the list of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not in the list of this job")]
pub struct NotInList(pub Wnid);

/// The result of a request to retry failed classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retried {
    /// Classes that are pending again.
    pub classes: u64,
    /// Rows of the list without a class id: they stay failed.
    pub invalid_rows: u64,
}

/// The outcome of a class, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The lease of the class.
    pub lease: Lease,
    /// The outcome.
    pub outcome: Outcome,
    /// The class is complete, but its lease still has work to do, so it is not settled yet.
    pub needs_lease: bool,
}

/// The worker that reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Its session, which may have ended.
    pub session: SessionId,
    /// The name that the worker sends. Used if the session is not known.
    pub name: Option<String>,
    /// Requests that the worker has sent to the origin in this session, including those that
    /// followed redirects.
    pub requests: u64,
}

/// Answer to a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Results that the worker need not send again.
    pub acked: Vec<Wnid>,
    /// Whether the session has not ended.
    pub is_known: bool,
}

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

pub(super) type Reply<T> = oneshot::Sender<T>;

/// A command to the dispatcher, with the channel for its answer.
pub(super) enum Command {
    Register {
        worker_info: WorkerInfo,
        held: Vec<ReportedLease>,
        reply: Reply<Result<Registered, Refused>>,
    },
    Renew {
        renewal: Renewal,
        reply: Reply<Result<Renewed, UnknownSession>>,
    },
    Acquire {
        session: SessionId,
        max: usize,
        held: Vec<ReportedLease>,
        reply: Reply<Result<Granted, UnknownSession>>,
    },
    Report {
        reporter: Reporter,
        results: Vec<Reported>,
        reply: Reply<Receipt>,
    },
    Leave {
        session: SessionId,
        reason: Option<String>,
        reply: Reply<()>,
    },
    Observe {
        session: SessionId,
        observation: Observation,
        reply: Reply<Result<Budget, UnknownSession>>,
    },
    FirstFailure {
        session: SessionId,
        failure: String,
    },
    Budget {
        session: SessionId,
        reply: Reply<Result<Budget, UnknownSession>>,
    },
    HeardOf {
        span: Duration,
        reply: Reply<usize>,
    },
    Fleet {
        reply: Reply<Fleet>,
    },
    Classes {
        state: ListedState,
        after: Option<Wnid>,
        reply: Reply<ClassPage>,
    },
    RetryFailed {
        wnids: Vec<Wnid>,
        reply: Reply<Result<Retried, NotInList>>,
    },
    Advice {
        reply: Reply<Option<&'static str>>,
    },
    DrainWorker {
        name: String,
        reply: Reply<bool>,
    },
    Resume {
        reply: Reply<Duration>,
    },
}

/// A handle to the dispatcher. Clones refer to the same dispatcher.
#[derive(Debug, Clone)]
pub struct DispatcherHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<JobStatus>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) turn: watch::Receiver<u64>,
    pub(super) stopped: watch::Receiver<Option<WorkerStopped>>,
    pub(super) refuses: watch::Receiver<Option<OriginRefuses>>,
    pub(super) budgets: watch::Receiver<()>,
    pub(super) pace: watch::Receiver<ConcurrencyStatus>,
    pub(super) counters: Arc<JobCounters>,
    /// See [`DispatcherHandle::set_stop_reason`].
    pub(super) stop_reason: Arc<OnceLock<String>>,
}

impl DispatcherHandle {
    /// Opens a session, or returns the existing one, with the leases that the worker must give up.
    /// The registration is durable when this returns.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn register(
        &self,
        worker_info: WorkerInfo,
        held: Vec<ReportedLease>,
    ) -> Result<Registered, DispatchError> {
        Ok(self
            .call(|reply| Command::Register {
                worker_info,
                held,
                reply,
            })
            .await??)
    }

    /// Keeps a session alive. Returns the leases that the worker must give up.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn renew(&self, renewal: Renewal) -> Result<Renewed, DispatchError> {
        Ok(self
            .call(|reply| Command::Renew { renewal, reply })
            .await??)
    }

    /// Leases up to `max` classes without waiting for any to become available. If the caller is
    /// dropped before it has the answer, the leases are returned at once. `held`: the leases that
    /// the worker names in the same call.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn acquire(
        &self,
        session: SessionId,
        max: usize,
        held: Vec<ReportedLease>,
    ) -> Result<Granted, DispatchError> {
        Ok(self
            .call(|reply| Command::Acquire {
                session,
                max,
                held,
                reply,
            })
            .await??)
    }

    /// Settles classes. The results are durable when this returns. A success is also accepted from
    /// an unknown session.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn report(
        &self,
        reporter: impl Into<Reporter>,
        results: Vec<Reported>,
    ) -> Result<Receipt, DispatchError> {
        let reporter = reporter.into();
        self.call(|reply| Command::Report {
            reporter,
            results,
            reply,
        })
        .await
    }

    /// Ends a session. Its leased classes become pending again. A reason means that the worker
    /// stopped because of an error.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn leave(
        &self,
        session: SessionId,
        reason: Option<String>,
    ) -> Result<(), DispatchError> {
        self.call(|reply| Command::Leave {
            session,
            reason,
            reply,
        })
        .await
    }

    /// Passes on a worker's observation of its connections to the origin. Returns its budget.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn observe(
        &self,
        session: SessionId,
        observation: Observation,
    ) -> Result<Budget, DispatchError> {
        Ok(self
            .call(|reply| Command::Observe {
                session,
                observation,
                reply,
            })
            .await??)
    }

    /// Passes on why a worker has received no response from the origin yet, for display.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn first_trouble(
        &self,
        session: SessionId,
        failure: String,
    ) -> Result<(), DispatchError> {
        let sent = self
            .commands
            .send(Command::FirstFailure { session, failure })
            .await;
        sent.map_err(|_| DispatchError::Stopped)
    }

    /// The current budget of a worker.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn budget(&self, session: SessionId) -> Result<Budget, DispatchError> {
        Ok(self
            .call(|reply| Command::Budget { session, reply })
            .await??)
    }

    /// The number of workers that have not left and were heard of within the last `span`.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn heard_of(&self, span: Duration) -> Result<usize, DispatchError> {
        self.call(|reply| Command::HeardOf { span, reply }).await
    }

    /// The current state of the fleet.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn fleet(&self) -> Result<Fleet, DispatchError> {
        self.call(|reply| Command::Fleet { reply }).await
    }

    /// A page of classes, ordered by id, starting behind `after`.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`], also when the ledger cannot be read.
    pub async fn classes(
        &self,
        state: ListedState,
        after: Option<Wnid>,
    ) -> Result<ClassPage, DispatchError> {
        self.call(|reply| Command::Classes {
            state,
            after,
            reply,
        })
        .await
    }

    /// Makes failed classes pending again, all of them if none is named. Returns how many were
    /// failed. Durable when this returns. A finished job stays finished.
    ///
    /// # Errors
    /// [`DispatchError::NotInList`]; then no class is retried.
    pub async fn retry_failed(&self, wnids: Vec<Wnid>) -> Result<Retried, DispatchError> {
        Ok(self
            .call(|reply| Command::RetryFailed { wnids, reply })
            .await??)
    }

    /// Drains a worker: it finishes its leased classes and then ends. Returns false if there is no
    /// worker of that name. Durable when this returns.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn drain_worker(&self, name: String) -> Result<bool, DispatchError> {
        self.call(|reply| Command::DrainWorker { name, reply })
            .await
    }

    /// Ends the waits that the origin has asked for with `Retry-After`. Returns the time that was
    /// left of the longest one.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn resume(&self) -> Result<Duration, DispatchError> {
        self.call(|reply| Command::Resume { reply }).await
    }

    /// The phase of the job.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// A receiver of the phase.
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// The wake-up generation: changes when a worker whose request for leases had no result may be
    /// granted a class.
    pub fn watch_turn(&self) -> watch::Receiver<u64> {
        self.turn.clone()
    }

    /// Changes when a worker's budget may have changed, or a session has ended.
    pub fn watch_budgets(&self) -> watch::Receiver<()> {
        self.budgets.clone()
    }

    /// The state of the concurrency controller, at most a second old.
    pub fn pace(&self) -> ConcurrencyStatus {
        *self.pace.borrow()
    }

    /// The job's current counts.
    pub fn status(&self) -> JobStatus {
        *self.status.borrow()
    }

    /// A receiver of the job's counts.
    pub fn watch(&self) -> watch::Receiver<JobStatus> {
        self.status.clone()
    }

    /// The counters since the start of the process.
    pub fn counters(&self) -> &Arc<JobCounters> {
        &self.counters
    }

    /// Whether the dispatcher answers commands.
    pub async fn answers(&self) -> bool {
        self.heard_of(Duration::ZERO).await.is_ok()
    }

    /// A receiver of the last worker that stopped because of an error.
    pub fn watch_stopped(&self) -> watch::Receiver<Option<WorkerStopped>> {
        self.stopped.clone()
    }

    /// A remedy for the user if all classes have failed and were refused alike.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn advice(&self) -> Result<Option<&'static str>, DispatchError> {
        self.call(|reply| Command::Advice { reply }).await
    }

    /// Sets why the job cannot continue in this process: one sentence, which remote workers receive
    /// together with the stop directive. Only the first reason is kept.
    pub fn set_stop_reason(&self, reason: String) {
        if self.stop_reason.set(reason).is_err() {
            tracing::debug!("another reason to stop was set before");
        }
    }

    /// Why the job cannot continue; `None` as long as it can, and after a signal.
    pub fn stop_reason(&self) -> Option<&str> {
        self.stop_reason.get().map(String::as_str)
    }

    /// A receiver that gets a value when the origin refuses every class alike.
    pub fn watch_refuses(&self) -> watch::Receiver<Option<OriginRefuses>> {
        self.refuses.clone()
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| DispatchError::Stopped)?;
        answer.await.map_err(|_| DispatchError::Stopped)
    }
}

//! The way to the dispatcher: commands over a bounded queue, each with a reply channel.

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
    lease_table::{Granted, Lease, Refused, Registered, Renewed, ReportedLease, UnknownSession, WorkerInfo},
};

/// A worker that left because it could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStopped {
    /// The worker's name.
    pub name: String,
    /// One sentence for people.
    pub reason: String,
}

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The worker must register again.
    #[error(transparent)]
    UnknownSession(#[from] UnknownSession),
    /// The worker gets no session.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The class is none of the job's.
    #[error(transparent)]
    NotInList(#[from] NotInList),
    /// The coordinator is at its end.
    #[error("reach the dispatcher: it has stopped")]
    Stopped,
}

/// A class that is to be tried again is not in the job's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not in the list of this job")]
pub struct NotInList(pub Wnid);

/// What came of a wish to try failed classes again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retried {
    /// Classes that are pending again.
    pub classes: u64,
    /// Rows of the list that hold no class id: they stay failed.
    pub invalid_rows: u64,
}

/// A class's outcome, as a worker reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// What it was leased under.
    pub lease: Lease,
    /// How it ended.
    pub outcome: Outcome,
    /// The class is complete, but a lease of it still has work to do: nothing is settled yet.
    pub needs_lease: bool,
}

/// The worker that reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Its session, which may have ended.
    pub session: SessionId,
    /// Its name as it says; counts where the session is not known.
    pub name: Option<String>,
    /// Requests that it has sent to the origin in its session, with those that followed redirects.
    pub requests: u64,
}

/// Answer to a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Results that need not be sent again.
    pub acked: Vec<Wnid>,
    /// Whether the session has not ended.
    pub is_known: bool,
}

/// A worker's renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Whose.
    pub session: SessionId,
    /// What the worker has proved itself with; `None` where nothing is asked for.
    pub credential: Option<CredentialId>,
    /// What the worker says it holds.
    pub held: Vec<ReportedLease>,
    /// Bytes that its process has received.
    pub received: u64,
}

pub(super) type Reply<T> = oneshot::Sender<T>;

pub(super) enum Command {
    Register { hello: WorkerInfo, held: Vec<ReportedLease>, reply: Reply<Result<Registered, Refused>> },
    Renew { renewal: Renewal, reply: Reply<Result<Renewed, UnknownSession>> },
    Acquire { session: SessionId, max: usize, held: Vec<ReportedLease>, reply: Reply<Result<Granted, UnknownSession>> },
    Report { reporter: Reporter, results: Vec<Reported>, reply: Reply<Receipt> },
    Leave { session: SessionId, reason: Option<String>, reply: Reply<()> },
    Observe { session: SessionId, observation: Observation, reply: Reply<Result<Budget, UnknownSession>> },
    FirstTrouble { session: SessionId, trouble: String },
    Budget { session: SessionId, reply: Reply<Result<Budget, UnknownSession>> },
    HeardOf { span: Duration, reply: Reply<usize> },
    Fleet { reply: Reply<Fleet> },
    Classes { state: ListedState, after: Option<Wnid>, reply: Reply<ClassPage> },
    RetryFailed { wnids: Vec<Wnid>, reply: Reply<Result<Retried, NotInList>> },
    Advice { reply: Reply<Option<&'static str>> },
    DrainWorker { name: String, reply: Reply<bool> },
    Resume { reply: Reply<Duration> },
}

/// The way to the dispatcher. Clones lead to the same one.
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
    /// See [`DispatcherHandle::stops_because`].
    pub(super) stop_reason: Arc<OnceLock<String>>,
}

impl DispatcherHandle {
    /// Opens a session, or finds it; says what to give up. When this returns, a coordinator that is started again knows of
    /// the worker.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn register(&self, hello: WorkerInfo, held: Vec<ReportedLease>) -> Result<Registered, DispatchError> {
        Ok(self.ask(|reply| Command::Register { hello, held, reply }).await??)
    }

    /// Keeps a session alive; says what to give up.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn renew(&self, renewal: Renewal) -> Result<Renewed, DispatchError> {
        Ok(self.ask(|reply| Command::Renew { renewal, reply }).await??)
    }

    /// Leases up to `max` classes; does not wait for any to turn up. If the caller goes away before it has the answer, the
    /// leases go back at once. `held`: what the worker holds, as it says in the same call.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn acquire(
        &self,
        session: SessionId,
        max: usize,
        held: Vec<ReportedLease>,
    ) -> Result<Granted, DispatchError> {
        Ok(self.ask(|reply| Command::Acquire { session, max, held, reply }).await??)
    }

    /// Settles classes. What is settled is durable when this returns, also for a session that is not known: good news is
    /// believed from anyone.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn report(
        &self,
        reporter: impl Into<Reporter>,
        results: Vec<Reported>,
    ) -> Result<Receipt, DispatchError> {
        let reporter = reporter.into();
        self.ask(|reply| Command::Report { reporter, results, reply }).await
    }

    /// Ends a session; what it had is pending again. A reason says that the worker could not go on.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn leave(&self, session: SessionId, reason: Option<String>) -> Result<(), DispatchError> {
        self.ask(|reply| Command::Leave { session, reason, reply }).await
    }

    /// Takes what a worker does to the origin; says what it may do.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn observe(&self, session: SessionId, observation: Observation) -> Result<Budget, DispatchError> {
        Ok(self.ask(|reply| Command::Observe { session, observation, reply }).await??)
    }

    /// Takes why a worker has had no answer of the origin yet, for the screen.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn first_trouble(&self, session: SessionId, trouble: String) -> Result<(), DispatchError> {
        let told = self.commands.send(Command::FirstTrouble { session, trouble }).await;
        told.map_err(|_| DispatchError::Stopped)
    }

    /// What a worker may do to the origin.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn budget(&self, session: SessionId) -> Result<Budget, DispatchError> {
        Ok(self.ask(|reply| Command::Budget { session, reply }).await??)
    }

    /// How many of the workers that have not left were heard of within the last `span`.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn heard_of(&self, span: Duration) -> Result<usize, DispatchError> {
        self.ask(|reply| Command::HeardOf { span, reply }).await
    }

    /// The fleet now.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn fleet(&self) -> Result<Fleet, DispatchError> {
        self.ask(|reply| Command::Fleet { reply }).await
    }

    /// A page of classes that follow `after`, by their ids.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`], also when the ledger cannot be read.
    pub async fn classes(&self, state: ListedState, after: Option<Wnid>) -> Result<ClassPage, DispatchError> {
        self.ask(|reply| Command::Classes { state, after, reply }).await
    }

    /// Makes failed classes pending again, all of them where none is named; says how many were failed. Durable when this
    /// returns. A job that is done stays done.
    ///
    /// # Errors
    /// [`DispatchError::NotInList`], and then no class is tried again.
    pub async fn retry_failed(&self, wnids: Vec<Wnid>) -> Result<Retried, DispatchError> {
        Ok(self.ask(|reply| Command::RetryFailed { wnids, reply }).await??)
    }

    /// Tells a worker to finish what it holds and end; false when there is none of that name. Durable when this returns.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn drain_worker(&self, name: String) -> Result<bool, DispatchError> {
        self.ask(|reply| Command::DrainWorker { name, reply }).await
    }

    /// Ends the waits that the origin has asked for with `Retry-After`; gives what is left of the
    /// longest.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn resume(&self) -> Result<Duration, DispatchError> {
        self.ask(|reply| Command::Resume { reply }).await
    }

    /// What the coordinator is doing.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The same, whenever it changes.
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Changes whenever somebody who got nothing may get something.
    pub fn watch_turn(&self) -> watch::Receiver<u64> {
        self.turn.clone()
    }

    /// Changes whenever somebody's budget may have changed, or a session has ended.
    pub fn watch_budgets(&self) -> watch::Receiver<()> {
        self.budgets.clone()
    }

    /// How gently the origin is treated, as of a second ago at most.
    pub fn pace(&self) -> ConcurrencyStatus {
        *self.pace.borrow()
    }

    /// The job's counts now.
    pub fn status(&self) -> JobStatus {
        *self.status.borrow()
    }

    /// The job's counts, whenever they change.
    pub fn watch(&self) -> watch::Receiver<JobStatus> {
        self.status.clone()
    }

    /// What has happened since the start.
    pub fn counters(&self) -> &Arc<JobCounters> {
        &self.counters
    }

    /// Whether the dispatcher answers at all.
    pub async fn answers(&self) -> bool {
        self.heard_of(Duration::ZERO).await.is_ok()
    }

    /// The last worker that could not go on.
    pub fn watch_stopped(&self) -> watch::Receiver<Option<WorkerStopped>> {
        self.stopped.clone()
    }

    /// What the user can do about it where all classes have failed and were refused alike.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn advice(&self) -> Result<Option<&'static str>, DispatchError> {
        self.ask(|reply| Command::Advice { reply }).await
    }

    /// Sets why the job cannot go on in this process: one sentence, which workers elsewhere are told
    /// when they are told to stop. The first reason counts.
    pub fn stops_because(&self, reason: String) {
        if self.stop_reason.set(reason).is_err() {
            tracing::debug!("another reason to stop was set before");
        }
    }

    /// Why the job cannot go on; `None` as long as it can, and after a signal.
    pub fn stop_reason(&self) -> Option<&str> {
        self.stop_reason.get().map(String::as_str)
    }

    /// That the origin refuses every class alike, once it is known.
    pub fn watch_refuses(&self) -> watch::Receiver<Option<OriginRefuses>> {
        self.refuses.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| DispatchError::Stopped)?;
        answer.await.map_err(|_| DispatchError::Stopped)
    }
}

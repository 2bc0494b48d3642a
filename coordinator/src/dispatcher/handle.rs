//! The handle of the dispatcher: commands over a bounded queue, each with a reply channel.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use shared::{Wnid, ids::SessionId, job::JobStatus, refused_sample::OriginRefuses};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

use super::{Dispatcher, NotInList, Receipt, Renewal, Reported, Reporter, Retried, WorkerStopped};
use crate::{
    concurrency::{Budget, ConcurrencyStatus, Observation},
    counters::JobCounters,
    fleet::{ClassPage, LimitChanges, ListedState, Phase},
    lease_table::{
        Granted, LiveReport, Refused, Registered, Renewed, ReportedLease, StateCounts,
        UnknownSession, WorkerInfo,
    },
    ledger::Entry,
};

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

/// Where the answer to a command goes.
pub(super) type Reply<T> = oneshot::Sender<T>;

/// A command: changes the state, and returns what the ledger stores.
pub(super) type Command = Box<dyn FnOnce(&mut Dispatcher) -> Entry + Send>;

/// A handle to the dispatcher. Clones refer to the same dispatcher.
#[derive(Debug, Clone)]
pub struct DispatcherHandle {
    pub(super) commands: mpsc::Sender<Command>,
    status: watch::Receiver<JobStatus>,
    phase: watch::Receiver<Phase>,
    workers: watch::Receiver<StateCounts>,
    wake_ups: watch::Receiver<u64>,
    stopped: watch::Receiver<Option<WorkerStopped>>,
    refuses: watch::Receiver<Option<OriginRefuses>>,
    budgets: watch::Receiver<u64>,
    concurrency_status: watch::Receiver<ConcurrencyStatus>,
    rate: watch::Receiver<u64>,
    pub(super) limit_changes: watch::Receiver<LimitChanges>,
    /// See [`DispatcherHandle::read_ledger`].
    pub(super) ledger_reads: Arc<Semaphore>,
    counters: Arc<JobCounters>,
    /// See [`DispatcherHandle::set_stop_reason`].
    stop_reason: Arc<OnceLock<String>>,
}

impl DispatcherHandle {
    pub(super) fn of(dispatcher: &Dispatcher, commands: mpsc::Sender<Command>) -> Self {
        let published = &dispatcher.published;
        Self {
            commands,
            status: published.status.subscribe(),
            phase: published.phase.subscribe(),
            workers: published.workers.subscribe(),
            wake_ups: published.wake_ups.subscribe(),
            stopped: dispatcher.stopped.subscribe(),
            refuses: dispatcher.refuses.subscribe(),
            budgets: published.budgets.subscribe(),
            concurrency_status: published.concurrency.subscribe(),
            rate: published.rate.subscribe(),
            limit_changes: dispatcher.limit_changes.subscribe(),
            ledger_reads: Arc::new(Semaphore::new(1)),
            counters: Arc::clone(&dispatcher.counters),
            stop_reason: Arc::default(),
        }
    }

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
            .command(move |dispatcher, reply| dispatcher.register(&worker_info, &held, reply))
            .await??)
    }

    /// Keeps a session alive. Returns the leases that the worker must give up.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn renew(&self, renewal: Renewal) -> Result<Renewed, DispatchError> {
        Ok(self
            .command(move |dispatcher, reply| dispatcher.renew(&renewal, reply))
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
            .command(move |dispatcher, reply| dispatcher.acquire(session, max, &held, reply))
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
        self.command(move |dispatcher, reply| dispatcher.report(&reporter, results, reply))
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
        self.command(move |dispatcher, reply| dispatcher.leave(session, reason, reply))
            .await
    }

    /// Passes on a worker's observation of its connections to the origin, and the part of it that
    /// is for display. Returns the worker's budget.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn observe(
        &self,
        session: SessionId,
        observation: Observation,
        live: LiveReport,
    ) -> Result<Budget, DispatchError> {
        Ok(self
            .ask(move |dispatcher| dispatcher.record_observation(session, &observation, &live))
            .await??)
    }

    /// Passes on why a worker has received no response from the origin yet, for display.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn first_failure(
        &self,
        session: SessionId,
        failure: String,
    ) -> Result<(), DispatchError> {
        self.ask(move |dispatcher| dispatcher.first_failure(session, failure))
            .await
    }

    /// The current budget of a worker.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn budget(&self, session: SessionId) -> Result<Budget, DispatchError> {
        Ok(self
            .ask(move |dispatcher| dispatcher.budget(session))
            .await??)
    }

    /// The number of workers that have not left and were heard of within the last `span`.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn heard_of(&self, span: Duration) -> Result<usize, DispatchError> {
        self.ask(move |dispatcher| {
            let lease_now = dispatcher.lease_now();
            dispatcher.table.heard_of(span, lease_now)
        })
        .await
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
        self.command(move |dispatcher, reply| dispatcher.list(state, after, reply))
            .await
    }

    /// Makes failed classes pending again, all of them if none is named. Returns how many were
    /// failed. Durable when this returns. A finished job stays finished.
    ///
    /// # Errors
    /// [`DispatchError::NotInList`]; then no class is retried.
    pub async fn retry_failed(&self, wnids: Vec<Wnid>) -> Result<Retried, DispatchError> {
        Ok(self
            .command(move |dispatcher, reply| dispatcher.retry_failed(&wnids, reply))
            .await??)
    }

    /// Drains a worker: it finishes its leased classes and then ends. Returns false if there is no
    /// worker of that name. Durable when this returns.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn drain_worker(&self, name: String) -> Result<bool, DispatchError> {
        self.command(move |dispatcher, reply| dispatcher.drain(&name, reply))
            .await
    }

    /// Ends the waits that the origin has asked for with `Retry-After`. Returns the time that was
    /// left of the longest one.
    ///
    /// # Errors
    /// [`DispatchError::Stopped`].
    pub async fn resume(&self) -> Result<Duration, DispatchError> {
        self.ask(|dispatcher| dispatcher.controller.resume(Instant::now()))
            .await
    }

    /// The phase of the job.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The number of workers in each state, at most a second old.
    pub fn worker_states(&self) -> StateCounts {
        *self.workers.borrow()
    }

    /// A receiver of the phase.
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// The wake-up generation: changes when a worker whose request for leases had no result may be
    /// granted a class.
    pub fn watch_wake_ups(&self) -> watch::Receiver<u64> {
        self.wake_ups.clone()
    }

    /// Changes when a worker's budget may have changed, or a session has ended.
    pub fn watch_budgets(&self) -> watch::Receiver<u64> {
        self.budgets.clone()
    }

    /// The state of the concurrency controller, at most a second old.
    pub fn concurrency_status(&self) -> ConcurrencyStatus {
        *self.concurrency_status.borrow()
    }

    /// A receiver of [`ConcurrencyStatus::bytes_per_second`].
    pub fn watch_rate(&self) -> watch::Receiver<u64> {
        self.rate.clone()
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
        self.ask(|dispatcher| {
            let status = dispatcher.table.status();
            let rows = status.total - dispatcher.table.invalid_rows();
            dispatcher.log.refusals.advice(&status, rows)
        })
        .await
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

    /// Sends a command that is answered at once.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Dispatcher) -> T + Send + 'static,
    ) -> Result<T, DispatchError> {
        self.command(|dispatcher, reply| {
            let answer = question(dispatcher);
            dispatcher.send(reply, answer);
            Entry::default()
        })
        .await
    }

    /// Sends a command, which gets the channel of its answer.
    pub(super) async fn command<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Dispatcher, Reply<T>) -> Entry + Send + 'static,
    ) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(|dispatcher| command(dispatcher, reply));
        self.commands
            .send(command)
            .await
            .map_err(|_| DispatchError::Stopped)?;
        answer.await.map_err(|_| DispatchError::Stopped)
    }
}

//! A worker's session with a coordinator: register, acquire, report, leave. One loop owns all
//! state: select, event, handle.

use std::{collections::HashSet, sync::Arc, time::Duration};

use shared::{
    Wnid, connect::Connector, ids::SessionId, job::JobStatus, job_line::JobLine, outcome::Outcome,
    shutdown::Shutdown,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    config::WorkerConfig,
    fetch::{context::JobContext, unfinished::Unfinished},
    observe::{progress::Progress, slot_lines::SlotLines},
    session::{
        budget_stream::exchange_budgets,
        calls::{Calls, Kind},
        coordinator_client::{Identity, Session},
        error::WorkerError,
        heartbeat::{RenewalResult, RenewalState, Renewals},
        inventory::Inventory,
        live_reports::LiveReports,
        outbox::{Outbox, UnreportedResult},
        registration::join,
        stop_reason::for_the_coordinator,
    },
    slots::{Ended, Held, Lease, Slots},
    storage::target::TargetError,
};

mod answers;
pub(crate) mod budget_stream;
mod calls;
pub(crate) mod coordinator_client;
pub(crate) mod error;
pub(crate) mod heartbeat;
mod inventory;
pub(crate) mod live_reports;
mod outbox;
mod registration;
mod stop_reason;

/// Delay between two `Acquire` calls while the coordinator is stopping, and minimum delay between
/// two registrations.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Delay before the next `Acquire` call after an answer without leases. Short, because that answer
/// was already a long poll.
const ACQUIRE_DELAY: Duration = Duration::from_millis(100);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// Every class of the job is settled.
    JobDone,
    /// The coordinator drained this worker, and the classes that it held are finished.
    Drained,
    /// The worker received a signal or cannot continue; all classes are checkpointed and their
    /// leases are released.
    Interrupted,
    /// The coordinator is now in another run; the worker has to register again.
    AnotherRun,
}

/// A worker in a session.
struct Worker {
    identity: Identity,
    context: Arc<JobContext>,
    calls: Calls,
    session: Option<Session>,
    registered_at: Option<Instant>,
    /// Requests to the origin before this session.
    requests_before: u64,
    /// Consecutive heartbeats without an answer.
    missed_heartbeats: u32,
    /// The leases have expired, and this was logged.
    is_fenced: bool,
    slots: Slots,
    progress: Progress,
    /// See [`WorkerConfig::counts`].
    counts: Option<watch::Receiver<JobStatus>>,
    /// See [`WorkerConfig::rate`].
    rate: Option<watch::Receiver<u64>>,
    renewable: watch::Sender<RenewalState>,
    /// The inventory of the target, until all of it is reported.
    inventory: Option<Inventory>,
    outbox: Outbox,
    /// The session of another run that has taken over the leases.
    other_run: Option<SessionId>,
    status: JobStatus,
    /// Delay before the next `Acquire` call.
    pause: Duration,
    /// The last logged reason why the coordinator ended.
    stop_reason: String,
    ending: Option<SessionEnd>,
    fault: Option<WorkerError>,
}

/// Works for the coordinator until the job is done, a signal comes, or the target fails.
pub(crate) async fn work(
    connector: &Connector,
    identity: &Identity,
    config: &WorkerConfig,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<SessionEnd, WorkerError> {
    let Some(joined) = join(connector, identity, config, progress, shutdown).await? else {
        return Ok(SessionEnd::Interrupted);
    };
    let Renewals {
        renewable,
        beats,
        stop: stop_guard,
    } = joined.renewals;
    let context = Arc::clone(joined.slots.context());
    let mut budget_task = JoinSet::new();
    budget_task.spawn(exchange_budgets(
        joined.calls.client(),
        joined.limiter,
        renewable.subscribe(),
        LiveReports::new(renewable.subscribe(), context.target.staging().to_owned()),
    ));
    let mut worker = Worker {
        identity: identity.clone(),
        context: Arc::clone(&context),
        calls: joined.calls,
        session: None,
        registered_at: None,
        requests_before: 0,
        missed_heartbeats: 0,
        is_fenced: false,
        slots: joined.slots,
        progress: progress.clone(),
        counts: config.counts.clone(),
        rate: config.rate.clone(),
        renewable,
        inventory: None,
        outbox: Outbox::default(),
        other_run: None,
        status: JobStatus::default(),
        pause: Duration::ZERO,
        stop_reason: String::new(),
        ending: None,
        fault: None,
    };
    worker.registered(&joined.registration);
    let ended = worker.run(beats, shutdown).await?;
    budget_task.shutdown().await;
    let target = Arc::clone(&context.target);
    // The heartbeats stop here, and the committer ends with the last reference to the context.
    drop((worker, context, stop_guard));
    // A sync on a slow disk can take long; a second signal ends the wait for it.
    shutdown
        .abort
        .run_until_cancelled(joined.threads.join_all())
        .await;
    if ended == SessionEnd::JobDone {
        target.remove_staging();
    }
    Ok(ended)
}

impl Worker {
    async fn run(
        &mut self,
        mut beats: mpsc::Receiver<RenewalResult>,
        shutdown: &Shutdown,
    ) -> Result<SessionEnd, WorkerError> {
        let mut line = JobLine::new(&self.progress.screen);
        let mut slot_lines = SlotLines::default();
        let mut redraw = interval(Duration::from_millis(200));
        let ended = loop {
            self.check_lease_clock();
            self.renewable.send_replace(RenewalState {
                session: self.session,
                held: self.held(),
            });
            self.progress
                .counters
                .set_registered(self.session.is_some() && !self.calls.cannot_report());
            if let Some(ended) = self.ending.filter(|ended| self.has_nothing_left(*ended)) {
                break ended;
            }
            self.start_due_calls();
            let more_to_report = !self.outbox.is_full();
            tokio::select! {
                Some(Ended { lease, result, .. }) = self.slots.next(self.status.pending > 0) => {
                    self.finished(lease, result);
                }
                Some(answer) = self.calls.next() => self.answered(answer),
                Some(result) = beats.recv() => self.heartbeat_answered(result),
                found = next_results(&mut self.inventory), if more_to_report => self.add_existing_results(found),
                () = shutdown.drain.cancelled(), if !self.is_stopping() => self.end(SessionEnd::Interrupted),
                () = shutdown.abort.cancelled() => break SessionEnd::Interrupted,
                _ = redraw.tick() => {
                    let counts = self.counts.as_ref().map_or(self.status, |counts| *counts.borrow());
                    // The job is unknown before the first answer.
                    if self.status.total > 0 {
                        let status = JobStatus { received_bytes: self.progress.received_bytes(), ..counts };
                        let rate = self.rate.as_ref().map(|rate| *rate.borrow());
                        let classes = self.slots.under_way();
                        line.update(&status, rate, |room| slot_lines.lines(classes, Instant::now(), room));
                    }
                }
            }
        };
        line.finish();
        self.leave(ended).await
    }

    /// Without an answered heartbeat in time another worker may hold the leases by now.
    fn check_lease_clock(&mut self) {
        if !self.is_fenced && self.context.clock.has_run_out() {
            self.is_fenced = true;
            tracing::warn!(
                "no renewal was answered in time: nothing new is begun before the coordinator says so"
            );
            self.session = None;
        }
    }

    /// All leases of this worker: those it works on, and those whose results are not acknowledged
    /// yet.
    fn held(&self) -> Vec<Held> {
        let mut held = self.slots.held();
        held.extend(self.outbox.leases().map(|lease| Held {
            lease,
            progress: None,
        }));
        held
    }

    /// Starts the calls that are due.
    fn start_due_calls(&mut self) {
        if self.ending == Some(SessionEnd::AnotherRun) {
            return;
        }
        let Some(Session { id, .. }) = self.session else {
            let since = self.registered_at.map(|at| at.elapsed());
            let too_soon = since.is_some_and(|since| since < RETRY_DELAY);
            let pause = if too_soon {
                RETRY_DELAY
            } else {
                Duration::ZERO
            };
            let held = self.held();
            let draining = self.ending == Some(SessionEnd::Drained);
            return self.calls.begin(Kind::Register, pause, |mut client| {
                let identity = self.identity.clone();
                let storage_id = self.context.target.storage_id();
                async move {
                    client
                        .register(&identity, storage_id, &held, draining)
                        .await
                }
            });
        };
        if !self.outbox.is_empty() {
            let requests = self.progress.counters.requests_with_redirects() - self.requests_before;
            let received = self.progress.received_bytes();
            self.calls
                .begin(Kind::Report, Duration::ZERO, |mut client| {
                    let identity = self.identity.clone();
                    let results = self.outbox.batch().to_vec();
                    async move {
                        client
                            .report(&identity, id, &results, requests, received)
                            .await
                    }
                });
        } else if self.inventory.as_ref().is_some_and(Inventory::is_over) {
            self.inventory = None;
        }
        let free = self.slots.free();
        if free > 0
            && self.ending.is_none()
            && self.inventory.is_none()
            && !self.outbox.blocks_leasing()
        {
            let held = self.held();
            self.calls
                .begin(Kind::Acquire, self.pause, async move |mut client| {
                    client.acquire(id, free, &held).await
                });
        }
    }

    fn add_existing_results(&mut self, found: Result<Vec<UnreportedResult>, TargetError>) {
        match found {
            Ok(found) => {
                // The result of a leased class is reported with its lease, even if the class is
                // complete by now.
                let held = self.held();
                let leased: HashSet<Wnid> = held.iter().map(|held| held.lease.wnid).collect();
                let unleased = |found: &UnreportedResult| !leased.contains(&found.lease.wnid);
                self.outbox.add(found.into_iter().filter(unleased));
            }
            Err(fault) => self.stop_on_fault(fault.into()),
        }
    }

    fn finished(&mut self, lease: Lease, result: Result<Outcome, Unfinished>) {
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(Unfinished::Failed(failure)) => Outcome::Failed(failure),
            // Leases that are no longer named in heartbeats are released.
            Err(Unfinished::Stopped) => return,
            Err(Unfinished::Target(fault)) => return self.stop_on_fault(fault.into()),
        };
        self.outbox.add([UnreportedResult {
            lease,
            outcome,
            needs_lease: false,
        }]);
    }

    /// Stops without using up attempts: the leases are released, with the reason.
    fn stop_on_fault(&mut self, fault: WorkerError) {
        self.fault.get_or_insert(fault);
        if !self.is_stopping() {
            self.end(SessionEnd::Interrupted);
        }
    }

    /// Whether the classes in the slots are stopping at a checkpoint.
    fn is_stopping(&self) -> bool {
        self.ending
            .is_some_and(|ended| ended != SessionEnd::Drained)
    }

    /// Takes no new classes; the classes in the slots stop at a checkpoint.
    fn end(&mut self, ended: SessionEnd) {
        self.ending = Some(ended);
        self.inventory = None;
        self.slots.stop_all();
    }

    /// Whether no class runs and every result is reported, or cannot be reported and must not be
    /// waited for.
    fn has_nothing_left(&self, ended: SessionEnd) -> bool {
        // Another run does not accept the results.
        let gives_up = match ended {
            SessionEnd::AnotherRun => true,
            SessionEnd::JobDone | SessionEnd::Interrupted => self.calls.cannot_report(),
            SessionEnd::Drained => false,
        };
        self.slots.are_idle() && (self.outbox.is_empty() || gives_up)
    }

    async fn leave(&mut self, ended: SessionEnd) -> Result<SessionEnd, WorkerError> {
        self.renewable.send_replace(RenewalState::default());
        self.progress.counters.set_registered(false);
        if let Some(id) = self.session.map(|session| session.id).or(self.other_run) {
            let reason = self
                .fault
                .as_ref()
                .map(for_the_coordinator)
                .unwrap_or_default();
            self.calls.leave(id, &reason).await;
        }
        self.fault.take().map_or(Ok(ended), Err)
    }
}

/// The next results of the inventory. Never ready without one, and after its end.
async fn next_results(
    inventory: &mut Option<Inventory>,
) -> Result<Vec<UnreportedResult>, TargetError> {
    match inventory {
        Some(inventory) => inventory.next().await,
        None => std::future::pending().await,
    }
}

//! A worker's life with a coordinator: register, acquire, report, leave. One loop owns everything: select, event, handle.

use std::{collections::HashSet, sync::Arc, time::Duration};

use shared::{
    Wnid, connect::Connector, ids::SessionId, job::JobStatus, job_line::JobLine, outcome::Outcome, shutdown::Shutdown,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    config::WorkerConfig,
    fetch::{context::JobContext, unfinished::Unfinished},
    observe::progress::Progress,
    session::{
        budget_stream::exchange_budgets,
        calls::Calls,
        coordinator_client::Identity,
        error::WorkerError,
        heartbeat::{RenewalResult, RenewalState, Renewals, Session},
        inventory::Inventory,
        outbox::{Outbox, UnreportedResult},
        registration::{Joined, join},
        stop_reason::for_the_coordinator,
    },
    slots::{Held, Lease, Slots},
    storage::target::TargetError,
};

mod answers;
pub(crate) mod budget_stream;
mod calls;
pub(crate) mod coordinator_client;
pub(crate) mod error;
pub(crate) mod heartbeat;
mod inventory;
mod outbox;
mod registration;
mod stop_reason;

/// Between two questions for leases while the coordinator is stopping, and at least between two registrations.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two questions for leases after an answer without any, which has waited long already.
const BREATH: Duration = Duration::from_millis(100);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every class of the job is settled.
    JobDone,
    /// Somebody wanted this worker to end, and what it held is finished.
    Dismissed,
    /// Told to stop by a signal, or it cannot go on; all is checkpointed and handed back.
    Drained,
    /// The coordinator now has another run: register again.
    AnotherRun,
}

/// A worker in a session.
struct Worker {
    who: Identity,
    context: Arc<JobContext>,
    calls: Calls,
    session: Option<Session>,
    registered_at: Option<Instant>,
    /// Requests to the origin before the session.
    requests_before: u64,
    /// Renewals in a row that had no answer.
    missed: u32,
    /// The leases have run out, which was said.
    is_fenced: bool,
    slots: Slots,
    progress: Progress,
    /// See [`WorkerConfig::counts`].
    counts: Option<watch::Receiver<JobStatus>>,
    renewable: watch::Sender<RenewalState>,
    /// Until all that the target has is reported.
    survey: Option<Inventory>,
    outbox: Outbox,
    /// The session of another run, which has taken over what is held.
    other_run: Option<SessionId>,
    status: JobStatus,
    /// How long not to ask for leases.
    pause: Duration,
    /// Why the coordinator ended, as it was said last.
    stop_reason: String,
    ending: Option<Ended>,
    fault: Option<WorkerError>,
}

/// Works for the coordinator until the job is done, a signal comes, or the target fails.
pub(crate) async fn work(
    connector: &Connector,
    who: &Identity,
    config: &WorkerConfig,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Ended, WorkerError> {
    let Some(joined) = join(connector, who, config, progress, shutdown).await? else { return Ok(Ended::Drained) };
    let Joined { calls, registration, renewals, slots, gate, threads } = joined;
    let Renewals { renewable, beats, stop: stop_guard } = renewals;
    let context = Arc::clone(slots.context());
    let mut pace = JoinSet::new();
    pace.spawn(exchange_budgets(calls.client(), gate, renewable.subscribe()));
    let mut worker = Worker::new(who, slots, calls, progress, renewable);
    worker.counts.clone_from(&config.counts);
    worker.registered(&registration);
    let ended = worker.run(beats, shutdown).await?;
    pace.shutdown().await;
    let target = Arc::clone(context.target());
    // The renewals stop, and the committer ends with the last handle on the context.
    drop((worker, context, stop_guard));
    // A sync of a slow disk can take long; a second signal does not wait for it.
    shutdown.abort.run_until_cancelled(threads.join_all()).await;
    if ended == Ended::JobDone {
        target.remove_staging();
    }
    Ok(ended)
}

impl Worker {
    fn new(
        who: &Identity,
        slots: Slots,
        calls: Calls,
        progress: &Progress,
        renewable: watch::Sender<RenewalState>,
    ) -> Self {
        Self {
            who: who.clone(),
            context: Arc::clone(slots.context()),
            slots,
            calls,
            session: None,
            registered_at: None,
            requests_before: 0,
            missed: 0,
            is_fenced: false,
            progress: progress.clone(),
            counts: None,
            renewable,
            survey: None,
            outbox: Outbox::default(),
            other_run: None,
            status: JobStatus::default(),
            pause: Duration::ZERO,
            stop_reason: String::new(),
            ending: None,
            fault: None,
        }
    }

    async fn run(
        &mut self,
        mut beats: mpsc::Receiver<RenewalResult>,
        shutdown: &Shutdown,
    ) -> Result<Ended, WorkerError> {
        let mut line = JobLine::new(self.progress.screen());
        let mut redraw = interval(Duration::from_millis(200));
        let ended = loop {
            self.look_at_the_clock();
            self.renewable.send_replace(RenewalState { session: self.session, held: self.held() });
            self.progress.counters().set_registered(self.session.is_some() && !self.calls.is_cut_off());
            if let Some(ended) = self.ending.filter(|ended| self.has_nothing_left(*ended)) {
                break ended;
            }
            self.call();
            let more_to_report = !self.outbox.is_full();
            tokio::select! {
                Some((lease, result)) = self.slots.next(self.status.pending > 0) => self.finished(lease, result),
                Some(answer) = self.calls.next() => self.answered(answer),
                Some(beat) = beats.recv() => self.beat(beat),
                found = found(&mut self.survey), if more_to_report => self.found(found),
                () = shutdown.drain.cancelled(), if !self.is_stopping() => self.end(Ended::Drained),
                () = shutdown.abort.cancelled() => break Ended::Drained,
                _ = redraw.tick() => {
                    let counts = self.counts.as_ref().map(|counts| *counts.borrow());
                    let counts = counts.unwrap_or(self.status);
                    // Nothing is known of the job before the first answer.
                    if self.status.total > 0 {
                        line.update(&JobStatus { received_bytes: self.progress.received_bytes(), ..counts });
                    }
                }
            }
        };
        line.finish();
        self.leave(ended).await
    }

    /// Without an answered renewal in time the leases may be another worker's by now.
    fn look_at_the_clock(&mut self) {
        if !self.is_fenced && self.context.clock().has_run_out() {
            self.is_fenced = true;
            tracing::warn!("no renewal was answered in time: nothing new is begun before the coordinator says so");
            self.session = None;
        }
    }

    /// All that this worker holds: what it works on, and what it has no receipt for.
    fn held(&self) -> Vec<Held> {
        let delivered_soon = self.outbox.leases().map(|lease| Held { lease, progress: None });
        self.slots.held().into_iter().chain(delivered_soon).collect()
    }

    /// Starts the calls that are due.
    fn call(&mut self) {
        if self.ending == Some(Ended::AnotherRun) {
            return;
        }
        let Some(Session { id, .. }) = self.session else {
            let too_soon = self.registered_at.is_some_and(|at| at.elapsed() < PAUSE);
            let pause = if too_soon { PAUSE } else { Duration::ZERO };
            let (storage_id, draining) = (self.context.target().storage_id(), self.ending == Some(Ended::Dismissed));
            return self.calls.register(&self.who, storage_id, self.held(), draining, pause);
        };
        if !self.outbox.is_empty() {
            let requests = self.progress.counters().requests_with_redirects() - self.requests_before;
            self.calls.report(&self.who, id, &mut self.outbox, requests);
        } else if self.survey.as_ref().is_some_and(Inventory::is_over) {
            self.survey = None;
        }
        let free = self.slots.free();
        if free > 0 && self.ending.is_none() && self.survey.is_none() && !self.outbox.blocks_leasing() {
            self.calls.acquire(id, free, self.held(), self.pause);
        }
    }

    fn found(&mut self, found: Option<Result<Vec<UnreportedResult>, TargetError>>) {
        match found {
            Some(Ok(found)) => {
                // A class under a lease has its result with that lease, also if it is complete by now.
                let leased: HashSet<Wnid> = self.held().iter().map(|held| held.lease.wnid).collect();
                self.outbox.add(found.into_iter().filter(|found| !leased.contains(&found.lease.wnid)));
            }
            Some(Err(fault)) => self.cannot_go_on(fault.into()),
            // Leases may be asked for.
            None => {}
        }
    }

    fn finished(&mut self, lease: Lease, result: Result<Outcome, Unfinished>) {
        match result {
            Ok(outcome) => self.outbox.add([UnreportedResult { lease, outcome, needs_lease: false }]),
            Err(Unfinished::Failed(failure)) => {
                let outcome = Outcome::Failed(failure);
                self.outbox.add([UnreportedResult { lease, outcome, needs_lease: false }]);
            }
            // What is not named any more in renewals goes back.
            Err(Unfinished::Stopped) => {}
            Err(Unfinished::Target(fault)) => self.cannot_go_on(fault.into()),
        }
    }

    /// Nobody's attempts are burnt: what was held goes back, with the reason.
    fn cannot_go_on(&mut self, fault: WorkerError) {
        self.fault.get_or_insert(fault);
        if !self.is_stopping() {
            self.end(Ended::Drained);
        }
    }

    /// What runs is on its way to a checkpoint.
    fn is_stopping(&self) -> bool {
        self.ending.is_some_and(|ended| ended != Ended::Dismissed)
    }

    /// Takes nothing new; what runs stops at a checkpoint.
    fn end(&mut self, ended: Ended) {
        self.ending = Some(ended);
        self.survey = None;
        self.slots.stop_all();
    }

    /// Nothing runs, and what is finished is reported; or cannot be now, if there is no time to wait.
    fn has_nothing_left(&self, ended: Ended) -> bool {
        // To another run the results are of no use.
        let gives_up = match ended {
            Ended::AnotherRun => true,
            Ended::JobDone | Ended::Drained => self.calls.is_cut_off(),
            Ended::Dismissed => false,
        };
        self.slots.are_idle() && (self.outbox.is_empty() || gives_up)
    }

    async fn leave(&mut self, ended: Ended) -> Result<Ended, WorkerError> {
        self.renewable.send_replace(RenewalState::default());
        self.progress.counters().set_registered(false);
        if let Some(id) = self.session.map(|session| session.id).or(self.other_run) {
            let reason = self.fault.as_ref().map(for_the_coordinator).unwrap_or_default();
            self.calls.leave(id, &reason).await;
        }
        self.fault.take().map_or(Ok(ended), Err)
    }
}

/// What the survey finds next, or `None` at its end, once; never anything when there is none.
async fn found(survey: &mut Option<Inventory>) -> Option<Result<Vec<UnreportedResult>, TargetError>> {
    match survey {
        Some(survey) if !survey.is_over() => survey.next().await,
        _ => std::future::pending().await,
    }
}

//! A worker's life with a coordinator: register, acquire, report, leave. One loop owns everything: select, event, handle.

use std::{path::Path, sync::Arc, time::Duration};

use shared::{
    Wnid, connect::Connector, ids::SessionId, job::JobStatus, job_line::JobLine, outcome::Outcome, shutdown::Shutdown,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::interval,
};
use tokio_util::sync::CancellationToken;

use crate::{
    WorkerError,
    calls::{Answer, Calls, Refused},
    coordinator_client::{Acquired, CoordinatorClient, Directive, Finished, Identity, Registration, Renewed, Reported},
    progress::Progress,
    renewal::{self, Renewable},
    site::Site,
    slots::{Lease, Slots},
    target::{Target, TargetError},
    unfinished::Unfinished,
};

/// Between two questions for leases while the coordinator is stopping.
const PAUSE: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every class of the job is settled.
    JobDone,
    /// Told to stop by a signal, or the target failed; all is checkpointed and handed back.
    Drained,
    /// The coordinator now has another run: register again.
    AnotherRun,
}

/// A worker in a session.
struct Worker {
    who: Identity,
    target: Arc<Target>,
    run_id: String,
    calls: Calls,
    session: Option<SessionId>,
    slots: Slots,
    progress: Progress,
    renewable: watch::Sender<Renewable>,
    unreported: Vec<Finished>,
    released: Vec<Lease>,
    status: JobStatus,
    /// The coordinator is stopping: results are still welcome, but there is nothing to lease.
    paused: bool,
    ending: Option<Ended>,
    fault: Option<TargetError>,
}

/// Works for the coordinator until the job is done, a signal comes, or the target fails.
pub(crate) async fn work(
    connector: &Connector,
    who: &Identity,
    target: &Path,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Ended, WorkerError> {
    let target = Arc::new(Target::open(target)?);
    let mut calls = Calls::new(CoordinatorClient::new(connector));
    let registration = match first_registration(&mut calls, who, &target, shutdown).await {
        Ok(Some(registration)) => registration,
        Ok(None) => return withdrawn(&target, Ok(Ended::Drained)),
        Err(error) => return withdrawn(&target, Err(error)),
    };
    let mut threads = JoinSet::new();
    let tally = Arc::clone(progress.tally());
    let site = match Site::open(registration.job.clone(), Arc::clone(&target), who.slots, tally, &mut threads) {
        Ok(site) => Arc::new(site),
        Err(error) => {
            calls.leave(registration.session, &[], &error.to_string()).await;
            return Err(error.into());
        }
    };
    let (renewable, to_renew) = watch::channel(Renewable::default());
    let stop = CancellationToken::new();
    let stop_guard = stop.clone().drop_guard();
    let every = registration.renew;
    let renewed = renewal::start(&mut threads, connector.clone(), every, progress.clone(), to_renew, stop);
    let mut worker = Worker {
        who: who.clone(),
        target: Arc::clone(&target),
        run_id: registration.job.run_id.clone(),
        calls,
        session: None,
        slots: Slots::new(Arc::clone(&site), progress.clone(), who.slots),
        progress: progress.clone(),
        renewable,
        unreported: Vec::new(),
        released: Vec::new(),
        status: JobStatus::default(),
        paused: false,
        ending: None,
        fault: None,
    };
    worker.registered(&registration);
    let ended = worker.run(renewed, shutdown).await?;
    if ended == Ended::JobDone
        && let Err(error) = target.remove_partial()
    {
        tracing::warn!(%error, "could not remove the folder .partial");
    }
    // The renewals stop, and the committer ends with the last handle on the site.
    drop((worker, site, target, stop_guard));
    // A sync of a slow disk can take long; a second signal does not wait for it.
    shutdown.abort.run_until_cancelled(threads.join_all()).await;
    Ok(ended)
}

/// Leaves the target as it was found.
fn withdrawn(target: &Target, ended: Result<Ended, WorkerError>) -> Result<Ended, WorkerError> {
    if let Err(error) = target.withdraw() {
        tracing::info!(%error, "could not leave the target as it was");
    }
    ended
}

/// Registers, for as long as it takes; `None` when told to stop before.
async fn first_registration(
    calls: &mut Calls,
    who: &Identity,
    target: &Target,
    shutdown: &Shutdown,
) -> Result<Option<Registration>, WorkerError> {
    loop {
        calls.register(who, target.storage_id(), Vec::new());
        match shutdown.drain.run_until_cancelled(calls.next()).await {
            None => return Ok(None),
            Some(Some(Ok(Answer::Registered(registration)))) => return Ok(Some(*registration)),
            Some(Some(Err(Refused(why)))) => return Err(WorkerError::Refused(why)),
            Some(_) => {}
        }
    }
}

impl Worker {
    async fn run(&mut self, mut renewed: mpsc::Receiver<Renewed>, shutdown: &Shutdown) -> Result<Ended, WorkerError> {
        let mut line = JobLine::new(self.progress.screen());
        let mut redraw = interval(Duration::from_millis(200));
        let ended = loop {
            self.renewable.send_replace(Renewable { session: self.session, held: self.slots.held() });
            self.progress.tally().set_registered(self.session.is_some() && !self.calls.is_cut_off());
            if let Some(ended) = self.ending.filter(|_| self.has_nothing_left()) {
                break ended;
            }
            self.call();
            tokio::select! {
                Some((lease, result)) = self.slots.next() => self.finished(lease, result),
                Some(answer) = self.calls.next() => self.answered(answer.map_err(|Refused(why)| WorkerError::Refused(why))?),
                Some(renewed) = renewed.recv() => self.obey(renewed.directive, &renewed.drop),
                () = shutdown.drain.cancelled(), if self.ending.is_none() => self.end(Ended::Drained),
                () = shutdown.abort.cancelled() => break Ended::Drained,
                _ = redraw.tick() => {
                    self.status.received_bytes = self.progress.received_bytes();
                    // Nothing is known of the job before the first answer.
                    if self.status.total > 0 {
                        line.update(&self.status);
                    }
                }
            }
        };
        line.finish();
        self.leave(ended).await
    }

    /// Starts the calls that are due.
    fn call(&mut self) {
        let Some(session) = self.session else {
            return self.calls.register(&self.who, self.target.storage_id(), self.slots.held());
        };
        if !self.unreported.is_empty() {
            self.calls.report(session, &self.unreported);
        }
        let free = self.slots.free();
        if free > 0 && self.ending.is_none() {
            let pause = if self.paused { PAUSE } else { Duration::ZERO };
            self.calls.acquire(session, free, self.slots.held(), pause);
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Registered(registration) => self.registered(&registration),
            Answer::Acquired(acquired) => self.acquired(acquired),
            Answer::Reported(reported) => self.reported(&reported),
            Answer::Lost => {}
        }
    }

    fn registered(&mut self, registration: &Registration) {
        if registration.job.run_id != self.run_id {
            // Results of the former run: whoever leases these classes again finds them published.
            self.unreported.clear();
            return self.end(Ended::AnotherRun);
        }
        tracing::info!(session = registration.session.0, "registered with the coordinator");
        self.session = Some(registration.session);
        self.drop_classes(&registration.drop);
    }

    fn acquired(&mut self, acquired: Acquired) {
        self.status = acquired.status;
        for lease in acquired.leases {
            // What comes too late or is too much goes back with the farewell, or when the lease runs out.
            if self.ending.is_some() {
                self.released.push(lease);
            } else if let Err(lease) = self.slots.start(lease) {
                self.released.push(lease);
            }
        }
        if acquired.job_done && self.ending.is_none() {
            self.end(Ended::JobDone);
        }
        self.obey(acquired.directive, &[]);
    }

    fn reported(&mut self, reported: &Reported) {
        self.status = reported.status;
        self.unreported.retain(|finished| !reported.acked.contains(&finished.lease.wnid));
        self.obey(reported.directive, &[]);
    }

    fn obey(&mut self, directive: Directive, drop: &[Wnid]) {
        self.drop_classes(drop);
        match directive {
            Directive::Continue => self.paused = false,
            Directive::Reregister => self.session = None,
            Directive::Stop => self.paused = true,
        }
    }

    fn drop_classes(&self, wnids: &[Wnid]) {
        for wnid in wnids {
            tracing::info!(%wnid, "the lease was lost, stopping at a checkpoint");
            self.slots.stop(*wnid);
        }
    }

    fn finished(&mut self, lease: Lease, result: Result<Outcome, Unfinished>) {
        match result {
            Ok(outcome) => self.unreported.push(Finished { lease, outcome }),
            Err(Unfinished::Failed(failure)) => {
                self.unreported.push(Finished { lease, outcome: Outcome::Failed(failure) });
            }
            Err(Unfinished::Stopped) => self.released.push(lease),
            Err(Unfinished::Target(fault)) => {
                self.released.push(lease);
                self.fault.get_or_insert(fault);
                self.end(Ended::Drained);
            }
        }
    }

    /// Takes nothing new; what runs stops at a checkpoint.
    fn end(&mut self, ended: Ended) {
        self.ending = Some(ended);
        self.slots.stop_all();
    }

    /// Nothing runs, and what is finished is reported or cannot be now.
    fn has_nothing_left(&self) -> bool {
        self.slots.held().is_empty() && (self.unreported.is_empty() || self.calls.is_cut_off())
    }

    async fn leave(&mut self, ended: Ended) -> Result<Ended, WorkerError> {
        self.renewable.send_replace(Renewable::default());
        self.progress.tally().set_registered(false);
        if let Some(session) = self.session {
            let mut released = std::mem::take(&mut self.released);
            released.extend(self.slots.held().iter().map(|held| held.lease));
            let reason = self.fault.as_ref().map(ToString::to_string).unwrap_or_default();
            self.calls.leave(session, &released, &reason).await;
        }
        self.fault.take().map_or(Ok(ended), |fault| Err(WorkerError::Target(fault)))
    }
}

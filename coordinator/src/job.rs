//! A job from its first lease to its summary: starts the dispatcher, the servers and, in single-host mode, the worker; waits
//! for the end; stops them in phases, each with a deadline.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use shared::{
    class_list::ClassList,
    exit_code::Exit,
    http,
    job::{JobOptions, JobStatus, UrlTemplate},
    job_line::{JobLine, Screen},
    metrics::MetricsSource,
    protocol::RENEWALS_PER_TTL,
    shutdown::Shutdown,
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{self, AuthLayer, SocketFile},
    concurrency::ConcurrencyController,
    config::Plan,
    dev::{self, DevWorker, DevWorkerError},
    dispatcher::{Dispatcher, DispatcherHandle, WorkerStopped},
    failure_log::FailureLog,
    http::{HttpEndpoint, RunningJob},
    ledger::{Entry, LedgerError, Writer, list_digest},
    rpc::service::{self, LeaseTerms, ServeError},
    running_time::RunningTime,
    summary,
};
pub use error::CoordinatorError;

mod closing;
mod error;
mod listening;
mod origin_refuses;
mod restore;
mod retry_failed;
mod staying;

use closing::{Closing, summed_up};
use listening::{announce, listen};
pub(crate) use origin_refuses::OriginRefusesAll;
use restore::{restore_workers, restored_table};
pub(crate) use retry_failed::NothingToRetry;
use retry_failed::Share;

const FRAME: Duration = Duration::from_millis(200);
/// Workers elsewhere have this long to hear that the job is done, and to leave.
const FAREWELL: Duration = Duration::from_secs(15);
/// A worker that has missed its last renewal by more than this is not waited for.
const LATE: Duration = Duration::from_secs(5);
/// How often to look who is still there.
const LOOK: Duration = Duration::from_millis(100);
/// The worker in this process, which stops too, has this long to hand back what it holds.
const HAND_BACK: Duration = Duration::from_secs(10);
/// Workers elsewhere go on with what they hold and wait for the next coordinator: they only need to hear of it.
const NOTICE: Duration = Duration::from_secs(1);
/// Then connections have this long to close.
const CLOSE: Duration = Duration::from_secs(2);

/// How the wait for the end went.
#[derive(Debug)]
enum End {
    Finished,
    /// Finished, told, and then told to stop.
    Stayed,
    Interrupted,
    /// The worker in this process was drained, and no other can join.
    Drained,
}

/// How long to wait for workers that stop.
enum Grace {
    /// For the worker in this process, which cleans up, as long as it takes; for those elsewhere as long as they can be
    /// expected to ask once more.
    Finished,
    /// For all of them so long.
    Limited(Duration),
}

/// Runs a job to its end; the summary goes to `out`. `worker` is called in single-host mode.
pub(crate) async fn run<W, F>(
    plan: Plan,
    classes: &ClassList,
    screen: &Screen,
    shutdown: &Shutdown,
    mut out: impl Write,
    worker: W,
) -> Result<Exit, CoordinatorError>
where
    W: FnOnce(DevWorker) -> F,
    F: Future<Output = Result<(), DevWorkerError>> + Send + 'static,
{
    let stays = plan.stay;
    let Some(mut job) = Job::start(plan, classes, screen, shutdown, worker).await? else {
        let closing = Closing { duplicates: classes.duplicates, ..Closing::default() };
        return Ok(summed_up(&mut out, screen, &retry_failed::nothing_to_do(classes), closing));
    };
    let mut end = job.until_end(screen, shutdown).await;
    if stays && matches!(end, Ok(End::Finished)) {
        let closing = job.closing(classes).await;
        summed_up(&mut out, screen, &job.handle.status(), closing);
        end = job.stay(screen, shutdown).await;
    }
    let grace = match &end {
        Ok(End::Finished) => Grace::Finished,
        Ok(End::Stayed | End::Drained) => Grace::Limited(NOTICE),
        Ok(End::Interrupted) if job.worker.is_empty() => Grace::Limited(NOTICE),
        Ok(End::Interrupted) => Grace::Limited(HAND_BACK),
        Err(error) => {
            job.stop_because(error);
            Grace::Limited(if job.worker.is_empty() { NOTICE } else { HAND_BACK })
        }
    };
    let closing = if end.is_ok() { job.closing(classes).await } else { Closing::default() };
    let stopped = job.stop(grace, &shutdown.abort).await;
    // What broke the job comes before what its end broke in turn.
    let (end, status) = (end?, stopped?);
    match end {
        End::Stayed => Ok(summary::exit(&status)),
        // Also when the signal came while the last class was reported.
        _ if status.is_done() => Ok(summed_up(&mut out, screen, &status, closing)),
        End::Finished | End::Interrupted | End::Drained => {
            let why = if matches!(end, End::Drained) { "its worker was drained" } else { "interrupted" };
            let (there, total) = (status.success + status.skipped, status.total);
            screen.say(&format!("{why}: {there} of {total} classes are there; run the same command again to resume"));
            Ok(Exit::Interrupted)
        }
    }
}

/// Everything that runs for a job.
struct Job {
    handle: DispatcherHandle,
    writer: Writer,
    /// The ledger's thread.
    writers: JoinSet<Result<(), LedgerError>>,
    dispatcher: JoinSet<()>,
    servers: JoinSet<Result<(), ServeError>>,
    worker: JoinSet<Result<(), DevWorkerError>>,
    /// Answers until the end, also that it stops.
    outside: JoinSet<()>,
    lease_ttl: Duration,
    /// Where the logs are.
    target: PathBuf,
    /// Scheme, host and port, for messages.
    origin: String,
    /// Tells workers that the job does not go on in this process.
    stopping: CancellationToken,
    /// Ends the servers.
    close: CancellationToken,
    /// Where commands of this user find the job.
    socket: Option<SocketFile>,
    /// The name of the worker in this process.
    own_worker: Option<String>,
    /// Workers of other processes can join.
    is_open: bool,
}

impl Job {
    /// `None` if there is nothing to do, which begins no run.
    async fn start<W, F>(
        mut plan: Plan,
        classes: &ClassList,
        screen: &Screen,
        shutdown: &Shutdown,
        worker: W,
    ) -> Result<Option<Self>, CoordinatorError>
    where
        W: FnOnce(DevWorker) -> F,
        F: Future<Output = Result<(), DevWorkerError>> + Send + 'static,
    {
        // The address first: what cannot run must not empty the failure log of the last run.
        let listener = listen(plan.listen).await?;
        let close = CancellationToken::new();
        let mut outside = JoinSet::new();
        let stopping = [shutdown.drain.clone(), close.clone()];
        let (seen, http) = HttpEndpoint::open(plan.http, stopping, &mut outside)?;
        let mut ledger = retry_failed::open_ledger(&plan)?;
        let (digest, url) = (digest(classes, &plan.job.url, plan.retry_failed), plan.job.url.to_string());
        let Some(share) = Share::of(&plan, classes, &ledger, &digest, screen).await? else { return Ok(None) };
        let terms = LeaseTerms { epoch: ledger.next_epoch()?, ttl: plan.lease_ttl };
        let run = ledger.run(&digest, &url, plan.stay)?;
        plan.job.run_id.clone_from(&run.run_id);
        let mut log = FailureLog::open(&plan.target)?;
        let table = restored_table(&plan, classes, &share, &ledger, &run, terms, &mut log)?;
        let share = share.still_skipped(&table);
        let table = restore_workers(&ledger, &run, table, listener.is_some(), screen)?;
        let mut writers = JoinSet::new();
        let writer = ledger.start_writer(run, terms.ttl, log, &mut writers)?;
        share.keep(&writer).await;
        tracing::info!(
            run = plan.job.run_id, url = %plan.job.url, classes = classes.wnids.len(), invalid = classes.invalid.len(),
            duplicates = classes.duplicates, "starting"
        );
        let pace = ConcurrencyController::new(plan.ceilings, Instant::now());
        let (owner, handle) = Dispatcher::new(table, pace, writer.clone());
        let owner = owner.telling_of(plan.job.url.address(), plan.single_host.is_none());
        let mut job = Self {
            handle,
            writer,
            writers,
            dispatcher: JoinSet::new(),
            servers: JoinSet::new(),
            worker: JoinSet::new(),
            outside,
            lease_ttl: terms.ttl,
            target: plan.target.clone(),
            origin: plan.job.url.address(),
            stopping: shutdown.drain.child_token(),
            close,
            socket: None,
            own_worker: plan.single_host.as_ref().map(|single_host| single_host.name.clone()),
            is_open: listener.is_some(),
        };
        job.dispatcher.spawn(owner.beside(job.own_worker.clone()).run());
        let stop = Shutdown { drain: job.stopping.clone(), abort: job.close.clone() };
        screen.say(&http::announcement(http));
        job.listen_in(&plan.target, &plan.job, terms, stop.clone(), listener.is_some());
        let mut others = Vec::new();
        if let Some((listener, address)) = listener {
            let door = Arc::new(plan.door);
            announce(screen, address, &door, plan.exposure);
            let gate = AuthLayer::of(Arc::clone(&door));
            others.push(Arc::clone(&door) as Arc<dyn MetricsSource>);
            job.serve(&plan.job, terms, gate, auth::incoming(listener, door), stop.clone());
        }
        if let Some(single_host) = plan.single_host {
            let counters = Arc::default();
            others.push(Arc::clone(&counters) as _);
            let (connect, incoming) = dev::in_process();
            job.serve(&plan.job, terms, AuthLayer::open(), incoming, stop);
            let shutdown = Shutdown { drain: job.stopping.clone(), abort: shutdown.abort.clone() };
            let screen = screen.clone();
            let counts = job.handle.watch();
            let target = plan.target;
            job.worker.spawn(worker(DevWorker { single_host, target, connect, screen, shutdown, counters, counts }));
        }
        let (handle, commits) = (job.handle.clone(), job.writer.commits());
        seen.running_job(RunningJob { handle, epoch: terms.epoch, commits, others });
        Ok(Some(job))
    }

    fn serve<I, IO>(&mut self, options: &JobOptions, terms: LeaseTerms, gate: AuthLayer, incoming: I, stop: Shutdown)
    where
        I: futures_util::Stream<Item = io::Result<IO>> + Send + 'static,
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
    {
        self.servers.spawn(service::serve(self.handle.clone(), options.clone(), terms, gate, incoming, stop));
    }

    async fn until_end(&mut self, screen: &Screen, shutdown: &Shutdown) -> Result<End, CoordinatorError> {
        let mut status = self.handle.watch();
        let mut refuses = self.handle.watch_refuses();
        let mut frames = interval(FRAME);
        // The worker in this process draws the line itself, below its bars.
        let mut line = self.worker.is_empty().then(|| JobLine::new(screen));
        let end = loop {
            tokio::select! {
                biased;
                Ok(()) = refuses.changed() => if let Some(refuses) = refuses.borrow_and_update().clone() {
                    let origin = self.origin.clone();
                    break Err(CoordinatorError::OriginRefuses(OriginRefusesAll { origin, refuses }));
                },
                done = status.wait_for(JobStatus::is_done) => break match done {
                    Ok(_) => Ok(End::Finished),
                    Err(_) => Err(CoordinatorError::DispatcherDied),
                },
                () = shutdown.drain.cancelled() => break Ok(End::Interrupted),
                Some(Ok(ended)) = self.writers.join_next() => if let Err(error) = ended { break Err(error.into()) },
                Some(ended) = self.worker.join_next() => match self.without_worker(ended) {
                    Err(error) => break Err(error),
                    Ok(()) if self.is_open => {
                        screen.say("the worker in this process was drained; the job goes on with other workers");
                        line = Some(JobLine::new(screen));
                    }
                    Ok(()) => break Ok(End::Drained),
                },
                Some(Ok(ended)) = self.servers.join_next() => if let Err(error) = ended { break Err(error.into()) },
                _ = frames.tick() => if let Some(line) = &mut line { line.update(&self.handle.status()) },
            }
        };
        if let Some(line) = line {
            line.finish();
        }
        end
    }

    /// Tells the workers to stop, and why.
    fn stop_because(&self, error: &CoordinatorError) {
        self.handle.stops_because(format!("failed to {error}"));
        self.stopping.cancel();
    }

    /// Why the job cannot go on once the worker in this process has ended, unless it was drained.
    fn without_worker(
        &self,
        ended: Result<Result<(), DevWorkerError>, tokio::task::JoinError>,
    ) -> Result<(), CoordinatorError> {
        ended.map_err(|error| DevWorkerError(format!("run the worker: {error}")))??;
        let stopped = self.handle.watch_stopped().borrow().clone();
        match stopped.filter(|stopped| Some(&stopped.name) == self.own_worker.as_ref()) {
            Some(WorkerStopped { name, reason }) => Err(CoordinatorError::WorkerStopped { name, reason }),
            None => Ok(()),
        }
    }

    /// Waits for the workers to leave, closes the connections and the ledger, and gives the last counts.
    async fn stop(mut self, grace: Grace, abort: &CancellationToken) -> Result<JobStatus, LedgerError> {
        let mut status = self.handle.watch();
        let all_left = async {
            match grace {
                Grace::Finished => {
                    let elsewhere = all_have_heard(self.handle.clone(), self.lease_ttl);
                    let cleaned_up = async { while self.worker.join_next().await.is_some() {} };
                    tokio::join!(elsewhere, cleaned_up).0
                }
                Grace::Limited(limit) => {
                    let all_left = async {
                        drop(status.wait_for(|status| status.workers == 0).await);
                        while self.worker.join_next().await.is_some() {}
                    };
                    timeout(limit, all_left).await.is_ok()
                }
            }
        };
        tokio::select! {
            all_left = all_left => if !all_left {
                tracing::info!(workers = self.handle.status().workers, "workers did not leave in time");
            },
            () = abort.cancelled() => {}
        }
        self.close.cancel();
        let closed = async { while self.servers.join_next().await.is_some() {} };
        if timeout(CLOSE, closed).await.is_err() {
            tracing::info!("connections did not close in time");
        }
        self.servers.shutdown().await;
        // Its tasks must not outlive it: the end of the runtime would break them in the middle.
        drop(timeout(CLOSE, self.worker.shutdown()).await);
        let status = self.handle.status();
        drop(self.handle);
        self.dispatcher.shutdown().await;
        self.writer.write(Entry { finished: status.is_done(), ..Entry::default() }).await;
        drop(self.writer);
        while let Some(written) = self.writers.join_next().await {
            written.expect("the ledger's thread does not panic")?;
        }
        self.outside.shutdown().await;
        drop(self.socket);
        Ok(status)
    }
}

/// Waits until every worker that is still there knows that the job is done, but no longer than [`FAREWELL`]; whether they
/// do. One that is backing off asks again soon; one that was not heard of for longer than it may be is cut off, or gone. A
/// time in which this process stood still does not count.
async fn all_have_heard(handle: DispatcherHandle, lease_ttl: Duration) -> bool {
    let mut status = handle.watch();
    let begun = Instant::now();
    let mut time = RunningTime::starting_at(begun);
    loop {
        status.mark_unchanged();
        if handle.heard_of(lease_ttl / RENEWALS_PER_TTL + LATE).await.map_or(true, |workers| workers == 0) {
            return true;
        }
        if time.at(Instant::now()) - begun >= FAREWELL {
            return false;
        }
        // One that leaves changes the counts; one that falls silent only gets older.
        tokio::select! {
            Ok(()) = status.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// What tells one job from another. The ledger can be read by anyone, so a query stands in it only as a part of the digest.
fn digest(classes: &ClassList, url: &UrlTemplate, retry_failed: bool) -> String {
    let retry = retry_failed.then(|| "--retry-failed".to_owned());
    list_digest(classes.part_ids().chain(url.query().map(str::to_owned)).chain(retry))
}

#[cfg(test)]
mod tests;

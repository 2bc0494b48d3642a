//! A job from its first lease to its summary. Starts the dispatcher, the servers and, in
//! single-host mode, the worker; waits for the end; stops them in phases, each with a deadline.

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
    shutdown::Shutdown,
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{self, AuthLayer, SocketFile},
    concurrency::ConcurrencyController,
    config::{Plan, SingleHost},
    dev::{self, DevWorker, DevWorkerError},
    dispatcher::{Dispatcher, DispatcherHandle, WorkerStopped},
    failure_log::FailureLog,
    http::{HttpEndpoint, RunningJob},
    ledger::{LedgerError, Writer, list_digest},
    rpc::service::{self, LeaseTerms, ServeError},
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
mod stopping;

use closing::{Closing, summed_up};
use listening::{announce, listen};
pub(crate) use origin_refuses::OriginRefusesAll;
use restore::{restore_workers, restored_table};
use retry_failed::JobClasses;
pub(crate) use retry_failed::NothingToRetry;
use stopping::{Grace, RETURN_TIMEOUT, STOP_NOTICE};

const LINE_INTERVAL: Duration = Duration::from_millis(200);

/// Why the wait for the end of the job returned.
#[derive(Debug)]
enum End {
    Finished,
    /// The job finished, its summary was printed, and the process was then stopped.
    Stayed,
    Interrupted,
    /// The worker in this process was drained, and no other worker can join.
    Drained,
}

/// Runs a job to its end and writes the summary to `out`. `worker` is called in single-host mode.
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
        let closing = Closing {
            duplicates: classes.duplicates,
            ..Closing::default()
        };
        return Ok(summed_up(
            &mut out,
            screen,
            &retry_failed::nothing_to_do(classes),
            closing,
        ));
    };
    let mut end = job.until_end(screen, shutdown).await;
    if stays && matches!(end, Ok(End::Finished)) {
        let closing = job.closing(classes).await;
        summed_up(&mut out, screen, &job.handle.status(), closing);
        end = job.stay(screen, shutdown).await;
    }
    let grace = match &end {
        Ok(End::Finished) => Grace::Finished,
        Ok(End::Stayed | End::Drained) => Grace::Limited(STOP_NOTICE),
        Ok(End::Interrupted) if job.worker.is_empty() => Grace::Limited(STOP_NOTICE),
        Ok(End::Interrupted) => Grace::Limited(RETURN_TIMEOUT),
        Err(error) => {
            job.stop_because(error);
            Grace::Limited(if job.worker.is_empty() {
                STOP_NOTICE
            } else {
                RETURN_TIMEOUT
            })
        }
    };
    let closing = if end.is_ok() {
        job.closing(classes).await
    } else {
        Closing::default()
    };
    let stopped = job.stop(grace, &shutdown.abort).await;
    // An error of the job takes precedence over errors while it stops, which may be its
    // consequences.
    let end = end?;
    let status = stopped?;
    match end {
        End::Stayed => Ok(summary::exit(&status)),
        // Also if the signal arrived while the last class was reported.
        _ if status.is_done() => Ok(summed_up(&mut out, screen, &status, closing)),
        End::Finished | End::Interrupted | End::Drained => {
            let why = if matches!(end, End::Drained) {
                "its worker was drained"
            } else {
                "interrupted"
            };
            let there = status.success + status.skipped;
            let total = status.total;
            screen.say(&format!(
                "{why}: {there} of {total} classes are there; run the same command again to resume"
            ));
            Ok(Exit::Interrupted)
        }
    }
}

/// The tasks and the state of a running job.
struct Job {
    handle: DispatcherHandle,
    writer: Writer,
    /// The ledger's thread.
    writers: JoinSet<Result<(), LedgerError>>,
    dispatcher: JoinSet<()>,
    servers: JoinSet<Result<(), ServeError>>,
    worker: JoinSet<Result<(), DevWorkerError>>,
    /// The servers for health, metrics and commands. They answer until the end of the process, also
    /// that the job stops.
    endpoints: JoinSet<()>,
    lease_ttl: Duration,
    /// The folder of the logs.
    target: PathBuf,
    /// Scheme, host and port of the origin, for messages.
    origin: String,
    /// Signals workers that the job does not continue in this process.
    stopping: CancellationToken,
    /// Ends the servers.
    close: CancellationToken,
    /// The socket at which commands of this user reach the job.
    socket: Option<SocketFile>,
    /// The name of the worker in this process.
    own_worker: Option<String>,
    /// Whether workers of other processes can join.
    is_open: bool,
}

impl Job {
    /// Starts the job. `None` if there is nothing to do; then no run begins.
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
        // The address is bound first: a job that cannot start must not empty the failure log of the
        // last run.
        let listener = listen(plan.listen).await?;
        let close = CancellationToken::new();
        let mut endpoints = JoinSet::new();
        let stopping = [shutdown.drain.clone(), close.clone()];
        let (seen, http) = HttpEndpoint::open(plan.http, stopping, &mut endpoints)?;
        let mut ledger = retry_failed::open_ledger(&plan)?;
        let digest = digest(classes, &plan.job.url, plan.retry_failed);
        let url = plan.job.url.to_string();
        let Some(job_classes) = JobClasses::of(&plan, classes, &ledger, &digest, screen).await?
        else {
            return Ok(None);
        };
        let terms = LeaseTerms {
            epoch: ledger.next_epoch()?,
            ttl: plan.lease_ttl,
        };
        let run = ledger.run(&digest, &url, plan.stay)?;
        plan.job.run_id.clone_from(&run.run_id);
        let mut log = FailureLog::open(&plan.target)?;
        let table = restored_table(&plan, classes, &job_classes, &ledger, &run, terms, &mut log)?;
        let job_classes = job_classes.still_skipped(&table);
        let table = restore_workers(&ledger, &run, table, listener.is_some(), screen)?;
        let mut writers = JoinSet::new();
        let writer = ledger.start_writer(run, terms.ttl, log, &mut writers)?;
        job_classes.keep(&writer).await;
        tracing::info!(
            run = plan.job.run_id, url = %plan.job.url, classes = classes.wnids.len(), invalid = classes.invalid.len(),
            duplicates = classes.duplicates, "starting"
        );
        let controller = ConcurrencyController::new(plan.ceilings, Instant::now());
        let (owner, handle) = Dispatcher::new(table, controller, writer.clone());
        let owner = owner.with_origin(plan.job.url.address(), plan.single_host.is_none());
        let mut job = Self {
            handle,
            writer,
            writers,
            dispatcher: JoinSet::new(),
            servers: JoinSet::new(),
            worker: JoinSet::new(),
            endpoints,
            lease_ttl: terms.ttl,
            target: plan.target.clone(),
            origin: plan.job.url.address(),
            stopping: shutdown.drain.child_token(),
            close,
            socket: None,
            own_worker: plan
                .single_host
                .as_ref()
                .map(|single_host| single_host.name.clone()),
            is_open: listener.is_some(),
        };
        job.dispatcher
            .spawn(owner.with_own_worker(job.own_worker.clone()).run());
        let stop = Shutdown {
            drain: job.stopping.clone(),
            abort: job.close.clone(),
        };
        screen.say(&http::announcement(http));
        job.listen_in(
            &plan.target,
            &plan.job,
            terms,
            stop.clone(),
            listener.is_some(),
        );
        let mut others = Vec::new();
        if let Some((listener, address)) = listener {
            let credentials = Arc::new(plan.credentials);
            announce(screen, address, &credentials, plan.exposure);
            let auth_layer = AuthLayer::of(Arc::clone(&credentials));
            others.push(Arc::clone(&credentials) as Arc<dyn MetricsSource>);
            job.serve(
                &plan.job,
                terms,
                auth_layer,
                auth::incoming(listener, credentials),
                stop,
            );
        }
        if let Some(single_host) = plan.single_host {
            others.push(job.start_worker(
                single_host,
                &plan.job,
                terms,
                screen,
                &shutdown.abort,
                worker,
            ));
        }
        let handle = job.handle.clone();
        let commits = job.writer.commits();
        seen.running_job(RunningJob {
            handle,
            epoch: terms.epoch,
            commits,
            others,
        });
        Ok(Some(job))
    }

    /// Starts the worker in this process and returns its counters.
    fn start_worker<W, F>(
        &mut self,
        single_host: SingleHost,
        options: &JobOptions,
        terms: LeaseTerms,
        screen: &Screen,
        abort: &CancellationToken,
        worker: W,
    ) -> Arc<dyn MetricsSource>
    where
        W: FnOnce(DevWorker) -> F,
        F: Future<Output = Result<(), DevWorkerError>> + Send + 'static,
    {
        let counters = Arc::default();
        let (connect, incoming) = dev::in_process();
        let stop = Shutdown {
            drain: self.stopping.clone(),
            abort: self.close.clone(),
        };
        self.serve(options, terms, AuthLayer::open(), incoming, stop);
        self.worker.spawn(worker(DevWorker {
            single_host,
            target: self.target.clone(),
            connect,
            screen: screen.clone(),
            shutdown: Shutdown {
                drain: self.stopping.clone(),
                abort: abort.clone(),
            },
            counters: Arc::clone(&counters),
            counts: self.handle.watch(),
        }));
        counters
    }

    fn serve<I, IO>(
        &mut self,
        options: &JobOptions,
        terms: LeaseTerms,
        auth_layer: AuthLayer,
        incoming: I,
        stop: Shutdown,
    ) where
        I: futures_util::Stream<Item = io::Result<IO>> + Send + 'static,
        IO: tokio::io::AsyncRead
            + tokio::io::AsyncWrite
            + tonic::transport::server::Connected
            + Unpin
            + Send
            + 'static,
    {
        self.servers.spawn(service::serve(
            self.handle.clone(),
            options.clone(),
            terms,
            auth_layer,
            incoming,
            stop,
        ));
    }

    async fn until_end(
        &mut self,
        screen: &Screen,
        shutdown: &Shutdown,
    ) -> Result<End, CoordinatorError> {
        let mut status = self.handle.watch();
        let mut refuses = self.handle.watch_refuses();
        let mut frames = interval(LINE_INTERVAL);
        // The worker in this process draws the status line itself, below its progress bars.
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

    /// Stops the workers and passes the reason to them.
    fn stop_because(&self, error: &CoordinatorError) {
        self.handle.set_stop_reason(format!("failed to {error}"));
        self.stopping.cancel();
    }

    /// Why the job cannot continue after the worker in this process has ended, unless it was
    /// drained.
    fn without_worker(
        &self,
        ended: Result<Result<(), DevWorkerError>, tokio::task::JoinError>,
    ) -> Result<(), CoordinatorError> {
        ended.map_err(|error| DevWorkerError(format!("run the worker: {error}")))??;
        let stopped = self.handle.watch_stopped().borrow().clone();
        match stopped.filter(|stopped| Some(&stopped.name) == self.own_worker.as_ref()) {
            Some(WorkerStopped { name, reason }) => {
                Err(CoordinatorError::WorkerStopped { name, reason })
            }
            None => Ok(()),
        }
    }
}

/// The digest that identifies a job. Every user may read the ledger, so it holds a query only as
/// part of the digest.
fn digest(classes: &ClassList, url: &UrlTemplate, retry_failed: bool) -> String {
    let retry = retry_failed.then(|| "--retry-failed".to_owned());
    list_digest(
        classes
            .part_ids()
            .chain(url.query().map(str::to_owned))
            .chain(retry),
    )
}

#[cfg(test)]
mod tests;

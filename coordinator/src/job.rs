//! A job from its first lease to its summary. Starts the dispatcher, the servers and, in
//! single-host mode, the worker; waits for the end; stops them in phases, each with a deadline.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::Stream;
use shared::{
    class_list::ClassList,
    exit_code::Exit,
    job::{JobStatus, UrlTemplate},
    job_line::Screen,
    metrics::MetricsSource,
    shutdown::Shutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinError, JoinSet},
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use worker::WorkerConfig;

use crate::{
    auth::{self, AuthLayer, SocketFile},
    concurrency::ConcurrencyController,
    config::{Plan, SingleHost},
    dashboard::Dashboard,
    dev::{self, DevWorker, DevWorkerError},
    dispatcher::{Dispatcher, WorkerStopped},
    http::{HttpEndpoint, HttpSettings, RunningJob},
    ledger::{LedgerError, Writer, list_digest},
    rpc::service::{self, ClassTraces, CoordinatorService, ServeError},
    summary,
};
pub use error::CoordinatorError;

mod closing;
mod error;
mod fleet_display;
mod listening;
mod live_page;
mod origin_refuses;
mod restore;
mod retry_failed;
mod staying;
mod stopping;

use closing::{Closing, summed_up};
use fleet_display::{FleetDisplay, refresh};
use listening::{announce, listen};
pub(crate) use origin_refuses::OriginRefusesAll;
use restore::RestoredJob;
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

/// Runs a job to its end and writes the summary to `out`. `run_worker` is called in single-host
/// mode.
pub(crate) async fn run<F>(
    plan: Plan,
    classes: &ClassList,
    screen: &Screen,
    shutdown: &Shutdown,
    mut out: impl Write,
    run_worker: impl FnOnce(DevWorker) -> F,
) -> Result<Exit, CoordinatorError>
where
    F: Future<Output = Result<(), DevWorkerError>> + Send + 'static,
{
    let stays = plan.stay;
    let Some((mut job, worker)) = Job::start(plan, classes, screen, shutdown).await? else {
        let closing = Closing {
            duplicates: classes.duplicates,
            ..Closing::default()
        };
        let status = retry_failed::nothing_to_do(classes);
        return Ok(summed_up(&mut out, screen, &status, closing));
    };
    if let Some(worker) = worker {
        job.worker.spawn(run_worker(worker));
    }
    let mut end = job.until_end(screen, shutdown).await;
    if stays && matches!(end, Ok(End::Finished)) {
        let closing = job.closing(classes).await;
        summed_up(&mut out, screen, &job.status(), closing);
        end = job.stay(screen, shutdown).await;
    }
    let grace = match &end {
        Ok(End::Finished) => Grace::Finished,
        Ok(End::Interrupted) | Err(_) if !job.worker.is_empty() => Grace::Limited(RETURN_TIMEOUT),
        _ => Grace::Limited(STOP_NOTICE),
    };
    let closing = match &end {
        Ok(_) => job.closing(classes).await,
        Err(error) => {
            job.stop_because(error);
            Closing::default()
        }
    };
    let stopped = job.stop(grace, &shutdown.abort).await;
    // An error of the job takes precedence over errors while it stops, which may be its
    // consequences.
    let end = end?;
    let status = stopped?;
    if matches!(end, End::Stayed) {
        return Ok(summary::exit(&status));
    }
    // Also if the signal arrived while the last class was reported.
    if status.is_done() {
        return Ok(summed_up(&mut out, screen, &status, closing));
    }
    let why = if matches!(end, End::Drained) {
        "its worker was drained"
    } else {
        "interrupted"
    };
    let there = status.success + status.skipped;
    let total = status.total;
    screen.write_line(&format!(
        "{why}: {there} of {total} classes are there; run the same command again to resume"
    ));
    Ok(Exit::Interrupted)
}

/// The tasks and the state of a running job.
struct Job {
    /// What the servers serve. Its `shutdown.drain` tells workers that the job does not continue in
    /// this process, and its `shutdown.abort` ends the servers.
    service: CoordinatorService,
    writer: Writer,
    /// The ledger's thread.
    writers: JoinSet<Result<(), LedgerError>>,
    dispatcher: JoinSet<()>,
    servers: JoinSet<Result<(), ServeError>>,
    worker: JoinSet<Result<(), DevWorkerError>>,
    /// The servers for health, metrics and commands. They answer until the end of the process, also
    /// that the job stops.
    endpoints: JoinSet<()>,
    /// The folder of the logs.
    target: PathBuf,
    /// The socket at which commands of this user reach the job.
    socket: Option<SocketFile>,
    /// The name of the worker in this process.
    own_worker: Option<String>,
    /// Whether workers of other processes can join.
    is_open: bool,
    /// The data of the live page.
    dashboard: Dashboard,
}

impl Job {
    /// Starts the job, and returns in single-host mode the worker to run. `None` if there is
    /// nothing to do; then no run begins.
    async fn start(
        mut plan: Plan,
        classes: &ClassList,
        screen: &Screen,
        shutdown: &Shutdown,
    ) -> Result<Option<(Self, Option<DevWorker>)>, CoordinatorError> {
        // The address is bound first: a job that cannot start must not empty the failure log of the
        // last run.
        let listener = listen(plan.listen).await?;
        let is_open = listener.is_some();
        let stop = Shutdown {
            drain: shutdown.drain.child_token(),
            abort: CancellationToken::new(),
        };
        let mut endpoints = JoinSet::new();
        let stopping = [shutdown.drain.clone(), stop.abort.clone()];
        let credentials = Arc::clone(&plan.credentials);
        let (seen, page) = HttpEndpoint::open(HttpSettings::of(&plan), stopping, &mut endpoints)?;
        if credentials.has_files() {
            endpoints.spawn(Arc::clone(&credentials).watch());
        }
        let Some(restored) = RestoredJob::open(&mut plan, classes, is_open, screen).await? else {
            return Ok(None);
        };
        tracing::info!(
            run = plan.job.run_id, url = %plan.job.url, classes = classes.wnids.len(), invalid = classes.invalid.len(),
            duplicates = classes.duplicates, "starting"
        );
        let mut job = Self::of(restored, &plan, stop, endpoints, is_open).await?;
        screen.write_line(&page);
        job.listen_in_target();
        let mut others = Vec::new();
        if let Some((listener, address)) = listener {
            announce(screen, address, &credentials, plan.exposure);
            let auth_layer = AuthLayer::of(Arc::clone(&credentials));
            others.push(Arc::clone(&credentials) as Arc<dyn MetricsSource>);
            job.serve(auth_layer, auth::incoming(listener, credentials));
        }
        let worker = plan
            .single_host
            .map(|single_host| job.own_worker(single_host, screen, &shutdown.abort));
        others.extend(
            worker
                .iter()
                .map(|worker| Arc::clone(&worker.counters) as Arc<dyn MetricsSource>),
        );
        seen.running_job(RunningJob {
            handle: job.service.dispatcher.clone(),
            dashboard: job.dashboard.clone(),
            epoch: job.service.terms.epoch,
            commits: job.writer.commits(),
            others,
        });
        Ok(Some((job, worker)))
    }

    /// Starts the dispatcher of a job, and no server yet.
    async fn of(
        restored: RestoredJob,
        plan: &Plan,
        stop: Shutdown,
        mut endpoints: JoinSet<()>,
        is_open: bool,
    ) -> Result<Self, CoordinatorError> {
        let controller = ConcurrencyController::new(plan.ceilings, Instant::now());
        let (owner, handle) = Dispatcher::new(restored.table, controller, restored.writer.clone());
        let single_host = plan.single_host.as_ref();
        let own_worker = single_host.map(|single_host| single_host.name.clone());
        let owner = owner.with_origin(plan.job.url.address(), own_worker.clone());
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(owner.run());
        let epoch = restored.terms.epoch;
        let dashboard =
            live_page::start(handle.clone(), plan, epoch, &stop, &mut endpoints).await?;
        Ok(Self {
            service: CoordinatorService {
                dispatcher: handle,
                job: plan.job.clone(),
                terms: restored.terms,
                traces: ClassTraces::default(),
                shutdown: stop,
            },
            writer: restored.writer,
            writers: restored.writers,
            dispatcher,
            servers: JoinSet::new(),
            worker: JoinSet::new(),
            endpoints,
            target: plan.target.clone(),
            socket: None,
            own_worker,
            is_open,
            dashboard,
        })
    }

    fn status(&self) -> JobStatus {
        self.service.dispatcher.status()
    }

    /// Serves a worker in this process, which the caller runs.
    fn own_worker(
        &mut self,
        single_host: SingleHost,
        screen: &Screen,
        abort: &CancellationToken,
    ) -> DevWorker {
        let (connect, incoming) = dev::in_process();
        self.serve(AuthLayer::open(), incoming);
        DevWorker {
            config: WorkerConfig {
                name: single_host.name,
                slots: single_host.slots,
                target: self.target.clone(),
                staging: single_host.staging,
                allow_private_origin: true,
                counts: Some(self.service.dispatcher.watch()),
                rate: Some(self.service.dispatcher.watch_rate()),
            },
            connect,
            screen: screen.clone(),
            shutdown: Shutdown {
                drain: self.service.shutdown.drain.clone(),
                abort: abort.clone(),
            },
            counters: Arc::default(),
        }
    }

    fn serve<IO>(
        &mut self,
        auth_layer: AuthLayer,
        incoming: impl Stream<Item = io::Result<IO>> + Send + 'static,
    ) where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let serving = service::serve(self.service.clone(), auth_layer, incoming);
        self.servers.spawn(serving);
    }

    async fn until_end(
        &mut self,
        screen: &Screen,
        shutdown: &Shutdown,
    ) -> Result<End, CoordinatorError> {
        let mut status = self.service.dispatcher.watch();
        let mut refuses = self.service.dispatcher.watch_refuses();
        let mut frames = interval(LINE_INTERVAL);
        // The worker in this process owns the block: it draws its downloads and the job's line.
        let dispatcher = self.service.dispatcher.clone();
        let display = || FleetDisplay::new(screen, dispatcher.clone());
        let mut fleet = self.worker.is_empty().then(display);
        let end = loop {
            tokio::select! {
                biased;
                Ok(()) = refuses.changed() => if let Some(refuses) = refuses.borrow_and_update().clone() {
                    let origin = self.service.job.url.address();
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
                        screen.write_line("the worker in this process was drained; the job goes on with other workers");
                        fleet = Some(display());
                    }
                    Ok(()) => break Ok(End::Drained),
                },
                Some(Ok(ended)) = self.servers.join_next() => if let Err(error) = ended { break Err(error.into()) },
                () = refresh(&mut fleet) => {},
                _ = frames.tick() => if let Some(fleet) = &mut fleet { fleet.update(&self.status()) },
            }
        };
        if let Some(fleet) = fleet {
            fleet.finish();
        }
        end
    }

    /// Stops the workers and passes the reason to them.
    fn stop_because(&self, error: &CoordinatorError) {
        let reason = format!("failed to {error}");
        self.service.dispatcher.set_stop_reason(reason);
        self.service.shutdown.drain.cancel();
    }

    /// Why the job cannot continue after the worker in this process has ended, unless it was
    /// drained.
    fn without_worker(
        &self,
        ended: Result<Result<(), DevWorkerError>, JoinError>,
    ) -> Result<(), CoordinatorError> {
        ended.map_err(|error| DevWorkerError(format!("run the worker: {error}")))??;
        let stopped = self.service.dispatcher.watch_stopped();
        let stopped = stopped.borrow().clone();
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
    let query = url.query().map(str::to_owned);
    let retry = retry_failed.then(|| "--retry-failed".to_owned());
    list_digest(classes.part_ids().chain(query).chain(retry))
}

#[cfg(test)]
mod tests;

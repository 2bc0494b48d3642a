//! A coordinator with scripted answers that records the calls it receives. It produces situations
//! that the real coordinator produces too rarely for a test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use futures_util::stream;
use proto::{
    admin_server::AdminServer,
    coordinator_server::{Coordinator, CoordinatorServer},
};
use tests::{origin::Origin, wait::wait_for};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::lies::{Lies, LyingAdmin};

/// The answers of the scripted coordinator. A test may change them at any time.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) run: u32,
    pub(crate) epoch: u32,
    /// The epoch in answers to renewals, if it differs from `epoch`.
    pub(crate) renewals_epoch: Option<u32>,
    pub(crate) ttl: Duration,
    pub(crate) needs_inventory: bool,
    /// Leases still to be granted, one per call, from the end of the list.
    pub(crate) leases: Vec<proto::Lease>,
    /// Directive in each answer to a renewal.
    pub(crate) directive: proto::Directive,
    pub(crate) job_done: bool,
    /// Number of settled classes in the answers to registrations and reports. The job has one
    /// class.
    pub(crate) settled: u64,
    /// Session id in each answer to a registration.
    pub(crate) session: u64,
    pub(crate) acquires: Acquires,
    /// Number of further reports whose answers acknowledge no result.
    pub(crate) unsettled_reports: u32,
    /// Number of further reports that fail as unavailable.
    pub(crate) failing_reports: u32,
    /// Rejects each report as invalid.
    pub(crate) refuses_reports: bool,
    pub(crate) pace: Pace,
    pub(crate) lies: Lies,
}

/// Whether `Acquire` calls are answered. The answer to a call with an old session id has the
/// directive to register again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquires {
    Answered,
    Held,
}

/// How the coordinator answers on the budget stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Rejects the call as unimplemented, as a coordinator without the budget stream does.
    Unknown,
    /// Rejects new streams as unavailable and ends open ones.
    Broken,
    /// Accepts the stream and sends nothing.
    Silent,
    /// Sends this budget on each stream, once per stream and change.
    Budget(proto::Budget),
}

/// The recorded calls of each kind, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecordedCalls {
    pub(crate) registrations: Vec<proto::RegisterRequest>,
    pub(crate) renewals: usize,
    pub(crate) acquires: usize,
    /// Each report with the number of `Acquire` calls before it.
    pub(crate) reports: Vec<(usize, proto::ReportRequest)>,
    pub(crate) farewells: Vec<proto::LeaveRequest>,
    pub(crate) observations: Vec<proto::Observation>,
}

impl RecordedCalls {
    /// All results of all reports, in their order.
    pub(crate) fn results(&self) -> Vec<&proto::Result> {
        self.reports
            .iter()
            .flat_map(|(_, report)| &report.results)
            .collect()
    }
}

/// The state shared by the service and the test.
#[derive(Debug)]
struct State {
    answers: Mutex<Answers>,
    told: Mutex<RecordedCalls>,
    job: proto::JobOptions,
}

/// A running scripted coordinator; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Scripted {
    state: Arc<State>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Listens on a free port of loopback.
    pub(crate) fn start(origin: &Origin) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, origin)
    }

    /// Listens on a free port of an address.
    pub(crate) fn start_at(address: Ipv4Addr, origin: &Origin) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("the listener is bound");
        let state = Arc::new(State {
            answers: Mutex::new(Answers::default()),
            told: Mutex::default(),
            job: job(origin),
        });
        let (stop, stopped) = oneshot::channel();
        let service = ScriptedService(Arc::clone(&state));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let services = tonic::transport::Server::builder()
                .add_service(CoordinatorServer::new(service))
                .add_service(AdminServer::new(LyingAdmin));
            let stopped = async { drop(stopped.await) };
            runtime.block_on(async {
                let listener =
                    tokio::net::TcpListener::from_std(listener).expect("the listener is valid");
                services
                    .serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped)
                    .await
                    .expect("the server ends without an error");
            });
        });
        Self {
            state,
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn answers(&self) -> MutexGuard<'_, Answers> {
        lock(&self.state.answers)
    }

    pub(crate) fn told(&self) -> RecordedCalls {
        lock(&self.state.told).clone()
    }

    /// Waits until the recorded calls satisfy the condition.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut is_true: impl FnMut(&RecordedCalls) -> bool) {
        wait_for(what, Duration::from_secs(40), || {
            is_true(&lock(&self.state.told))
        });
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(JoinHandle::join);
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            run: 1,
            epoch: 1,
            renewals_epoch: None,
            ttl: Duration::from_secs(30),
            needs_inventory: false,
            leases: Vec::new(),
            directive: proto::Directive::Continue,
            job_done: false,
            settled: 0,
            session: 7,
            acquires: Acquires::Answered,
            unsettled_reports: 0,
            failing_reports: 0,
            refuses_reports: false,
            pace: Pace::Unknown,
            lies: Lies::default(),
        }
    }
}

/// A lease of a class with a fencing token.
pub(crate) fn lease(wnid: &str, token: u64) -> proto::Lease {
    proto::Lease {
        wnid: wnid.to_owned(),
        token,
        ..proto::Lease::default()
    }
}

fn job(origin: &Origin) -> proto::JobOptions {
    proto::JobOptions {
        run_id: String::new(),
        url_template: format!("{}/{{wnid}}.tar", origin.url()),
        delete_tar: true,
        retries: 5,
        timeout_ms: 30_000,
        existing: proto::Existing::Adopt.into(),
        durability: proto::Durability::Process.into(),
        ca_pem: Vec::new(),
        headers: Vec::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The gRPC service of the scripted coordinator.
struct ScriptedService(Arc<State>);

impl ScriptedService {
    fn has_news(&self) -> bool {
        let answers = lock(&self.0.answers);
        !answers.leases.is_empty() || answers.job_done || answers.lies.acquire.is_some()
    }

    fn status() -> proto::JobStatus {
        proto::JobStatus {
            total: 1,
            ..proto::JobStatus::default()
        }
    }

    fn counts(&self) -> proto::JobStatus {
        let success = lock(&self.0.answers).settled;
        proto::JobStatus {
            success,
            done: success == 1,
            ..Self::status()
        }
    }
}

#[tonic::async_trait]
impl Coordinator for ScriptedService {
    type WatchStream = std::pin::Pin<
        Box<
            dyn tonic::codegen::tokio_stream::Stream<Item = Result<proto::JobStatus, Status>>
                + Send,
        >,
    >;
    type PaceStream = std::pin::Pin<
        Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<proto::Budget, Status>> + Send>,
    >;

    async fn register(
        &self,
        request: Request<proto::RegisterRequest>,
    ) -> Result<Response<proto::RegisterReply>, Status> {
        lock(&self.0.told).registrations.push(request.into_inner());
        let answers = lock(&self.0.answers).clone();
        let ttl = u64::try_from(answers.ttl.as_millis()).expect("the time fits into 64 bits");
        if let Some(words) = answers.lies.refusal {
            return Err(Status::invalid_argument(words));
        }
        let reply = proto::RegisterReply {
            session_id: answers.session,
            epoch: answers.epoch,
            ttl_ms: ttl,
            renew_ms: ttl / 3,
            job: Some(proto::JobOptions {
                run_id: format!("{:032x}", answers.run),
                ..self.0.job.clone()
            }),
            needs_inventory: answers.needs_inventory,
            status: Some(self.counts()),
            ..proto::RegisterReply::default()
        };
        Ok(Response::new(Lies::told(
            answers.lies.register.as_ref(),
            reply,
        )))
    }

    async fn renew(
        &self,
        _: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::RenewReply>, Status> {
        lock(&self.0.told).renewals += 1;
        let answers = lock(&self.0.answers).clone();
        let reply = proto::RenewReply {
            epoch: answers.renewals_epoch.unwrap_or(answers.epoch),
            directive: answers.directive.into(),
            ..proto::RenewReply::default()
        };
        Ok(Response::new(Lies::told(
            answers.lies.renew.as_ref(),
            reply,
        )))
    }

    async fn acquire(
        &self,
        request: Request<proto::AcquireRequest>,
    ) -> Result<Response<proto::AcquireReply>, Status> {
        lock(&self.0.told).acquires += 1;
        while lock(&self.0.answers).acquires == Acquires::Held {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A long poll of at most 0.5 s.
        for _ in 0..50 {
            if self.has_news() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut answers = lock(&self.0.answers);
        let leases = answers.leases.pop().into_iter().collect();
        let is_current = request.get_ref().session_id == answers.session;
        let directive = if is_current {
            proto::Directive::Continue
        } else {
            proto::Directive::Reregister
        };
        let reply = proto::AcquireReply {
            leases,
            directive: directive.into(),
            status: Some(proto::JobStatus {
                done: answers.job_done,
                ..Self::status()
            }),
            ..proto::AcquireReply::default()
        };
        Ok(Response::new(Lies::told(
            answers.lies.acquire.as_ref(),
            reply,
        )))
    }

    async fn report(
        &self,
        request: Request<proto::ReportRequest>,
    ) -> Result<Response<proto::ReportReply>, Status> {
        let request = request.into_inner();
        let status = self.counts();
        let mut recorded = lock(&self.0.told);
        let mut answers = lock(&self.0.answers);
        if answers.refuses_reports {
            return Err(Status::invalid_argument("these are no results"));
        }
        if answers.failing_reports > 0 {
            answers.failing_reports -= 1;
            return Err(Status::unavailable("not now"));
        }
        let settles = answers.unsettled_reports == 0;
        answers.unsettled_reports = answers.unsettled_reports.saturating_sub(1);
        let acked = request
            .results
            .iter()
            .filter(|_| settles)
            .map(|result| result.wnid.clone())
            .collect();
        let acquires = recorded.acquires;
        recorded.reports.push((acquires, request));
        let directive = proto::Directive::Continue.into();
        let reply = proto::ReportReply {
            acked,
            directive,
            status: Some(status),
            ..proto::ReportReply::default()
        };
        Ok(Response::new(Lies::told(
            answers.lies.report.as_ref(),
            reply,
        )))
    }

    async fn leave(
        &self,
        request: Request<proto::LeaveRequest>,
    ) -> Result<Response<proto::LeaveReply>, Status> {
        lock(&self.0.told).farewells.push(request.into_inner());
        Ok(Response::new(proto::LeaveReply {}))
    }

    async fn watch(
        &self,
        _: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(
            "this coordinator has no watch stream",
        ))
    }

    async fn pace(
        &self,
        observations: Request<tonic::Streaming<proto::Observation>>,
    ) -> Result<Response<Self::PaceStream>, Status> {
        match lock(&self.0.answers).pace {
            Pace::Unknown => {
                return Err(Status::unimplemented(
                    "this coordinator has no budget stream",
                ));
            }
            Pace::Broken => return Err(Status::unavailable("not now")),
            Pace::Silent | Pace::Budget(_) => {}
        }
        let stream = Budgets {
            state: Arc::clone(&self.0),
            observations: observations.into_inner(),
            sent: None,
        };
        Ok(Response::new(Box::pin(stream::try_unfold(
            stream,
            Budgets::next,
        ))))
    }
}

/// One budget stream.
struct Budgets {
    state: Arc<State>,
    observations: tonic::Streaming<proto::Observation>,
    /// The last budget sent.
    sent: Option<proto::Budget>,
}

impl Budgets {
    async fn next(mut self) -> Result<Option<(proto::Budget, Self)>, Status> {
        loop {
            tokio::select! {
                observed = self.observations.message() => match observed? {
                    Some(observation) => lock(&self.state.told).observations.push(observation),
                    None => return Ok(None),
                },
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            let pace = lock(&self.state.answers).pace;
            match pace {
                Pace::Unknown | Pace::Broken => return Ok(None),
                Pace::Budget(budget) if self.sent != Some(budget) => {
                    self.sent = Some(budget);
                    return Ok(Some((budget, self)));
                }
                Pace::Budget(_) | Pace::Silent => {}
            }
        }
    }
}

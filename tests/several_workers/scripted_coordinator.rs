//! A coordinator with scripted answers that records the calls it receives. It produces situations
//! that the real coordinator produces too rarely for a test.

mod service;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use proto::{admin_server::AdminServer, coordinator_server::CoordinatorServer};
use service::ScriptedService;
use tests::{archives::images, cluster::Job, origin::Origin, running::Running, wait::wait_for};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;

use crate::answer_changes::{AdminWithControlCharacters, AnswerChanges};

/// The class of the origin in [`fixture`].
pub(crate) const WNID: &str = "n00000001";

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
    pub(crate) budget_stream: BudgetStream,
    pub(crate) changes: AnswerChanges,
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
pub(crate) enum BudgetStream {
    /// Rejects the call as unimplemented, as a coordinator without the budget stream does.
    Unknown,
    /// Rejects new streams as unavailable, and ends open ones with a refusal, which says nothing
    /// about the next stream.
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
    pub(crate) leave_requests: Vec<proto::LeaveRequest>,
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
    calls: Mutex<RecordedCalls>,
    job: proto::JobOptions,
}

/// A running scripted coordinator; stopped when dropped.
#[derive(Debug)]
pub(crate) struct ScriptedCoordinator {
    state: Arc<State>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedCoordinator {
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
            calls: Mutex::default(),
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
                .add_service(AdminServer::new(AdminWithControlCharacters));
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

    pub(crate) fn calls(&self) -> RecordedCalls {
        lock(&self.state.calls).clone()
    }

    /// Waits until the recorded calls satisfy the condition.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, mut is_true: impl FnMut(&RecordedCalls) -> bool) {
        wait_for(what, Duration::from_secs(40), || {
            is_true(&lock(&self.state.calls))
        });
    }
}

impl Drop for ScriptedCoordinator {
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
            budget_stream: BudgetStream::Unknown,
            changes: AnswerChanges::default(),
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

/// An origin with one class, its tar, a job, and a scripted coordinator.
pub(crate) fn fixture() -> (Origin, Vec<u8>, Job, ScriptedCoordinator) {
    let origin = Origin::start();
    let tar = images(WNID, 20, 10_000..20_000, 1);
    origin.class(WNID, tar.clone());
    let coordinator = ScriptedCoordinator::start(&origin);
    (origin, tar, Job::new(), coordinator)
}

/// Starts the worker `w` with two slots.
pub(crate) fn start_worker(job: &Job, coordinator: &ScriptedCoordinator, target: &Path) -> Running {
    job.start_worker_at(&coordinator.url(), "w", 2, target)
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

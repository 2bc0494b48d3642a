//! The tonic service for workers, over the dispatcher. Besides it only the other modules of `rpc`
//! and `shared` use the generated types.
//!
//! Messages are parsed here and in `conversions`, once. No call outlives a shutdown: long polls and
//! streams end when the abort begins, and from the drain on every answer contains the stop
//! directive.

use std::{
    io, mem,
    pin::{Pin, pin},
    time::Duration,
};

use crate::{
    auth::{AuthLayer, Caller, MAX_STREAMS, authenticated},
    dispatcher::{DispatchError, DispatcherHandle, Renewal, Reported, Reporter},
    fleet::Phase,
    lease_table::{Granted, WorkerInfo},
    rpc::conversions::{at_most, held, leases, milliseconds, reported, sentence, shown},
};
use axum::middleware::from_fn_with_state;
use futures_util::{Stream, StreamExt as _};
use proto::{
    admin_server::AdminServer,
    coordinator_server::{Coordinator, CoordinatorServer},
};
use shared::{
    Wnid,
    ids::SessionId,
    job::JobOptions,
    protocol::{LONG_POLL, MAX_BATCH, MAX_SLOTS, RENEWALS_PER_TTL, VERSION},
    shutdown::Shutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{
    Request, Response, Status, Streaming,
    service::Routes,
    transport::{Server, server::Connected},
};

mod budgets;
mod calls;
mod class_traces;
mod counts;
mod health;
mod message_limits;
mod request_memory;

use budgets::{BudgetStream, MAX_RECEIVED};
pub(crate) use class_traces::ClassTraces;
use message_limits::limited;
use request_memory::RequestMemory;

/// The list of a request's header fields, decoded; hyper's own default.
const MAX_HEADERS: u32 = 16 << 10;
/// Streams that a client has reset before the server accepted them. A connection with more is
/// closed. h2's default.
const MAX_RESETS: usize = 20;
/// Streams of one connection that were refused or ended by an error of the client. A connection
/// with more is closed. hyper's default.
const MAX_ERRORS: usize = 1024;
/// Nonces are kept; a worker's has 16 bytes.
const MAX_NONCE: usize = 64;

/// The server cannot continue.
#[derive(Debug, thiserror::Error)]
#[error("serve workers: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// The lease parameters that workers receive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseTerms {
    /// The epoch of this start of the coordinator.
    pub epoch: u32,
    /// A lease that is not renewed for this long goes to another worker.
    pub ttl: Duration,
}

/// The implementation of both services: `Coordinator` for workers, and `Admin` for status commands
/// and tools.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorService {
    /// The owner of the job's state.
    pub(crate) dispatcher: DispatcherHandle,
    /// The options that workers receive.
    pub(crate) job: JobOptions,
    pub(crate) terms: LeaseTerms,
    pub(crate) traces: ClassTraces,
    /// Whether the coordinator is stopping. The dispatcher does not know this.
    pub(crate) shutdown: Shutdown,
}

/// Serves the connections that the auth layer accepts, over any stream of connections, until
/// `shutdown.abort` of the service. From `shutdown.drain` on workers receive the stop directive.
///
/// # Errors
/// If the stream of connections fails.
pub(crate) async fn serve<IO>(
    service: CoordinatorService,
    auth_layer: AuthLayer,
    incoming: impl Stream<Item = io::Result<IO>>,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let abort = service.shutdown.abort.clone();
    let (reporter, health) = health::health().await;
    let following = reporter.follow(service.dispatcher.watch_phase(), service.shutdown.clone());
    let calls = service.dispatcher.counters().calls.clone();
    let routes = Routes::new(health)
        .add_service(AdminServer::new(service.clone()))
        .add_service(CoordinatorServer::new(service))
        .into_axum_router()
        // A call passes through the last one first.
        .layer(from_fn_with_state(RequestMemory::default(), limited))
        .layer(from_fn_with_state(auth_layer, authenticated))
        .layer(from_fn_with_state(calls, calls::counted));
    // The connection of a host that vanished without closing it must end.
    let served = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // tonic sets no limits of its own and removes those of hyper.
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_ERRORS))
        .http2_max_header_list_size(MAX_HEADERS)
        .trace_fn(calls::traced)
        .add_routes(routes.into())
        .serve_with_incoming_shutdown(incoming, abort.cancelled_owned());
    let mut served = pin!(served);
    tokio::select! {
        served = &mut served => return Ok(served?),
        () = following => {}
    }
    Ok(served.await?)
}

impl CoordinatorService {
    /// The directive for a worker that may be drained.
    fn directive(&self, drain: bool) -> proto::Directive {
        if self.shutdown.drain.is_cancelled() || self.shutdown.abort.is_cancelled() {
            proto::Directive::Stop
        } else if drain {
            proto::Directive::Drain
        } else {
            proto::Directive::Continue
        }
    }

    fn status(&self) -> proto::JobStatus {
        self.dispatcher.status().into()
    }

    /// The reason that accompanies [`proto::Directive::Stop`].
    fn stop_reason(&self, directive: proto::Directive) -> String {
        let reason = self.dispatcher.stop_reason();
        let reason = reason.filter(|_| directive == proto::Directive::Stop);
        reason.map(sentence).unwrap_or_default()
    }

    fn acquired(
        &self,
        granted: Granted,
        directive: proto::Directive,
    ) -> Response<proto::AcquireReply> {
        let Granted { leases, probe, .. } = granted;
        let grants = &self.dispatcher.counters().grants;
        grants.inc_by(leases.len() as u64);
        let leases = leases.into_iter().map(|lease| proto::Lease {
            wnid: lease.wnid.to_string(),
            token: lease.token.0,
            probe,
            traceparent: self.traces.granted(lease.wnid, lease.token).to_string(),
        });
        Response::new(proto::AcquireReply {
            leases: leases.collect(),
            directive: directive.into(),
            status: Some(self.status()),
            stop_reason: self.stop_reason(directive),
        })
    }

    /// Waits until a worker whose request had no result may be granted a class, or for the end of
    /// the job.
    async fn wait_for_wake_up(&self, wake_ups: &mut watch::Receiver<u64>, until: Instant) -> bool {
        // Does not watch the counts: every completed class of any worker would wake all waiting
        // calls.
        let mut phase = self.dispatcher.watch_phase();
        tokio::select! {
            changed = timeout_at(until, wake_ups.changed()) => matches!(changed, Ok(Ok(()))),
            done = phase.wait_for(|phase| *phase == Phase::Done) => done.is_ok(),
            () = self.shutdown.drain.cancelled() => false,
            () = self.shutdown.abort.cancelled() => false,
        }
    }
}

/// The answer to a call.
pub(super) type Reply<T> = Result<Response<T>, Status>;
/// The answers of a stream.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for CoordinatorService {
    type WatchStream = Answers<proto::JobStatus>;
    type PaceStream = Answers<proto::Budget>;

    async fn register(
        &self,
        request: Request<proto::RegisterRequest>,
    ) -> Reply<proto::RegisterReply> {
        let caller = caller(&request);
        let request = request.into_inner();
        if request.protocol_version != VERSION {
            return Err(Status::failed_precondition(format!(
                "the worker speaks protocol version {}, the coordinator version {VERSION}: use the same release",
                request.protocol_version
            )));
        }
        if !(1..=MAX_NONCE).contains(&request.instance_nonce.len()) {
            return Err(Status::invalid_argument(format!(
                "instance_nonce must have 1 to {MAX_NONCE} bytes"
            )));
        }
        let name = shown(&request.worker_name);
        caller.may_be_named(&name)?;
        let held = held(request.held)?;
        let worker_info = WorkerInfo {
            worker: name,
            instance: request.instance_nonce,
            slots: request.slots.clamp(1, MAX_SLOTS),
            storage: shown(&request.storage_id),
            build: shown(&request.build),
            host: shown(&request.host),
            draining: request.draining,
            session: rand::random(),
            credential: caller.credential(),
            valid: caller.valid(),
        };
        let registered = self.dispatcher.register(worker_info, held).await?;
        Ok(Response::new(proto::RegisterReply {
            session_id: registered.session.0,
            epoch: self.terms.epoch,
            ttl_ms: milliseconds(self.terms.ttl),
            renew_ms: milliseconds(self.terms.ttl / RENEWALS_PER_TTL),
            job: Some(self.job.clone().into()),
            drop_leases: leases(&registered.drop),
            needs_inventory: registered.needs_inventory,
            status: Some(self.status()),
        }))
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Reply<proto::RenewReply> {
        let credential = caller(&request).credential();
        let request = request.into_inner();
        let renewal = Renewal {
            session: SessionId(request.session_id),
            credential,
            held: held(request.held)?,
            received: request.received_bytes,
        };
        let (drop, directive) = match self.dispatcher.renew(renewal).await {
            Err(DispatchError::UnknownSession(_)) => (Vec::new(), proto::Directive::Reregister),
            renewed => {
                let renewed = renewed?;
                (renewed.drop, self.directive(renewed.drain))
            }
        };
        Ok(Response::new(proto::RenewReply {
            epoch: self.terms.epoch,
            drop_leases: leases(&drop),
            directive: directive.into(),
            job_done: self.dispatcher.status().is_done(),
        }))
    }

    async fn acquire(&self, request: Request<proto::AcquireRequest>) -> Reply<proto::AcquireReply> {
        let until = Instant::now() + LONG_POLL;
        let request = request.into_inner();
        let session = SessionId(request.session_id);
        let max = usize::try_from(request.max).map_or(MAX_BATCH, |max| max.min(MAX_BATCH));
        // The leases named in the call become outdated while it waits, so they are processed once.
        let mut named = held(request.held)?;
        let mut wake_ups = self.dispatcher.watch_wake_ups();
        let granted = loop {
            if self.directive(false) == proto::Directive::Stop {
                break Granted::default();
            }
            // Changes from here on are seen below.
            wake_ups.mark_unchanged();
            let acquired = self.dispatcher.acquire(session, max, mem::take(&mut named));
            let granted = match acquired.await {
                Err(DispatchError::UnknownSession(_)) => {
                    return Ok(self.acquired(Granted::default(), proto::Directive::Reregister));
                }
                granted => granted?,
            };
            let is_answer =
                !granted.leases.is_empty() || granted.drain || self.dispatcher.status().is_done();
            if is_answer || !self.wait_for_wake_up(&mut wake_ups, until).await {
                break granted;
            }
        };
        let directive = self.directive(granted.drain);
        Ok(self.acquired(granted, directive))
    }

    async fn report(&self, request: Request<proto::ReportRequest>) -> Reply<proto::ReportReply> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = Some(shown(&request.worker_name)).filter(|name| !name.is_empty());
        let reporter = Reporter {
            session: SessionId(request.session_id),
            name: name.filter(|name| caller.may_be_named(name).is_ok()),
            requests: request.requests,
            received: request.received_bytes.min(MAX_RECEIVED),
        };
        let results = at_most(request.results)?.into_iter().map(reported);
        let results = results.collect::<Result<Vec<_>, _>>()?;
        let (results, _settling): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        for Reported { lease, outcome, .. } in &results {
            self.traces.reported(lease.wnid, outcome);
        }
        for reported in results.iter().filter(|reported| !reported.needs_lease) {
            self.dispatcher.counters().reported(&reported.outcome);
        }
        let receipt = self.dispatcher.report(reporter, results).await?;
        let directive = if receipt.is_known {
            self.directive(false)
        } else {
            proto::Directive::Reregister
        };
        Ok(Response::new(proto::ReportReply {
            acked: receipt.acked.iter().map(Wnid::to_string).collect(),
            directive: directive.into(),
            status: Some(self.status()),
            stop_reason: self.stop_reason(directive),
        }))
    }

    async fn leave(&self, request: Request<proto::LeaveRequest>) -> Reply<proto::LeaveReply> {
        let request = request.into_inner();
        let reason = Some(sentence(&request.reason)).filter(|reason| !reason.is_empty());
        let session = SessionId(request.session_id);
        self.dispatcher.leave(session, reason).await?;
        Ok(Response::new(proto::LeaveReply {}))
    }

    async fn watch(&self, _: Request<proto::WatchRequest>) -> Reply<Self::WatchStream> {
        let changes = counts::changes(self.dispatcher.watch());
        let until = self.shutdown.abort.clone().cancelled_owned();
        Ok(Response::new(Box::pin(
            changes.map(|status| Ok(status.into())).take_until(until),
        )))
    }

    async fn pace(
        &self,
        observations: Request<Streaming<proto::Observation>>,
    ) -> Reply<Self::PaceStream> {
        let opened = BudgetStream::open(self.dispatcher.clone(), observations.into_inner());
        let opened = self.shutdown.abort.run_until_cancelled(opened).await;
        let stream = opened.unwrap_or_else(|| Err(DispatchError::Stopped.into()))?;
        let until = self.shutdown.abort.clone().cancelled_owned();
        Ok(Response::new(Box::pin(stream.budgets().take_until(until))))
    }
}

/// The caller, as the auth layer has authenticated it.
fn caller<T>(request: &Request<T>) -> Caller {
    let caller = request.extensions().get::<Caller>();
    caller.cloned().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;

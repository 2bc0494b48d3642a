//! The worker's gRPC client: the only module of the worker that uses the generated types.
//!
//! Every call has an outer deadline, because tonic's own does not cover connecting (grpc-rust issue
//! 1635). Every call is idempotent and may be repeated.

use std::{sync::Arc, time::Duration};

use proto::coordinator_client::CoordinatorClient as Stub;
use shared::{
    connect::{self, Connector, CoordinatorChannel},
    ids::{LeaseToken, SessionId},
    job::JobOptions,
    protocol::{self, LONG_POLL_TIMEOUT, method},
    telemetry::trace::{Calling, WithContext},
};
use tokio::time::timeout;
use tonic::{Code, Status, service::interceptor::InterceptedService};
use tracing::Instrument as _;

use crate::{
    lease_clock::LeaseClock,
    session::outbox::UnreportedResult,
    slots::{Held, Lease},
};

mod answers;
mod budgets;

pub(crate) use answers::{Answer, Directive, JobNews, Registration, Renewed, Session};
pub(crate) use budgets::NoBudget;

use answers::{directive, session};

const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Bytes of one answer: what is longer is refused before it is read. The longest honest one has
/// certificates for the origin (512 KiB), and names some thousand leases.
const LONGEST_ANSWER: usize = 1 << 20;

/// The generated client on its connection.
type InterceptedStub = Stub<InterceptedService<CoordinatorChannel, WithContext>>;

/// The identity of this worker.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Random; new for each process.
    pub(crate) nonce: [u8; 16],
    pub(crate) slots: usize,
}

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The coordinator refused the call for good.
    #[error("{0}")]
    Refused(String),
    /// Authentication failed on one of the two sides; other files may help.
    #[error("{0}")]
    Denied(String),
    /// There was no answer; a later call may have one.
    #[error("{0}")]
    Unreachable(String),
}

/// A connection to the coordinator; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorClient {
    stub: InterceptedStub,
    clock: Arc<LeaseClock>,
    /// The coordinator's address, for messages.
    end: Arc<str>,
    /// The coordinator's host and port, for traces.
    server: Arc<str>,
}

impl CoordinatorClient {
    /// Connects at the first call, and again whenever the connection is lost.
    pub(crate) fn new(connector: &Connector, clock: Arc<LeaseClock>) -> Self {
        let stub = Stub::with_interceptor(connector.channel(), WithContext)
            .max_decoding_message_size(LONGEST_ANSWER);
        Self {
            stub,
            clock,
            end: connector.end().into(),
            server: connector.server().into(),
        }
    }

    /// The coordinator's address, for messages.
    pub(crate) fn end(&self) -> &str {
        &self.end
    }

    /// `storage_id`: see [`crate::storage::storage_id`].
    pub(crate) async fn register(
        &mut self,
        identity: &Identity,
        storage_id: String,
        held: &[Held],
        draining: bool,
    ) -> Result<Answer, CallError> {
        let request = proto::RegisterRequest {
            protocol_version: protocol::VERSION,
            worker_name: identity.name.clone(),
            instance_nonce: identity.nonce.to_vec(),
            slots: u32::try_from(identity.slots).unwrap_or(u32::MAX),
            build: crate::version::VERSION.to_owned(),
            held: wire_held(held),
            storage_id,
            draining,
            host: shared::worker_name::node_name(),
        };
        let sent = self.clock.now();
        let reply = self
            .call(CALL_TIMEOUT, method::REGISTER, request, Stub::register)
            .await?;
        let session = session(&reply)?;
        let job = reply
            .job
            .ok_or_else(|| CallError::Refused("the coordinator sent no job".to_owned()))?;
        Ok(Answer::Registered(Box::new(Registration {
            session,
            epoch: reply.epoch,
            job: JobOptions::try_from(job)
                .map_err(|error| CallError::Refused(error.to_string()))?,
            drop: tokens(&reply.drop_leases),
            job_done: reply.status.is_some_and(|status| status.done),
            needs_inventory: reply.needs_inventory,
            sent,
        })))
    }

    /// Sends a heartbeat and waits for its answer at most for `limit`.
    pub(crate) async fn renew(
        &mut self,
        session: SessionId,
        held: &[Held],
        received_bytes: u64,
        limit: Duration,
    ) -> Result<Renewed, CallError> {
        let request = proto::RenewRequest {
            session_id: session.0,
            held: wire_held(held),
            received_bytes,
        };
        let sent = self.clock.now();
        let reply = self
            .call(limit, method::RENEW, request, Stub::renew)
            .await?;
        Ok(Renewed {
            epoch: reply.epoch,
            drop: tokens(&reply.drop_leases),
            directive: directive(reply.directive(), reply.job_done),
            sent,
        })
    }

    /// Waits for leases of at most `max` classes.
    pub(crate) async fn acquire(
        &mut self,
        session: SessionId,
        max: usize,
        held: &[Held],
    ) -> Result<Answer, CallError> {
        let request = proto::AcquireRequest {
            session_id: session.0,
            max: u32::try_from(max).unwrap_or(u32::MAX),
            held: wire_held(held),
        };
        let reply = self
            .call(LONG_POLL_TIMEOUT, method::ACQUIRE, request, Stub::acquire)
            .await?;
        let leases = reply.leases.iter().filter_map(|lease| {
            let Ok(trace) = lease.traceparent.parse();
            Some(Lease {
                wnid: lease.wnid.parse().ok()?,
                token: LeaseToken(lease.token),
                probe: lease.probe,
                trace,
            })
        });
        let leases = leases.collect();
        let news = JobNews::new(reply.directive(), reply.status, &reply.stop_reason);
        Ok(Answer::Acquired(session, leases, news))
    }

    pub(crate) async fn report(
        &mut self,
        identity: &Identity,
        session: SessionId,
        results: &[UnreportedResult],
        requests: u64,
        received_bytes: u64,
    ) -> Result<Answer, CallError> {
        let results = results.iter().map(|finished| proto::Result {
            wnid: finished.lease.wnid.to_string(),
            token: finished.lease.token.0,
            outcome: Some(finished.outcome.clone().into()),
            traceparent: finished.lease.trace.to_string(),
            needs_lease: finished.needs_lease,
        });
        let request = proto::ReportRequest {
            session_id: session.0,
            results: results.collect(),
            worker_name: identity.name.clone(),
            requests,
            received_bytes,
        };
        let reply = self
            .call(CALL_TIMEOUT, method::REPORT, request, Stub::report)
            .await?;
        // Texts that are not ids were never reported.
        let acked = reply.acked.iter().filter_map(|text| text.parse().ok());
        let acked = acked.collect();
        let news = JobNews::new(reply.directive(), reply.status, &reply.stop_reason);
        Ok(Answer::Reported(session, acked, news))
    }

    pub(crate) async fn leave(
        &mut self,
        session: SessionId,
        reason: &str,
    ) -> Result<(), CallError> {
        let request = proto::LeaveRequest {
            session_id: session.0,
            reason: reason.to_owned(),
        };
        self.call(CALL_TIMEOUT, method::LEAVE, request, Stub::leave)
            .await?;
        Ok(())
    }

    /// Makes a call and waits for its answer at most for `limit`.
    async fn call<Q: Clone, T>(
        &self,
        limit: Duration,
        method: &'static str,
        request: Q,
        call: impl AsyncFn(&mut InterceptedStub, Q) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, CallError> {
        let mut stub = self.stub.clone();
        let made = async {
            match call(&mut stub, request.clone()).await {
                // The stream of the budgets keeps a connection open that accepts no further calls.
                Err(status) if connect::was_not_sent(&status) => call(&mut stub, request).await,
                answered => answered,
            }
        };
        let calling = Calling::new(method, &self.server);
        let answer = timeout(limit, made.instrument(calling.span())).await;
        calling.answered(match &answer {
            Err(_) => Code::DeadlineExceeded,
            Ok(answer) => answer.as_ref().map_or_else(Status::code, |_| Code::Ok),
        });
        match answer {
            Err(_) => Err(CallError::Unreachable(format!(
                "no answer for {}s",
                limit.as_secs_f64()
            ))),
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => {
                let why = connect::reason(&status);
                Err(match status.code() {
                    Code::PermissionDenied | Code::Unauthenticated => CallError::Denied(why),
                    _ if connect::mismatched(&status) => CallError::Denied(why),
                    Code::FailedPrecondition
                    | Code::InvalidArgument
                    | Code::Unimplemented
                    | Code::AlreadyExists => CallError::Refused(why),
                    _ => CallError::Unreachable(why),
                })
            }
        }
    }
}

fn wire_held(held: &[Held]) -> Vec<proto::Held> {
    let wire = |held: &Held| proto::Held {
        bytes: held.position(),
        length: held.length(),
        is_local: held.is_local(),
        wnid: held.lease.wnid.to_string(),
        token: held.lease.token.0,
    };
    held.iter().map(wire).collect()
}

fn tokens(leases: &[proto::Held]) -> Vec<LeaseToken> {
    leases.iter().map(|lease| LeaseToken(lease.token)).collect()
}

//! The worker's gRPC client: the only module of the worker that uses the generated types.
//!
//! Every call has an outer deadline, because tonic's own does not cover connecting (grpc-rust issue
//! 1635). Every call is idempotent and may be repeated.

use std::{sync::Arc, time::Duration};

use proto::coordinator_client::CoordinatorClient as Stub;
use shared::{
    Wnid,
    connect::{self, Connector, CoordinatorChannel},
    ids::{LeaseToken, SessionId},
    job::{JobOptions, JobStatus},
    outcome::{LONGEST_MESSAGE, printable_within},
    protocol::{self, LONG_POLL_TIMEOUT, MAX_LEASE_TTL, MIN_LEASE_TTL, RENEWALS_PER_TTL, method},
    telemetry::trace::{self, WithContext},
};
use tokio::time::timeout;
use tonic::{Code, Status, service::interceptor::InterceptedService};
use tracing::Instrument as _;

use crate::{
    lease_clock::LeaseClock,
    session::outbox::UnreportedResult,
    slots::{Held, Lease},
};

mod budgets;

pub(crate) use budgets::{Budgets, NoBudget, Observations};

const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Bytes of one answer: what is longer is refused before it is read. The longest honest one has
/// certificates for the origin (512 KiB), and names some thousand leases.
const LONGEST_ANSWER: usize = 1 << 20;
/// Leases with a shorter lifetime cannot be renewed reliably.
const SHORTEST_LEASE: Duration = Duration::from_millis(500);
/// Shortest time between two renewals, whatever the coordinator asks for.
const SHORTEST_RENEWAL: Duration = Duration::from_millis(100);

const _: () = {
    assert!(
        SHORTEST_LEASE.as_millis() <= MIN_LEASE_TTL.as_millis(),
        "a worker accepts each time to live"
    );
    let shortest = SHORTEST_RENEWAL.as_millis() * RENEWALS_PER_TTL as u128;
    assert!(
        shortest <= SHORTEST_LEASE.as_millis(),
        "a worker renews as often as it is told to"
    );
};

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

/// What the worker has to do, according to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directive {
    Continue,
    /// The session is not valid any more: register again.
    Reregister,
    /// The coordinator is stopping: request no leases.
    Stop,
    /// The worker is drained: finish the held classes and leave.
    Drain,
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

/// Answer to `Register`.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) session: SessionId,
    pub(crate) epoch: u32,
    pub(crate) ttl: Duration,
    pub(crate) renew: Duration,
    pub(crate) job: JobOptions,
    /// Leases that the request named and that must be given up.
    pub(crate) drop: Vec<LeaseToken>,
    /// Every class of the job is settled.
    pub(crate) job_done: bool,
    /// The worker has to report what the target already has before it requests leases.
    pub(crate) needs_inventory: bool,
    /// When the request was sent.
    pub(crate) sent: Duration,
}

/// Answer to `Acquire`.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) leases: Vec<Lease>,
    pub(crate) directive: Directive,
    pub(crate) job_done: bool,
    pub(crate) status: JobStatus,
    /// With [`Directive::Stop`]: why the job cannot continue; empty if the coordinator gave no
    /// reason.
    pub(crate) stop_reason: String,
}

/// Answer to `Report`.
#[derive(Debug)]
pub(crate) struct Reported {
    pub(crate) acked: Vec<Wnid>,
    pub(crate) directive: Directive,
    pub(crate) job_done: bool,
    pub(crate) status: JobStatus,
    /// As in [`Acquired`].
    pub(crate) stop_reason: String,
}

/// Answer to `Renew`.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub(crate) epoch: u32,
    /// Leases that the request named and that must be given up.
    pub(crate) drop: Vec<LeaseToken>,
    pub(crate) directive: Directive,
    pub(crate) job_done: bool,
    /// When the request was sent.
    pub(crate) sent: Duration,
}

/// A connection to the coordinator; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorClient {
    stub: InterceptedStub,
    clock: Arc<LeaseClock>,
    /// The coordinator's address, for messages.
    end: Arc<str>,
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
    ) -> Result<Registration, CallError> {
        let request = proto::RegisterRequest {
            protocol_version: protocol::VERSION,
            worker_name: identity.name.clone(),
            instance_nonce: identity.nonce.to_vec(),
            slots: u32::try_from(identity.slots).unwrap_or(u32::MAX),
            build: crate::version::VERSION.to_owned(),
            held: wire_held(held),
            storage_id,
            draining,
        };
        let sent = self.clock.now();
        let reply = self
            .call(
                CALL_TIMEOUT,
                method::REGISTER,
                request,
                async |mut stub, request| stub.register(request).await,
            )
            .await?;
        let job = reply
            .job
            .ok_or_else(|| CallError::Refused("the coordinator sent no job".to_owned()))?;
        let (ttl, renew) = terms(reply.ttl_ms, reply.renew_ms)?;
        Ok(Registration {
            session: SessionId(reply.session_id),
            epoch: reply.epoch,
            ttl,
            renew,
            job: JobOptions::try_from(job)
                .map_err(|error| CallError::Refused(error.to_string()))?,
            drop: tokens(&reply.drop_leases),
            job_done: is_done(reply.status.as_ref()),
            needs_inventory: reply.survey,
            sent,
        })
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
            .call(limit, method::RENEW, request, async |mut stub, request| {
                stub.renew(request).await
            })
            .await?;
        let directive = directive(reply.directive());
        let drop = tokens(&reply.drop_leases);
        Ok(Renewed {
            epoch: reply.epoch,
            drop,
            directive,
            job_done: reply.job_done,
            sent,
        })
    }

    pub(crate) async fn acquire(
        &mut self,
        session: SessionId,
        max: usize,
        held: &[Held],
    ) -> Result<Acquired, CallError> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let request = proto::AcquireRequest {
            session_id: session.0,
            max,
            held: wire_held(held),
        };
        let reply = self
            .call(
                LONG_POLL_TIMEOUT,
                method::ACQUIRE,
                request,
                async |mut stub, request| stub.acquire(request).await,
            )
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
        Ok(Acquired {
            leases: leases.collect(),
            directive: directive(reply.directive()),
            job_done: reply.job_done,
            status: reply.status.map(JobStatus::from).unwrap_or_default(),
            stop_reason: printable_within(&reply.stop_reason, LONGEST_MESSAGE),
        })
    }

    pub(crate) async fn report(
        &mut self,
        identity: &Identity,
        session: SessionId,
        results: &[UnreportedResult],
        requests: u64,
    ) -> Result<Reported, CallError> {
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
        };
        let reply = self
            .call(
                CALL_TIMEOUT,
                method::REPORT,
                request,
                async |mut stub, request| stub.report(request).await,
            )
            .await?;
        Ok(Reported {
            directive: directive(reply.directive()),
            acked: wnids(&reply.acked),
            job_done: is_done(reply.status.as_ref()),
            status: reply.status.map(JobStatus::from).unwrap_or_default(),
            stop_reason: printable_within(&reply.stop_reason, LONGEST_MESSAGE),
        })
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
        self.call(
            CALL_TIMEOUT,
            method::LEAVE,
            request,
            async |mut stub, request| stub.leave(request).await,
        )
        .await?;
        Ok(())
    }

    /// Makes a call and waits for its answer at most for `limit`.
    async fn call<Q: Clone, T>(
        &self,
        limit: Duration,
        method: &'static str,
        request: Q,
        call: impl AsyncFn(InterceptedStub, Q) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, CallError> {
        let made = async {
            match call(self.stub.clone(), request.clone()).await {
                // The stream of the budgets keeps a connection open that accepts no further calls.
                Err(status) if connect::was_not_sent(&status) => {
                    call(self.stub.clone(), request).await
                }
                answered => answered,
            }
        };
        match timeout(limit, made.instrument(trace::calling(method))).await {
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

/// The lifetime of leases and the interval between heartbeats. A value above the limit is lowered,
/// which is always safe.
fn terms(ttl_ms: u64, renew_ms: u64) -> Result<(Duration, Duration), CallError> {
    let ttl = Duration::from_millis(ttl_ms).min(MAX_LEASE_TTL);
    if ttl < SHORTEST_LEASE {
        let least = SHORTEST_LEASE.as_millis();
        return Err(CallError::Refused(format!(
            "its leases live for {ttl_ms} ms, and a worker needs at least {least} to renew them"
        )));
    }
    Ok((
        ttl,
        Duration::from_millis(renew_ms).clamp(SHORTEST_RENEWAL, ttl / 2),
    ))
}

fn directive(wire: proto::Directive) -> Directive {
    match wire {
        proto::Directive::Unspecified | proto::Directive::Continue => Directive::Continue,
        proto::Directive::Reregister => Directive::Reregister,
        proto::Directive::Stop => Directive::Stop,
        proto::Directive::Drain => Directive::Drain,
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

fn is_done(status: Option<&proto::JobStatus>) -> bool {
    status.is_some_and(|status| status.done)
}

fn tokens(leases: &[proto::Held]) -> Vec<LeaseToken> {
    leases.iter().map(|lease| LeaseToken(lease.token)).collect()
}

/// Ignores texts that are not ids: they were never reported.
fn wnids(texts: &[String]) -> Vec<Wnid> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terms_of_a_session_are_within_bounds_for_any_answer() {
        let milliseconds = Duration::from_millis;
        for (ttl, renew, expected) in [
            (30_000, 10_000, (milliseconds(30_000), milliseconds(10_000))),
            (30_000, 0, (milliseconds(30_000), SHORTEST_RENEWAL)),
            (30_000, 1, (milliseconds(30_000), SHORTEST_RENEWAL)),
            (
                30_000,
                u64::MAX,
                (milliseconds(30_000), milliseconds(15_000)),
            ),
            (500, 0, (milliseconds(500), SHORTEST_RENEWAL)),
            (u64::MAX, u64::MAX, (MAX_LEASE_TTL, MAX_LEASE_TTL / 2)),
        ] {
            assert_eq!(terms(ttl, renew).unwrap(), expected);
        }
        for ttl in [0, 1, 499] {
            let refused = terms(ttl, 0).unwrap_err().to_string();
            assert_eq!(
                refused,
                format!(
                    "its leases live for {ttl} ms, and a worker needs at least 500 to renew them"
                )
            );
        }
    }
}

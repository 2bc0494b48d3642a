//! What the coordinator answers, and how it is read from the wire.

use std::time::Duration;

use shared::{
    Wnid,
    ids::{LeaseToken, SessionId},
    job::{JobOptions, JobStatus},
    outcome::{LONGEST_MESSAGE, printable_within},
    protocol::{MAX_LEASE_TTL, MIN_LEASE_TTL, RENEWALS_PER_TTL},
};

use super::CallError;
use crate::slots::Lease;

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

/// A session and its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// Lifetime of its leases without a renewal.
    pub(crate) ttl: Duration,
    /// Interval between renewals.
    pub(crate) renew: Duration,
}

/// The coordinator's answer to a call.
#[derive(Debug)]
pub(crate) enum Answer {
    Registered(Box<Registration>),
    /// Granted leases, for this session, which may have ended by now.
    Acquired(SessionId, Vec<Lease>, JobNews),
    /// Classes whose results are acknowledged; the session as in `Acquired`.
    Reported(SessionId, Vec<Wnid>, JobNews),
    /// There was no answer; the call is repeated.
    Unanswered,
}

/// Answer to `Register`.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) session: Session,
    pub(crate) epoch: u32,
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

/// What an answer says about the job.
#[derive(Debug)]
pub(crate) struct JobNews {
    pub(crate) directive: Directive,
    pub(crate) status: JobStatus,
    /// With [`Directive::Stop`]: why the job cannot continue; empty if the coordinator gave no
    /// reason.
    pub(crate) stop_reason: String,
}

/// Answer to `Renew`.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub(crate) epoch: u32,
    /// Leases that the request named and that must be given up.
    pub(crate) drop: Vec<LeaseToken>,
    pub(crate) directive: Directive,
    /// When the request was sent.
    pub(crate) sent: Duration,
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
    /// Every class of the job is settled.
    JobDone,
}

/// The session of a registration. A term above the limit is lowered, which is always safe.
pub(super) fn session(reply: &proto::RegisterReply) -> Result<Session, CallError> {
    let ttl = Duration::from_millis(reply.ttl_ms).min(MAX_LEASE_TTL);
    if ttl < SHORTEST_LEASE {
        return Err(CallError::Refused(format!(
            "its leases live for {} ms, and a worker needs at least {} to renew them",
            reply.ttl_ms,
            SHORTEST_LEASE.as_millis()
        )));
    }
    Ok(Session {
        id: SessionId(reply.session_id),
        ttl,
        renew: Duration::from_millis(reply.renew_ms).clamp(SHORTEST_RENEWAL, ttl / 2),
    })
}

impl JobNews {
    pub(super) fn new(
        wire: proto::Directive,
        status: Option<proto::JobStatus>,
        stop_reason: &str,
    ) -> Self {
        let status = status.unwrap_or_default();
        Self {
            directive: directive(wire, status.done),
            status: status.into(),
            stop_reason: printable_within(stop_reason, LONGEST_MESSAGE),
        }
    }
}

pub(super) fn directive(wire: proto::Directive, job_done: bool) -> Directive {
    match wire {
        proto::Directive::Reregister => Directive::Reregister,
        _ if job_done => Directive::JobDone,
        proto::Directive::Unspecified | proto::Directive::Continue => Directive::Continue,
        proto::Directive::Stop => Directive::Stop,
        proto::Directive::Drain => Directive::Drain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terms_of_a_session_are_within_bounds_for_any_answer() {
        let milliseconds = Duration::from_millis;
        let terms = |ttl_ms, renew_ms| {
            let reply = proto::RegisterReply {
                ttl_ms,
                renew_ms,
                ..proto::RegisterReply::default()
            };
            session(&reply).map(|session| (session.ttl, session.renew))
        };
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

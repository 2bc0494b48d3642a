//! Probes a wait that only one session, the sole session, reports. A second session, which the
//! origin has not asked to wait, sends one request: the probe. If the origin serves it, the wait
//! applies to the reporting session only. If the probe is refused, fails or gets no response, the
//! wait stays in force for all, and the next session sends a probe after [`SOLE_PAUSE_LIMIT`].
//!
//! `Retry-After` addresses the client that was refused (RFC 9110 §10.2.3). Workers have addresses
//! of their own, so the origin may mean only one of them; and a single worker may be faulty or
//! malicious.

use std::time::Duration;

use shared::ids::SessionId;
use tokio::time::Instant;

use super::{
    ConcurrencyController, Observation,
    allocation::{Allocation, Allocations},
    notice::ConcurrencyNotice,
    waits::SOLE_PAUSE_LIMIT,
};

/// A request without a response within this time counts as not served.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The running probe and the result of the last one.
#[derive(Debug, Default)]
pub(super) struct WaitProbes {
    running: Option<WaitProbe>,
    /// The next prober is the session after this one, so that all sessions take turns.
    last_prober: Option<SessionId>,
    /// The session whose wait the last probe has confirmed, and the time of the next probe of it.
    confirmed: Option<(SessionId, Instant)>,
}

/// A probe in progress.
#[derive(Debug, Clone, Copy)]
struct WaitProbe {
    /// The session that reports the wait.
    reporter: SessionId,
    /// The session that may send a request.
    prober: SessionId,
    /// The prober's counters before the probe.
    before: Observation,
    began: Instant,
}

/// The result of the prober's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeResult {
    Pending,
    Served,
    /// The request was refused, failed, or got no response in time.
    NotServed,
    /// The prober has sent no request.
    NotSent,
}

impl WaitProbes {
    /// Starts a probe in the next session that wants a connection, if the other sessions have fewer
    /// open than the limit. It uses reported open connections, not allocations: the reporter's
    /// allocation may hold the last connection.
    fn start(&mut self, allocations: &Allocations, reporter: SessionId, limit: u32, now: Instant) {
        let others = || allocations.iter().filter(|(id, _)| **id != reporter);
        let open = others().fold(0, |open, (_, is)| is.last.open.saturating_add(open));
        let mut free = others().filter(|(_, is)| is.last.open < is.last.wanted);
        let follows = |id: SessionId| self.last_prober.is_none_or(|last| id.0 > last.0);
        let next = free
            .clone()
            .find(|(id, _)| follows(**id))
            .or_else(|| free.next());
        if let Some((prober, allocation)) = next.filter(|_| open < limit) {
            self.last_prober = Some(*prober);
            self.running = Some(WaitProbe {
                reporter,
                prober: *prober,
                before: allocation.last,
                began: now,
            });
        }
    }

    /// The running probe, if this session is the prober.
    fn of_prober(&self, id: SessionId) -> Option<WaitProbe> {
        self.running.filter(|probe| probe.prober == id)
    }

    fn is_confirmed(&self, reporter: SessionId, now: Instant) -> bool {
        self.confirmed
            .is_some_and(|(confirmed, until)| confirmed == reporter && now < until)
    }
}

impl WaitProbe {
    fn result(&self, seen: &Observation, now: Instant) -> ProbeResult {
        let has_sent = seen.requests > self.before.requests;
        if seen.cuts > self.before.cuts || seen.refusals > self.before.refusals {
            ProbeResult::NotServed
        } else if has_sent && seen.open <= seen.flowing {
            ProbeResult::Served
        } else if now - self.began < PROBE_TIMEOUT {
            ProbeResult::Pending
        } else if has_sent {
            ProbeResult::NotServed
        } else {
            ProbeResult::NotSent
        }
    }
}

impl ConcurrencyController {
    /// Starts and ends probes.
    pub(super) fn probe_waits(&mut self, now: Instant) {
        self.waits.advance(self.allocations.len() > 1, now);
        let reporter = self.waits.sole_session_over_limit(now);
        let before = self.wait_probes.running;
        let running = before.filter(|probe| Some(probe.reporter) == reporter);
        let prober = running.and_then(|probe| Some((probe, self.allocations.get(&probe.prober)?)));
        if let Some((probe, prober)) = prober {
            let reporter = probe.reporter;
            match probe.result(&prober.last, now) {
                ProbeResult::Pending => return,
                ProbeResult::Served => {
                    self.waits.restrict_to_own_session(reporter);
                    self.notices.push(ConcurrencyNotice::OneWorkerOnly);
                    self.shorten_pause(now);
                }
                ProbeResult::NotServed => {
                    self.wait_probes.confirmed = Some((reporter, now + SOLE_PAUSE_LIMIT));
                }
                ProbeResult::NotSent => {}
            }
        }
        self.wait_probes.running = None;
        if let Some(reporter) = self
            .waits
            .sole_session_over_limit(now)
            .filter(|id| !self.wait_probes.is_confirmed(*id, now))
        {
            self.wait_probes
                .start(&self.allocations, reporter, self.controller.limit(), now);
        }
        if before.is_some() || self.wait_probes.running.is_some() {
            self.renew_all_budgets();
        }
    }

    /// The instant until which a session may not send requests to the origin.
    pub(super) fn pause_until_of(&self, id: SessionId) -> Instant {
        match self.wait_probes.of_prober(id) {
            Some(_) => self.backoff_until,
            None => self.pause_until,
        }
    }

    /// Connections that a session may have; the prober has one more for its request.
    pub(super) fn connections(&self, id: SessionId, allocation: &Allocation) -> u32 {
        match self.wait_probes.of_prober(id) {
            Some(probe) => probe.before.open.saturating_add(1),
            None => allocation.connections,
        }
    }
}

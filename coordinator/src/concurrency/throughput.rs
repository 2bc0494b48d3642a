//! What flows over the connections of all workers together, now and since a moment. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::Observation;

/// When nothing comes over all the connections of a level for so long, one more is taken: those that stall must not keep
/// everybody from the origin until they time out.
const STUCK: Duration = Duration::from_secs(2);

/// The connections of all workers together, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// Connections with a request on them.
    pub(super) open: u32,
    /// Those of them over which a body comes.
    pub(super) flowing: u32,
    /// Connections that the workers could use.
    pub(super) wanted: u32,
    /// Bytes so far.
    pub(super) received: u64,
    /// Requests so far.
    pub(super) requests: u64,
    /// Workers with a connection.
    pub(super) workers: usize,
}

impl Flow {
    /// One worker does something else than it did.
    pub(super) fn replace(&mut self, last: &Observation, observation: &Observation) {
        let change = |all: u32, last: u32, now: u32| all.saturating_sub(last).saturating_add(now);
        self.open = change(self.open, last.open, observation.open);
        self.flowing = change(self.flowing, last.flowing, observation.flowing);
        self.wanted = change(self.wanted, last.wanted, observation.wanted);
        self.received = self.received.saturating_add(observation.received.saturating_sub(last.received));
        self.requests = self.requests.saturating_add(observation.requests.saturating_sub(last.requests));
        self.workers = self.workers + usize::from(observation.open > 0) - usize::from(last.open > 0);
    }
}

/// What had flowed at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) received: u64,
    pub(super) requests: u64,
}

impl Sample {
    pub(super) fn of(flow: &Flow, at: Instant) -> Self {
        Self { at, received: flow.received, requests: flow.requests }
    }

    /// Bytes per second since then.
    pub(super) fn rate(self, flow: &Flow, now: Instant) -> f64 {
        per_second(flow.received.saturating_sub(self.received), now - self.at)
    }

    /// Whether connections are open, and nothing has come over them since then.
    pub(super) fn is_stuck(self, flow: &Flow, now: Instant) -> bool {
        flow.open > 0 && flow.received == self.received && now - self.at >= STUCK
    }
}

/// Bytes per second.
#[expect(clippy::cast_precision_loss, reason = "rates are compared roughly")]
pub(super) fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64()
}

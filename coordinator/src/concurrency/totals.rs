//! Totals over the connections of all workers, and rates between two moments. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::Observation;

/// If no connection of a level receives data for this long, one more connection is allowed, so that
/// stalled connections do not block all transfers until they time out.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// Totals over the connections of all workers, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FleetTotals {
    /// Connections with a request in flight.
    pub(super) open: u32,
    /// Those of the open connections whose response body is arriving.
    pub(super) flowing: u32,
    /// Connections that the workers could use.
    pub(super) wanted: u32,
    /// Bytes received so far.
    pub(super) received: u64,
    /// Requests sent so far.
    pub(super) requests: u64,
    /// Workers with an open connection.
    pub(super) workers: usize,
}

impl FleetTotals {
    /// Replaces one worker's last report with a new one.
    pub(super) fn replace(&mut self, last: &Observation, observation: &Observation) {
        let change = |all: u32, last: u32, now: u32| all.saturating_sub(last).saturating_add(now);
        self.open = change(self.open, last.open, observation.open);
        self.flowing = change(self.flowing, last.flowing, observation.flowing);
        self.wanted = change(self.wanted, last.wanted, observation.wanted);
        self.received = self
            .received
            .saturating_add(observation.received.saturating_sub(last.received));
        self.requests = self
            .requests
            .saturating_add(observation.requests.saturating_sub(last.requests));
        self.workers =
            self.workers + usize::from(observation.open > 0) - usize::from(last.open > 0);
    }
}

/// Totals at one moment, for computing rates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) received: u64,
    pub(super) requests: u64,
}

impl Sample {
    pub(super) fn of(totals: &FleetTotals, at: Instant) -> Self {
        Self {
            at,
            received: totals.received,
            requests: totals.requests,
        }
    }

    /// Bytes per second since this sample.
    pub(super) fn rate(self, totals: &FleetTotals, now: Instant) -> f64 {
        per_second(totals.received.saturating_sub(self.received), now - self.at)
    }

    /// Whether connections are open and nothing has arrived on them for [`STALLED_AFTER`].
    pub(super) fn is_stalled(self, totals: &FleetTotals, now: Instant) -> bool {
        totals.open > 0 && totals.received == self.received && now - self.at >= STALLED_AFTER
    }
}

/// Bytes per second.
#[expect(clippy::cast_precision_loss, reason = "rates are compared roughly")]
pub(super) fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64()
}

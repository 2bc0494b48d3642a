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
    /// Failed requests so far.
    pub(super) cuts: u64,
    /// Responses with status 429 or 503 so far.
    pub(super) refusals: u64,
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
        let count = |all: u64, last: u64, now: u64| all.saturating_add(now.saturating_sub(last));
        self.received = count(self.received, last.received, observation.received);
        self.requests = count(self.requests, last.requests, observation.requests);
        self.cuts = count(self.cuts, last.cuts, observation.cuts);
        self.refusals = count(self.refusals, last.refusals, observation.refusals);
        self.workers =
            self.workers + usize::from(observation.open > 0) - usize::from(last.open > 0);
    }
}

/// The totals at one moment, for computing rates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) totals: FleetTotals,
}

impl Sample {
    pub(super) fn of(totals: &FleetTotals, at: Instant) -> Self {
        let totals = *totals;
        Self { at, totals }
    }

    /// Bytes that have arrived from this sample to a later one.
    pub(super) fn bytes_until(&self, later: &Self) -> u64 {
        later.totals.received.saturating_sub(self.totals.received)
    }

    /// Bytes per second from this sample to a later one.
    #[expect(clippy::cast_precision_loss, reason = "rates are compared roughly")]
    pub(super) fn rate(&self, later: &Self) -> f64 {
        self.bytes_until(later) as f64 / (later.at - self.at).as_secs_f64()
    }

    /// Whether connections are open and nothing has arrived on them for [`STALLED_AFTER`].
    pub(super) fn is_stalled(&self, later: &Self) -> bool {
        later.totals.open > 0 && self.bytes_until(later) == 0 && later.at - self.at >= STALLED_AFTER
    }
}

//! How long a level of connections is measured, and when it is raised without a full window.

use std::time::Duration;

use super::{FIRST_STEP, LimitController, PARALLEL_MINIMUM, SMALL_STEP};
use crate::concurrency::totals::{FleetTotals, Sample};

/// Time over which a level with twice the connections is measured, unless [`ENOUGH_BYTES`] arrive
/// earlier. A smaller step is measured for longer, because its gain is harder to detect.
const WINDOW: Duration = Duration::from_millis(80);
/// With several workers, a window covers at least this number of report intervals, because their
/// counters are up to one interval old. A small step takes twice as many.
const REPORTS_PER_WINDOW: u32 = 4;
/// A level that has received this many bytes is measured before [`WINDOW`] ends, so that a fast
/// origin is not delayed.
pub(super) const ENOUGH_BYTES: u64 = 8 << 20;
/// A level with [`ENOUGH_BYTES`] is measured for at least this long.
pub(super) const SHORTEST_WINDOW: Duration = Duration::from_millis(15);
/// If this many bytes arrive at [`FAST_CONNECTION_RATE`] per connection, the level is raised
/// without a full window, also before slow start has ended. This uses the first milliseconds of a
/// short job. It applies to a single worker, whose counters are current. The amount is larger than
/// the initial burst of rate-limited origins.
pub(super) const IMMEDIATE_STEP_BYTES: u64 = 4 << 20;
/// This many bytes at that rate are enough to open a second connection. One more connection uses
/// the client while [`IMMEDIATE_STEP_BYTES`] is not yet reached.
pub(super) const SECOND_CONNECTION_BYTES: u64 = 1 << 20;
/// With small tars most connections are between two bodies, so that the bodies of all of them
/// seldom arrive at once. A level therefore also counts as reached after this many requests per
/// connection.
const ROUNDS: u64 = 2;
/// A connection that has received nothing after this time does not delay the measurement of a
/// level.
const STALLED_AFTER: Duration = Duration::from_secs(3);
/// TCP slow start (RFC 5681 §3.1): the warm-up before a measurement, and the measurement itself,
/// take at least this multiple of the time to the first byte.
const SLOW_START: u32 = 2;
/// Bytes per second of one connection above which the client, and not the origin, is the
/// bottleneck. The origin shows no sign of overload, so more connections use more of the client.
const FAST_CONNECTION_RATE: f64 = 100e6;
/// From this number of connections on, half of [`FAST_CONNECTION_RATE`] is enough if nothing has
/// failed: the connections share the client's capacity.
const SHARED_LINK_CONNECTIONS: u32 = 8;

impl LimitController {
    /// Whether the bytes that have arrived are enough to raise the level without a full window.
    pub(super) fn is_fast(&self, since: Sample, sample: &Sample) -> bool {
        self.step() >= FIRST_STEP
            && has_received(IMMEDIATE_STEP_BYTES, self.fast_rate(), since, sample)
    }

    /// Whether the first connection is fast enough to open a second one.
    pub(super) fn is_single_and_fast(&self, since: Sample, sample: &Sample) -> bool {
        self.limit == 1
            && self.highest(sample.at) >= PARALLEL_MINIMUM
            && self.upper_bound.is_none()
            && has_received(SECOND_CONNECTION_BYTES, FAST_CONNECTION_RATE, since, sample)
    }

    /// Throughput of this level from which on the client is the bottleneck.
    pub(super) fn fast_rate(&self) -> f64 {
        let per_connection = if self.limit < SHARED_LINK_CONNECTIONS || self.upper_bound.is_some() {
            FAST_CONNECTION_RATE
        } else {
            FAST_CONNECTION_RATE / 2.0
        };
        per_connection * f64::from(self.limit)
    }

    /// Once the level is reached, how long slow start still takes. The level is reached when no
    /// more connections are open than allowed, and all of them receive bodies.
    pub(super) fn warm_up(
        &self,
        since: Sample,
        report_interval: Duration,
        sample: &Sample,
    ) -> Option<Duration> {
        let totals = &sample.totals;
        let waited = sample.at - since.at;
        if totals.open > self.limit || since.bytes_until(sample) == 0 || waited < report_interval {
            return None;
        }
        let requests = totals.requests.saturating_sub(since.totals.requests);
        // Connections without data are not waited for: their worker may be unreachable.
        if requests >= ROUNDS * u64::from(self.limit) || waited >= STALLED_AFTER {
            return Some(Duration::ZERO);
        }
        (totals.flowing >= self.limit)
            .then(|| waited.saturating_sub(report_interval * 4) * SLOW_START)
    }

    /// Time for which this level is measured.
    pub(super) fn window(&self, totals: &FleetTotals) -> Duration {
        let reports = match totals.workers {
            // The counters of a single worker are current.
            0 | 1 => 0,
            _ if self.step() < 2.0 => REPORTS_PER_WINDOW * 2,
            _ => REPORTS_PER_WINDOW,
        };
        WINDOW
            .max(self.report_interval * reports)
            .div_f64((self.step() - 1.0).clamp(SMALL_STEP - 1.0, 1.0))
    }
}

/// Whether `bytes` have arrived at this rate since a sample. Only a single worker's counters are
/// current.
fn has_received(bytes: u64, rate: f64, since: Sample, sample: &Sample) -> bool {
    since.bytes_until(sample) >= bytes && sample.totals.workers <= 1 && since.rate(sample) >= rate
}

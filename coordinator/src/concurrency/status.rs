//! The state of the concurrency controller for status displays and metrics.

use std::time::Duration;

/// The state of the concurrency controller for status displays and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConcurrencyStatus {
    /// Connections allowed to all workers together.
    pub limit: u32,
    /// Connections with a request in flight.
    pub open: u32,
    /// Connections that the workers could use.
    pub wanted: u32,
    /// No request is sent for this long.
    pub quiet: Duration,
    /// Throughput, averaged over the last seconds.
    pub bytes_per_second: u64,
    /// The highest number of connections below the level at which the origin failed, while it is
    /// remembered.
    pub upper_bound: Option<u32>,
    /// Requests since the coordinator's process started.
    pub requests: u64,
    /// Failed requests.
    pub cuts: u64,
    /// Responses with status 429 or 503.
    pub refusals: u64,
    /// Detected overloads: bursts of failed requests.
    pub overloads: u64,
}

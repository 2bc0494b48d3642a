//! The state of the concurrency controller for status displays and metrics.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// The state of the concurrency controller for status displays and metrics. Its JSON form is that
/// of `coordinator status --json`, whose help documents the names of the fields, so they are
/// stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ConcurrencyStatus {
    /// Connections with a request in flight.
    #[serde(rename = "connections")]
    pub open: u32,
    /// Connections allowed to all workers together.
    pub limit: u32,
    /// Connections that the workers could use.
    pub wanted: u32,
    /// No request is sent for this long.
    #[serde(rename = "quiet_ms", serialize_with = "as_milliseconds")]
    pub pause: Duration,
    /// Throughput, averaged over the last seconds.
    pub bytes_per_second: u64,
    /// Requests since the coordinator's process started.
    pub requests: u64,
    /// Failed requests.
    pub cuts: u64,
    /// Responses with status 429 or 503.
    pub refusals: u64,
    /// Detected overloads: bursts of failed requests.
    pub overloads: u64,
}

/// Serializes a duration as whole milliseconds.
pub(crate) fn as_milliseconds<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
}

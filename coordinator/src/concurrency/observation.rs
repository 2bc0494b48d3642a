//! What a worker reports about its connections to the origin.

use std::time::Duration;

/// One worker's report on its connections to the origin. Counters start with the worker's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    /// Version of the budget that the worker applies; 0: none yet.
    pub seen: u64,
    /// Connections with a request in flight, now.
    pub open: u32,
    /// Those of the open connections whose response body is arriving.
    pub flowing: u32,
    /// Connections that the worker could use now, including the open ones.
    pub wanted: u32,
    /// Bytes of response bodies.
    pub received: u64,
    /// Requests to the origin.
    pub requests: u64,
    /// Failed requests: no connection, no response, or a body that ended early.
    pub cuts: u64,
    /// Responses with status 429 or 503.
    pub refusals: u64,
    /// Time left of the longest `Retry-After` that the worker has received, if it has not elapsed.
    pub retry_after: Option<Duration>,
}

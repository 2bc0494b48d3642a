//! What the controller allows: the budget of one worker, and the limits for all workers together.

use std::time::Duration;

/// What one worker may do until it receives a newer budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Increases with each change.
    pub version: u64,
    /// Connections to the origin.
    pub connections: u32,
    /// Bytes per second over all connections of the worker.
    pub bytes_per_second: Option<u64>,
    /// The worker sends no request to the origin for this long.
    pub pause: Duration,
    /// Interval of the worker's observations, if they change.
    pub observe_every: Duration,
    /// Number of times that an admin has ended the waits. When it increases, the worker also ends
    /// the wait that the origin has asked of it.
    pub resumed: u64,
}

/// Limits from the command line for all workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// `--max-connections`, at least 1.
    pub connections: Option<u32>,
    /// `--max-rate`.
    pub bytes_per_second: Option<u64>,
}

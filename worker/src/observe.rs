//! Observability of a worker: progress, counters, and the HTTP endpoints that serve them.

pub(crate) mod counters;
pub mod http;
pub(crate) mod progress;
pub(crate) mod slot_lines;
pub(crate) mod waits;

//! What can be seen of a worker: progress, counters, and the HTTP port that serves them.

pub(crate) mod counters;
pub mod http;
pub(crate) mod progress;

//! Progress of each class: bytes for heartbeats and the terminal, and what the class waits for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use prometheus_client::metrics::counter::Counter;
use shared::{Wnid, job_line::Screen};
use tokio::time::Instant;

use crate::observe::{counters::WorkerCounters, waits::Waits};

/// Byte counts of this process, and the screen.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) screen: Screen,
    pub(crate) counters: Arc<WorkerCounters>,
}

/// Progress of one class in one slot.
#[derive(Debug)]
pub(crate) struct ClassProgress {
    pub(crate) slot: usize,
    pub(crate) wnid: Wnid,
    /// When the slot began with the class.
    pub(crate) since: Instant,
    pub(crate) waits: Waits,
    /// Number of requests for bytes of the tar, by this process.
    pub(crate) requests: Counter,
    here: AtomicU64,
    /// Length of the whole tar; 0 while it is unknown.
    length: AtomicU64,
    /// Whether the tar has begun.
    has_begun: AtomicBool,
    /// The class needs no origin now; see [`ClassProgress::locally`].
    local: AtomicBool,
    counters: Arc<WorkerCounters>,
}

impl Progress {
    pub(crate) fn new(screen: Screen, counters: Arc<WorkerCounters>) -> Self {
        Self { screen, counters }
    }

    /// Bytes received from the origin since the process started.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.counters.received.get()
    }

    /// The progress of a class that a slot begins with now.
    pub(crate) fn class(&self, slot: usize, wnid: Wnid) -> ClassProgress {
        ClassProgress {
            slot,
            wnid,
            since: Instant::now(),
            waits: Waits::default(),
            requests: Counter::default(),
            here: AtomicU64::default(),
            length: AtomicU64::default(),
            has_begun: AtomicBool::default(),
            local: AtomicBool::default(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl ClassProgress {
    /// Begins the tar, or continues it after `here` bytes.
    pub(crate) fn begin(&self, here: u64, length: Option<u64>) {
        self.here.store(here, Ordering::Relaxed);
        self.length.store(length.unwrap_or(0), Ordering::Relaxed);
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// Counts bytes received from the origin.
    pub(crate) fn received(&self, bytes: u64) {
        self.counters.received.inc_by(bytes);
        self.here.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Marks the class as not using the origin until the guard is dropped, so that the coordinator
    /// does not expect bytes of it.
    pub(crate) fn locally(&self) -> LocalWork<'_> {
        self.local.store(true, Ordering::Relaxed);
        LocalWork(self)
    }

    /// Whether the class does not use the origin at the moment.
    pub(crate) fn is_local(&self) -> bool {
        self.local.load(Ordering::Relaxed)
    }

    /// Whether the tar has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Number of bytes of the tar that were received.
    pub(crate) fn position(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }

    /// Length of the tar; 0 while it is unknown.
    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }
}

/// Marks work on a class that needs no origin, until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct LocalWork<'class>(&'class ClassProgress);

impl Drop for LocalWork<'_> {
    fn drop(&mut self) {
        self.0.local.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_without_a_terminal_too() {
        let progress = Progress::new(Screen::Silent, Arc::default());
        let class = progress.class(3, "n02124075".parse().unwrap());
        class.begin(100, Some(500));
        class.received(28);
        assert_eq!(
            (class.position(), class.length(), progress.received_bytes()),
            (128, 500, 28)
        );
        class.begin(0, None);
        assert_eq!(
            (class.position(), class.length()),
            (0, 0),
            "another version, of unknown length"
        );
    }
}

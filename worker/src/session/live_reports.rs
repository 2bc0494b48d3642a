//! What an observation contains for display: the progress of the held leases and the free disk
//! space. It is sent at most once in [`INTERVAL`]; observations may follow one another faster.
//!
//! The file system of the target may block, so its free space is read on another thread, by at most
//! one task at a time.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, time::Instant};

use crate::{session::heartbeat::RenewalState, slots::Held, storage::disk_space::free_bytes};

/// Minimum interval of the reports, and the longest interval of observations unless the coordinator
/// wants a longer one. The protocol permits 2 s.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Most leases in one observation, which then has less than 4 KiB: the coordinator never refuses so
/// short a message because of the memory of others.
const MOST_TRANSFERS: usize = 64;

/// The part of an observation that is for display.
#[derive(Debug, Default)]
pub(crate) struct LiveReport {
    /// The held leases, or as many of them as one observation may contain.
    pub(crate) transfers: Vec<Held>,
    /// Free bytes on the storage of the target; 0 if unknown.
    pub(crate) disk_free: u64,
}

/// Makes the reports of one worker.
#[derive(Debug)]
pub(crate) struct LiveReports {
    held: watch::Receiver<RenewalState>,
    last: Option<Instant>,
    /// Index of the first lease of the next report, if not all fit into one.
    next: usize,
    disk: Arc<FreeSpace>,
}

/// The free space that was read last.
#[derive(Debug)]
struct FreeSpace {
    folder: PathBuf,
    bytes: AtomicU64,
    /// Whether a task reads it now.
    is_being_read: AtomicBool,
}

impl LiveReports {
    /// Reports of the leases in `held`, and of the file system of `folder`.
    pub(crate) fn new(held: watch::Receiver<RenewalState>, folder: PathBuf) -> Self {
        let disk = Arc::new(FreeSpace {
            folder,
            bytes: AtomicU64::default(),
            is_being_read: AtomicBool::default(),
        });
        disk.read();
        Self {
            held,
            last: None,
            next: 0,
            disk,
        }
    }

    /// Whether the next observation contains a report.
    pub(crate) fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= INTERVAL)
    }

    /// The report for the observation that is sent now; empty if the last one is too recent.
    pub(crate) fn take(&mut self) -> LiveReport {
        if !self.is_due() {
            return LiveReport::default();
        }
        self.last = Some(Instant::now());
        self.disk.read();
        let renewable = self.held.borrow();
        let held = &renewable.held;
        let first = if self.next < held.len() { self.next } else { 0 };
        let count = held.len().min(MOST_TRANSFERS);
        self.next = first + count;
        LiveReport {
            transfers: held
                .iter()
                .cycle()
                .skip(first)
                .take(count)
                .cloned()
                .collect(),
            disk_free: self.disk.bytes.load(Ordering::Relaxed),
        }
    }
}

impl FreeSpace {
    /// Begins to read the free space, unless a task reads it already.
    fn read(self: &Arc<Self>) {
        if self.is_being_read.swap(true, Ordering::AcqRel) {
            return;
        }
        let space = Arc::clone(self);
        Handle::current().spawn_blocking(move || {
            let free = free_bytes(&space.folder).unwrap_or_default();
            space.bytes.store(free, Ordering::Relaxed);
            space.is_being_read.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::slots::Lease;

    #[tokio::test(start_paused = true)]
    async fn each_second_a_report_names_leases_until_all_were_named() {
        let lease = |number: usize| Held {
            lease: Lease::not_granted(format!("n{number:08}").parse().unwrap()),
            progress: None,
        };
        let held: Vec<_> = (0..150).map(lease).collect();
        let (sender, receiver) = watch::channel(RenewalState {
            session: None,
            held,
        });
        let mut reports = LiveReports::new(receiver, std::env::temp_dir());
        let mut named = BTreeSet::new();
        for _ in 0..3 {
            let report = reports.take();
            assert_eq!(report.transfers.len(), MOST_TRANSFERS);
            named.extend(report.transfers.iter().map(|held| held.lease.wnid));
            assert!(reports.take().transfers.is_empty(), "the last is recent");
            tokio::time::advance(INTERVAL).await;
        }
        assert_eq!(named.len(), 150);
        sender.send_modify(|renewable| renewable.held.truncate(3));
        let report = reports.take();
        assert_eq!(report.transfers.len(), 3, "each lease once");
        while reports.disk.bytes.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(INTERVAL).await;
        assert!(reports.take().disk_free > 0);
    }
}

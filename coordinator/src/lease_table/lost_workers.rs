//! The workers whose sessions have expired, for display. No I/O, no clock.

use std::{collections::VecDeque, time::SystemTime};

use tokio::time::Instant;

use super::sessions::Session;
use crate::fleet::{WorkerState, WorkerView};

/// Number of lost workers that are remembered. Each takes about 1 KB.
const MOST_LOST: usize = 100;

/// A worker whose session has expired.
#[derive(Debug)]
struct LostWorker {
    /// The session at its end, without leases.
    session: Session,
    received_bytes: u64,
    at: Instant,
}

/// The lost workers, in the order in which they were lost; each name at most once.
#[derive(Debug, Default)]
pub(super) struct LostWorkers(VecDeque<LostWorker>);

impl LostWorkers {
    /// Adds a worker whose session has expired.
    pub(super) fn add(&mut self, session: Session, received_bytes: u64, now: Instant) {
        self.remove(&session.worker_info.worker);
        if self.0.len() >= MOST_LOST {
            self.0.pop_front();
        }
        self.0.push_back(LostWorker {
            session,
            received_bytes,
            at: now,
        });
    }

    /// Removes a worker, if it is there.
    pub(super) fn remove(&mut self, worker: &str) {
        self.0
            .retain(|lost| lost.session.worker_info.worker != worker);
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn views(
        &self,
        now: Instant,
        time_of_day: impl Fn(Instant) -> SystemTime,
    ) -> impl Iterator<Item = WorkerView> {
        self.0.iter().map(move |lost| {
            let info = &lost.session.worker_info;
            WorkerView {
                name: info.worker.clone(),
                state: WorkerState::Lost,
                slots: info.slots,
                leased: 0,
                success: lost.session.settled.success,
                skipped: lost.session.settled.skipped,
                failed: lost.session.settled.failed,
                received_bytes: lost.received_bytes,
                silent: now.saturating_duration_since(lost.session.live.heard),
                storage: info.storage.clone(),
                build: info.build.clone(),
                since: time_of_day(lost.at),
                bytes_per_second: 0,
                disk_free: lost.session.live.disk_free,
                waits_for: None,
                host: info.host.clone(),
            }
        })
    }
}

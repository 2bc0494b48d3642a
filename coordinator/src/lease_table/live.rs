//! What is shown of a worker between its heartbeats: when it was last heard of, its rate, the
//! progress of its classes and its free disk space. No I/O, no clock.
//!
//! Invariant: nothing in this module renews a lease or counts as progress of one. Observations that
//! claim progress therefore keep no class.

use std::{
    ops::Bound,
    time::{Duration, SystemTime},
};

use shared::{ids::SessionId, protocol::RENEWALS_PER_TTL};
use tokio::time::Instant;

use super::{LeaseTable, ReportedLease, Session, UnknownSession};
use crate::fleet::{WaitsFor, WorkerState, WorkerView};

/// Longest time between two observations of a worker in a fleet of up to 1,000 workers, from the
/// protocol.
pub(super) const OBSERVATION_INTERVAL: Duration = Duration::from_secs(2);
/// A worker is silent after so many intervals without a call or an observation.
const SILENT_INTERVALS: u32 = 3;
/// Time constant in seconds with which rates are smoothed.
const SMOOTHED_OVER: f64 = 5.0;
/// Observations that follow one another faster are measured together.
const SHORTEST_STEP: Duration = Duration::from_millis(50);

/// The part of an observation that is for display.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveReport {
    /// Bytes that the worker's process has received.
    pub received_bytes: u64,
    /// Progress of the leases, or nothing.
    pub transfers: Vec<ReportedLease>,
    /// Free bytes on the storage of the target; `None` if the observation does not contain it.
    pub disk_free: Option<u64>,
}

/// Progress of a lease for display.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShownProgress {
    pub(super) bytes: u64,
    pub(super) length: u64,
    pub(super) is_local: bool,
}

impl From<&ReportedLease> for ShownProgress {
    fn from(reported: &ReportedLease) -> Self {
        Self {
            bytes: reported.bytes,
            length: reported.length,
            is_local: reported.is_local,
        }
    }
}

/// Bytes that a worker's process has received.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Received {
    /// As of the last heartbeat: evidence of progress for the leases.
    renewed: u64,
    /// As of the last heartbeat, observation or report.
    pub(super) shown: u64,
}

impl Received {
    /// Records the bytes in a heartbeat. Returns how many are new since the last heartbeat.
    pub(super) fn renew(&mut self, bytes: u64) -> u64 {
        raise(&mut self.renewed, bytes)
    }

    /// Records the bytes for display. Returns how many were not shown before.
    pub(super) fn show(&mut self, bytes: u64) -> u64 {
        raise(&mut self.shown, bytes)
    }
}

/// Raises a counter that never decreases. Returns the difference.
fn raise(counter: &mut u64, to: u64) -> u64 {
    let more = to.saturating_sub(*counter);
    *counter += more;
    more
}

/// What is shown of a session.
#[derive(Debug)]
pub(super) struct Live {
    /// Time of the last call or observation.
    pub(super) heard: Instant,
    /// Whether the worker has sent an observation in this session.
    observes: bool,
    rate: Rate,
    pub(super) disk_free: Option<u64>,
    /// The state and the time of its begin, as of the last update.
    pub(super) state: WorkerState,
    since: Instant,
}

impl Live {
    pub(super) fn of_new_session(now: Instant) -> Self {
        Self {
            heard: now,
            observes: false,
            rate: Rate::starting_at(now),
            disk_free: None,
            state: WorkerState::Active,
            since: now,
        }
    }

    /// Records a call or an observation.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Time without a call or an observation after which the worker is silent. One that sends no
    /// observations is heard of with its heartbeats only.
    fn silent_after(&self, interval: Duration, ttl: Duration) -> Duration {
        let interval = if self.observes {
            interval
        } else {
            interval.max(ttl / RENEWALS_PER_TTL)
        };
        interval * SILENT_INTERVALS
    }
}

/// The number of workers in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateCounts([u32; WorkerState::ALL.len()]);

impl StateCounts {
    /// The number of workers in a state.
    pub fn of(&self, state: WorkerState) -> u32 {
        self.0[state as usize]
    }

    pub(super) fn add(&mut self, state: WorkerState) {
        self.0[state as usize] += 1;
    }

    pub(super) fn remove(&mut self, state: WorkerState) {
        self.0[state as usize] -= 1;
    }
}

/// Bytes per second, as an exponential moving average over [`SMOOTHED_OVER`]. Its weights are
/// normalized, so that the first seconds show the mean so far.
#[derive(Debug)]
struct Rate {
    at: Instant,
    /// Bytes at `at`; `None` before the first observation.
    bytes: Option<u64>,
    sum: f64,
    weight: f64,
}

impl Rate {
    fn starting_at(now: Instant) -> Self {
        Self {
            at: now,
            bytes: None,
            sum: 0.0,
            weight: 0.0,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    fn record(&mut self, bytes: u64, now: Instant) {
        let Some(before) = self.bytes else {
            self.at = now;
            self.bytes = Some(bytes);
            return;
        };
        let step = now.saturating_duration_since(self.at);
        if step < SHORTEST_STEP {
            return;
        }
        let seconds = step.as_secs_f64();
        let part = 1.0 - (-seconds / SMOOTHED_OVER).exp();
        let current = bytes.saturating_sub(before) as f64 / seconds;
        self.sum += (current - self.sum) * part;
        self.weight += (1.0 - self.weight) * part;
        self.at = now;
        self.bytes = Some(bytes.max(before));
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and is positive"
    )]
    fn bytes_per_second(&self) -> u64 {
        if self.weight > 0.0 {
            (self.sum / self.weight).round() as u64
        } else {
            0
        }
    }
}

impl Session {
    /// The state at this time.
    fn state(&self, interval: Duration, ttl: Duration, now: Instant) -> WorkerState {
        let unheard = now.saturating_duration_since(self.live.heard);
        match () {
            () if unheard > self.live.silent_after(interval, ttl) => WorkerState::Silent,
            () if self.draining => WorkerState::Draining,
            () if self.is_quarantined(now) => WorkerState::Quarantined,
            () => WorkerState::Active,
        }
    }

    fn view(
        &self,
        received_bytes: u64,
        now: Instant,
        time_of_day: impl Fn(Instant) -> SystemTime,
        waits_for: Option<WaitsFor>,
    ) -> WorkerView {
        let is_silent = self.live.state == WorkerState::Silent;
        let bytes_per_second = if is_silent {
            0
        } else {
            self.live.rate.bytes_per_second()
        };
        WorkerView {
            name: self.worker_info.worker.clone(),
            state: self.live.state,
            slots: self.worker_info.slots,
            leased: u32::try_from(self.leases.len()).unwrap_or(u32::MAX),
            success: self.settled.success,
            skipped: self.settled.skipped,
            failed: self.settled.failed,
            received_bytes,
            silent: now.saturating_duration_since(self.live.heard),
            storage: self.worker_info.storage.clone(),
            build: self.worker_info.build.clone(),
            since: time_of_day(self.live.since),
            bytes_per_second,
            disk_free: self.live.disk_free,
            waits_for: waits_for.filter(|_| !is_silent),
            host: self.worker_info.host.clone(),
        }
    }
}

impl LeaseTable {
    /// Records what an observation contains for display.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn record_live(
        &mut self,
        id: SessionId,
        report: &LiveReport,
        now: Instant,
    ) -> Result<(), UnknownSession> {
        self.record_call(id, report.received_bytes, now)?;
        let session = self.sessions.get_mut(id)?;
        session.live.observes = true;
        session.live.rate.record(report.received_bytes, now);
        session.live.disk_free = report.disk_free.or(session.live.disk_free);
        let slots = super::to_usize(session.worker_info.slots);
        for reported in report.transfers.iter().take(slots) {
            let position = self.position(reported.lease.wnid);
            let progress =
                position.and_then(|position| self.progress(position, id, reported.lease.token));
            if let Some(progress) = progress {
                progress.shown = reported.into();
            }
        }
        Ok(())
    }

    /// Records for display that a worker has called, and the bytes that its process has received so
    /// far; 0 if the call does not contain them.
    ///
    /// # Errors
    /// [`UnknownSession`].
    pub fn record_call(
        &mut self,
        id: SessionId,
        received_bytes: u64,
        now: Instant,
    ) -> Result<(), UnknownSession> {
        let session = self.sessions.get_mut(id)?;
        session.live.heard(now);
        if received_bytes > 0 {
            let received = self.received.entry(&session.worker_info.instance);
            let more = received.show(received_bytes);
            self.status.received_bytes = self.status.received_bytes.saturating_add(more);
        }
        Ok(())
    }

    /// Sets the interval at which the controller wants observations. A large fleet sends them less
    /// often than every `OBSERVATION_INTERVAL`.
    pub fn set_observation_interval(&mut self, interval: Duration) {
        self.observation_interval = OBSERVATION_INTERVAL.max(interval);
    }

    /// Updates the states of all workers.
    pub fn update_states(&mut self, now: Instant) {
        let ttl = self.sessions.ttl;
        for session in self.sessions.by_id.values_mut() {
            let state = session.state(self.observation_interval, ttl, now);
            if state == session.live.state {
                continue;
            }
            self.sessions.states.remove(session.live.state);
            self.sessions.states.add(state);
            session.live.state = state;
            session.live.since = match state {
                WorkerState::Silent => session.live.heard,
                _ => now,
            };
        }
    }

    /// The number of workers in each state, as of the last update.
    pub fn state_counts(&self) -> StateCounts {
        let mut counts = self.sessions.states;
        counts.0[WorkerState::Lost as usize] = self.lost.len();
        counts
    }

    /// The next workers with a session, at most `most`, in the order of their sessions and in the
    /// states of the last update. `time_of_day` converts a time of the lease table.
    pub fn workers_after(
        &self,
        after: Option<SessionId>,
        most: usize,
        now: Instant,
        time_of_day: impl Fn(Instant) -> SystemTime,
        waits_for: impl Fn(SessionId) -> Option<WaitsFor>,
    ) -> Vec<(SessionId, WorkerView)> {
        let view = |session: &Session| {
            let received = self.shown_received(session);
            session.view(received, now, &time_of_day, waits_for(session.id))
        };
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sessions = self.sessions.by_id.range((first, Bound::Unbounded));
        let mut workers: Vec<_> = sessions
            .take(most)
            .map(|(id, session)| (*id, view(session)))
            .collect();
        for attempt in self.attempts.of.values() {
            if let Ok(place) = workers.binary_search_by_key(&attempt.session, |(id, _)| *id) {
                workers[place].1.leased += 1;
            }
        }
        workers
    }

    /// The workers whose sessions have expired.
    pub fn lost_workers(
        &self,
        now: Instant,
        time_of_day: impl Fn(Instant) -> SystemTime,
    ) -> Vec<WorkerView> {
        self.lost.views(now, time_of_day).collect()
    }

    /// The bytes that the process of a session has received.
    pub(super) fn shown_received(&self, session: &Session) -> u64 {
        let received = self.received.get(&session.worker_info.instance);
        received.map_or(0, |received| received.shown)
    }
}

//! Estimates the time until the job is done: the remaining bytes divided by the recent throughput.
//! No I/O, no clock.
//!
//! Only bytes that arrive while this coordinator runs count. What a worker had received before its
//! first report in a session is not progress of this process.

use std::{collections::HashMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// If no byte arrives for this long, no estimate is shown.
const STALL_THRESHOLD: Duration = Duration::from_secs(5);
/// Bytes must have arrived for this many seconds before an estimate is shown.
const MIN_OBSERVED_SECONDS: f64 = 2.0;
/// After a stall, the first bytes count as those of at most this time.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// Averaging window as a fraction of the time left: if hours are left, one slow minute has little
/// weight.
const WINDOW_FRACTION: f64 = 0.25;
/// Bounds of the averaging window in seconds. With a shorter one the ends of single classes are
/// visible; with a longer one changes appear too late.
const WINDOW: std::ops::RangeInclusive<f64> = 20.0..=300.0;

/// The state of the estimate.
#[derive(Debug)]
pub(crate) struct TimeLeft {
    workers: HashMap<SessionId, Received>,
    /// Bytes counted at the last tick.
    counted: u64,
    received_total: u64,
    /// The last tick at which new bytes had arrived.
    last_progress: Instant,
    rate: Rate,
    stalls: Stalls,
    window: f64,
}

/// Bytes that one worker has received.
#[derive(Debug, Default)]
struct Received {
    /// The worker's last report, since its process started.
    reported: u64,
    /// Bytes received since its last heartbeat, which reported the offset in each tar.
    since_heartbeat: u64,
}

/// Bytes and the seconds in which they arrived, both with exponential decay.
#[derive(Debug, Default)]
struct Rate {
    bytes: f64,
    seconds: f64,
}

/// Periods without a byte.
#[derive(Debug, Default)]
struct Stalls {
    seconds: f64,
    longest: f64,
    /// Seconds between these periods.
    between: f64,
}

impl Rate {
    fn note(&mut self, bytes: f64, seconds: f64, window: f64) {
        let decay = (-seconds / window).exp();
        self.bytes = self.bytes * decay + bytes;
        self.seconds = self.seconds * decay + seconds;
    }
}

impl Stalls {
    /// The factor by which stalls prolong the job. The longest stall is excluded, because it may
    /// have been an outage that does not recur; the others are expected to recur.
    fn factor(&self) -> f64 {
        1.0 + (self.seconds - self.longest) / self.between.max(1.0)
    }
}

impl TimeLeft {
    /// Starts without any received bytes.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            workers: HashMap::new(),
            counted: 0,
            received_total: 0,
            last_progress: now,
            rate: Rate::default(),
            stalls: Stalls::default(),
            window: *WINDOW.start(),
        }
    }

    /// A worker has reported the bytes that its process has received.
    pub(crate) fn received(&mut self, session: SessionId, bytes: u64) {
        let worker = self.workers.entry(session).or_insert(Received {
            reported: bytes,
            since_heartbeat: 0,
        });
        let more = bytes.saturating_sub(worker.reported);
        worker.reported += more;
        worker.since_heartbeat = worker.since_heartbeat.saturating_add(more);
        self.received_total = self.received_total.saturating_add(more);
    }

    /// As [`Self::received`], together with the worker's offset in each tar.
    pub(crate) fn renewed(&mut self, session: SessionId, bytes: u64) {
        self.received(session, bytes);
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.since_heartbeat = 0;
        }
    }

    /// A class is complete, with `bytes` beyond its offset at the last heartbeat.
    pub(crate) fn completed(&mut self, session: SessionId, bytes: u64) {
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.since_heartbeat = worker.since_heartbeat.saturating_sub(bytes);
        }
    }

    /// A session has ended.
    pub(crate) fn ended(&mut self, session: SessionId) {
        self.workers.remove(&session);
    }

    /// Updates the estimate about once per second. `remaining`: bytes that remained at the last
    /// heartbeats.
    pub(crate) fn tick(&mut self, remaining: Option<u64>, now: Instant) -> Option<Duration> {
        let since_progress = now - self.last_progress;
        let more = self.received_total - self.counted;
        if more > 0 {
            self.note(float(more), since_progress);
            (self.counted, self.last_progress) = (self.received_total, now);
        }
        let is_known = (more > 0 || since_progress < STALL_THRESHOLD)
            && self.rate.seconds >= MIN_OBSERVED_SECONDS
            && self.rate.bytes > 0.0;
        remaining
            .filter(|_| is_known)
            .and_then(|remaining| self.estimate(remaining))
    }

    fn note(&mut self, bytes: f64, since_last: Duration) {
        let is_first = self.counted == 0;
        let is_stall = since_last >= STALL_THRESHOLD;
        if is_stall && !is_first {
            let seconds = since_last.as_secs_f64();
            self.stalls.seconds += seconds;
            self.stalls.longest = self.stalls.longest.max(seconds);
        }
        let counted = if is_stall || is_first {
            since_last.min(FIRST_INTERVAL)
        } else {
            since_last
        };
        let seconds = counted.as_secs_f64();
        self.stalls.between += seconds;
        self.rate.note(bytes, seconds, self.window);
    }

    fn estimate(&mut self, remaining: u64) -> Option<Duration> {
        let since_heartbeats = self.workers.values().map(|worker| worker.since_heartbeat);
        let remaining = since_heartbeats.fold(remaining, u64::saturating_sub);
        let seconds = float(remaining) * self.rate.seconds / self.rate.bytes * self.stalls.factor();
        self.window = (seconds * WINDOW_FRACTION).clamp(*WINDOW.start(), *WINDOW.end());
        // A number of seconds that does not fit in a `Duration` counts as unknown.
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;

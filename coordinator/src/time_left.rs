//! The time that the job still takes: the bytes that are still to come by the rate at which bytes
//! have come lately. Pure.
//!
//! Only bytes that came while this coordinator ran count: what a worker had received before its
//! first word in a session is no progress of this process.

use std::{collections::HashMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

/// When no byte has come for so long, no time is told.
const STALL: Duration = Duration::from_secs(5);
/// Bytes must have come for so long before a time is told.
const SHORTEST: f64 = 2.0;
/// After a stall the first bytes are taken for those of so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// The rate is a mean over a part of the time left: when hours are left, a slow minute says little.
const PART: f64 = 0.25;
/// Seconds. Shorter, and the ends of single classes show; longer, and a change is seen too late.
const WINDOW: std::ops::RangeInclusive<f64> = 20.0..=300.0;

/// The estimate.
#[derive(Debug)]
pub(crate) struct TimeLeft {
    workers: HashMap<SessionId, Received>,
    /// Bytes that have come, as counted at the last look.
    counted: u64,
    came: u64,
    /// When bytes were last seen to have come.
    moved: Instant,
    rate: Rate,
    stalls: Stalls,
    window: f64,
    left: Option<Duration>,
}

/// What one worker has received.
#[derive(Debug, Default)]
struct Received {
    /// As it last said, since its process started.
    said: u64,
    /// Of that what came after its last renewal, which said where in each tar it is.
    since_renewal: u64,
}

/// Bytes and the seconds in which they came, both fading with age.
#[derive(Debug, Default)]
struct Rate {
    bytes: f64,
    seconds: f64,
}

/// Times without a byte.
#[derive(Debug, Default)]
struct Stalls {
    seconds: f64,
    longest: f64,
    /// Seconds between them.
    between: f64,
}

impl Rate {
    fn note(&mut self, bytes: f64, seconds: f64, window: f64) {
        let rest = (-seconds / window).exp();
        self.bytes = self.bytes * rest + bytes;
        self.seconds = self.seconds * rest + seconds;
    }
}

impl Stalls {
    /// How much longer everything takes because of them. The longest may have been an outage that
    /// does not come again; the others are expected to.
    fn factor(&self) -> f64 {
        1.0 + (self.seconds - self.longest) / self.between.max(1.0)
    }
}

impl TimeLeft {
    /// Nothing has come yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            workers: HashMap::new(),
            counted: 0,
            came: 0,
            moved: now,
            rate: Rate::default(),
            stalls: Stalls::default(),
            window: *WINDOW.start(),
            left: None,
        }
    }

    /// A worker has said how many bytes its process has received.
    pub(crate) fn received(&mut self, session: SessionId, bytes: u64) {
        let worker = self.workers.entry(session).or_insert(Received { said: bytes, since_renewal: 0 });
        let more = bytes.saturating_sub(worker.said);
        worker.said += more;
        worker.since_renewal = worker.since_renewal.saturating_add(more);
        self.came = self.came.saturating_add(more);
    }

    /// The same, together with where in each tar it is.
    pub(crate) fn renewed(&mut self, session: SessionId, bytes: u64) {
        self.received(session, bytes);
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.since_renewal = 0;
        }
    }

    /// A class is complete, with so many bytes beyond its position at the last renewal.
    pub(crate) fn completed(&mut self, session: SessionId, bytes: u64) {
        if let Some(worker) = self.workers.get_mut(&session) {
            worker.since_renewal = worker.since_renewal.saturating_sub(bytes);
        }
    }

    /// A session has ended.
    pub(crate) fn ended(&mut self, session: SessionId) {
        self.workers.remove(&session);
    }

    /// Looks at what has come, about once a second. `remaining`: bytes that were still to come at
    /// the last renewals.
    pub(crate) fn tick(&mut self, remaining: Option<u64>, now: Instant) -> Option<Duration> {
        let silent = now - self.moved;
        let more = self.came - self.counted;
        if more > 0 {
            self.note(float(more), silent);
            (self.counted, self.moved) = (self.came, now);
        }
        let is_known = (more > 0 || silent < STALL) && self.rate.seconds >= SHORTEST && self.rate.bytes > 0.0;
        self.left = remaining.filter(|_| is_known).and_then(|remaining| self.estimate(remaining));
        self.left
    }

    fn note(&mut self, bytes: f64, since_last: Duration) {
        let is_first = self.counted == 0;
        let is_stall = since_last >= STALL;
        if is_stall && !is_first {
            let seconds = since_last.as_secs_f64();
            self.stalls.seconds += seconds;
            self.stalls.longest = self.stalls.longest.max(seconds);
        }
        let seconds = if is_stall || is_first { since_last.min(INTERVAL) } else { since_last }.as_secs_f64();
        self.stalls.between += seconds;
        self.rate.note(bytes, seconds, self.window);
    }

    fn estimate(&mut self, remaining: u64) -> Option<Duration> {
        let since_renewals = self.workers.values().map(|worker| worker.since_renewal);
        let remaining = since_renewals.fold(remaining, u64::saturating_sub);
        let seconds = float(remaining) * self.rate.seconds / self.rate.bytes * self.stalls.factor();
        self.window = (seconds * PART).clamp(*WINDOW.start(), *WINDOW.end());
        // More than a number of seconds can be is not known.
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;

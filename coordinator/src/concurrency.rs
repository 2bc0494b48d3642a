//! The concurrency controller: one budget of connections to the origin for all workers together.
//! No I/O, no clock.
//!
//! Each worker reports an [`Observation`]. From all observations `controller` finds the number of
//! connections that gives the best throughput, `overload` detects failures caused by too many
//! connections, `refusals` decides whether refusals are caused by their number, and `allocation`
//! gives each worker its part as a [`Budget`]. A refusal with `Retry-After` (`waits`) or an
//! overload pauses all requests.
//!
//! Invariant: the limits given by `--max-connections` and `--max-rate` are never exceeded.

use std::time::Duration;

use shared::ids::SessionId;
use tokio::time::Instant;

mod allocation;
mod budget;
mod controller;
mod limit_cause;
mod notice;
mod observation;
mod overload;
mod refusals;
mod status;
mod throughput_meter;
mod totals;
mod upper_bound;
mod wait_probe;
mod waits;
mod waits_for;

use allocation::{Allocation, Allocations, divide};
pub use budget::{Budget, Ceilings};
use controller::LimitController;
pub use limit_cause::LimitCause;
pub use notice::ConcurrencyNotice;
pub use observation::Observation;
use overload::{CutReport, Diagnosis, OverloadDetector};
use refusals::Refusals;
pub use status::ConcurrencyStatus;
pub(crate) use status::as_milliseconds;
use throughput_meter::ThroughputMeter;
use totals::{FleetTotals, Sample};
use wait_probe::WaitProbes;
use waits::{JITTER, Waits};
pub use waits_for::WaitsFor;

/// Pause of all requests after the first overload. Each repeated overload doubles it, up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// An overload later than this after the previous one counts as a first one.
const SAME_SERIES: Duration = Duration::from_secs(30);
/// A wait that is extended by less than this is not announced again: the origin refuses requests
/// that were in flight together one by one.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(10);
/// Interval of one worker's observations while a level is measured ([`OBSERVE_CLOSELY`]) and
/// otherwise ([`OBSERVE`]). In a large fleet it is at least [`OBSERVE_PER_WORKER`] per worker.
const OBSERVE_CLOSELY: Duration = Duration::from_millis(20);
const OBSERVE: Duration = Duration::from_millis(250);
const OBSERVE_PER_WORKER: Duration = Duration::from_millis(2);
/// Up to this number of workers the allocation is recomputed after each report.
const FEW_WORKERS: u32 = 64;

/// The state of the concurrency controller. It is owned by the dispatcher.
#[derive(Debug)]
pub struct ConcurrencyController {
    ceilings: Ceilings,
    allocations: Allocations,
    totals: FleetTotals,
    controller: LimitController,
    refusals: Refusals,
    overload_detector: OverloadDetector,
    began: Instant,
    divided_at: Instant,
    waits: Waits,
    wait_probes: WaitProbes,
    /// The end of the pause after the last overload.
    backoff_until: Instant,
    /// The later one of `backoff_until` and the end of the waits.
    pause_until: Instant,
    resumed: u64,
    backoff: Duration,
    overload: Option<Overload>,
    observe_every: Duration,
    throughput_meter: ThroughputMeter,
    overloads: u64,
    notices: Vec<ConcurrencyNotice>,
    /// The limit that was announced last.
    announced_limit: u32,
    /// The end of the wait that was announced last.
    announced_until: Instant,
    budget_generation: u64,
}

/// The last detected overload.
#[derive(Debug, Clone, Copy)]
struct Overload {
    at: Instant,
    /// Limit before the first overload of this series.
    first_limit: u32,
    lowered_to: u32,
}

impl ConcurrencyController {
    /// Starts at one connection, or at `--max-connections` if it is given.
    pub fn new(ceilings: Ceilings, now: Instant) -> Self {
        let controller = LimitController::new(ceilings.connections, now);
        Self {
            ceilings,
            allocations: Allocations::default(),
            totals: FleetTotals::default(),
            announced_limit: controller.limit(),
            announced_until: now,
            controller,
            refusals: Refusals::default(),
            overload_detector: OverloadDetector::default(),
            began: now,
            divided_at: now,
            waits: Waits::default(),
            wait_probes: WaitProbes::default(),
            backoff_until: now,
            pause_until: now,
            resumed: 0,
            backoff: FIRST_PAUSE,
            overload: None,
            observe_every: OBSERVE_CLOSELY,
            throughput_meter: ThroughputMeter::default(),
            overloads: 0,
            notices: Vec::new(),
            budget_generation: 0,
        }
    }

    /// Records a worker's report.
    pub fn record_observation(&mut self, id: SessionId, observation: &Observation, now: Instant) {
        let before = self.totals;
        // What the process did before this session was counted in an earlier session, or is no
        // longer counted.
        let allocation = self
            .allocations
            .entry(id)
            .or_insert_with(|| Allocation::of_new_session(observation));
        let last = allocation.record(*observation);
        self.totals.replace(&last, observation);
        let cuts = self.totals.cuts - before.cuts;
        let refusals = self.totals.refusals - before.refusals;
        let is_in_force = |wait: &Duration| self.waits.record(id, now + *wait, refusals > 0);
        if let Some(wait) = observation.retry_after.filter(is_in_force) {
            self.wait_reported(wait, refusals, now);
        } else if now >= self.pause_until {
            // A refusal without `Retry-After` is handled like a failed request. If the origin
            // refuses only this worker, its refusals are not evidence about the number of
            // connections.
            let is_evidence = !self.waits.affects_own_session_only(id);
            let report = CutReport {
                at: now,
                worker: id,
                cuts: cuts.saturating_add(if is_evidence { refusals } else { 0 }),
                open: before.open,
                workers: before.workers,
            };
            let limit = self.controller.limit();
            match self.overload_detector.record_report(report, limit) {
                Diagnosis::None if cuts > 0 => self.controller.postpone(self.sample(now)),
                Diagnosis::None => {}
                Diagnosis::Overload { open } => self.back_off(open, now),
                Diagnosis::Independent => self.independent_failures(now),
            }
        }
        self.update(now);
    }

    /// A worker reports a wait that is in force, and the requests that were refused with it.
    fn wait_reported(&mut self, wait: Duration, refusals: u64, now: Instant) {
        if refusals > 0 {
            self.refusals.refused(
                refusals,
                self.controller.limit(),
                self.controller.is_above_bound(),
                &self.totals,
            );
        }
        let until = now + wait;
        let is_first = refusals > 0 && now >= self.pause_until;
        if is_first || until > self.announced_until + ANNOUNCE_AGAIN {
            self.announced_until = until;
            self.notices.push(ConcurrencyNotice::Refused { rest: wait });
        }
        self.extend_pause(until);
    }

    /// A session has ended. Its allocation becomes free, and a wait that only this session reported
    /// ends.
    pub fn left(&mut self, id: SessionId, now: Instant) {
        self.budget_generation += 1;
        if self.waits.session_ended(id) {
            self.shorten_pause(now);
        }
        if let Some(allocation) = self.allocations.remove(&id) {
            self.totals
                .replace(&allocation.last, &Observation::default());
            self.controller.worker_left(self.sample(now));
            self.update(now);
        }
    }

    /// Ends the waits that the origin has asked for and returns the time left of the longest one.
    pub fn resume(&mut self, now: Instant) -> Duration {
        let until = self.waits.until().unwrap_or(now);
        self.waits.end_all();
        self.resumed += 1;
        self.shorten_pause(now);
        self.renew_all_budgets();
        self.update(now);
        until.saturating_duration_since(now)
    }

    /// Rotates allocations and samples the throughput. The caller calls it once per second.
    pub fn tick(&mut self, now: Instant) {
        self.update(now);
        self.divide(now);
    }

    /// The budget of a worker. A worker without a report has no connections.
    pub fn budget(&self, id: SessionId, now: Instant) -> Budget {
        let allocation = self.allocations.get(&id).copied().unwrap_or_default();
        Budget {
            version: allocation.version,
            connections: self.connections(id, &allocation),
            bytes_per_second: allocation.rate,
            pause: self.pause_until_of(id).saturating_duration_since(now),
            observe_every: self.observe_every,
            resumed: self.resumed,
        }
    }

    /// The longest interval of the observations of one worker.
    pub fn observation_interval(&self) -> Duration {
        self.observe_every
    }

    /// A generation number. It increases when any worker's budget changes, or its session ends.
    pub fn budget_generation(&self) -> u64 {
        self.budget_generation
    }

    /// Takes the announcements that were made since the last call.
    pub fn take_notices(&mut self) -> Vec<ConcurrencyNotice> {
        std::mem::take(&mut self.notices)
    }

    /// The state for status displays and metrics.
    pub fn status(&self, now: Instant) -> ConcurrencyStatus {
        ConcurrencyStatus {
            limit: self.controller.limit(),
            open: self.totals.open,
            wanted: self.totals.wanted,
            pause: self.pause_until.saturating_duration_since(now),
            bytes_per_second: self.throughput_meter.bytes_per_second(),
            requests: self.totals.requests,
            cuts: self.totals.cuts,
            refusals: self.totals.refusals,
            overloads: self.overloads,
        }
    }

    /// `--max-connections`; `None` without it.
    pub fn ceiling(&self) -> Option<u32> {
        self.ceilings.connections
    }

    fn sample(&self, now: Instant) -> Sample {
        Sample::of(&self.totals, now)
    }

    fn back_off(&mut self, open: u32, now: Instant) {
        let last = self.overload.filter(|last| now - last.at < SAME_SERIES);
        // If fewer connections fail again, the origin needs a longer pause. If a higher level is
        // retried and fails, the first pause is enough.
        let again = last.is_some_and(|last| open <= last.lowered_to);
        self.backoff = if again {
            (self.backoff * 2).min(LONGEST_PAUSE)
        } else {
            FIRST_PAUSE
        };
        let first_limit = last.map_or(self.controller.limit(), |last| last.first_limit);
        self.controller
            .back_off(open, again, self.backoff, self.sample(now));
        let limit = self.controller.limit();
        self.overload = Some(Overload {
            at: now,
            first_limit,
            lowered_to: limit,
        });
        self.overloads += 1;
        self.overload_detector.reset();
        self.backoff_until = now + self.backoff;
        self.extend_pause(self.backoff_until);
        self.announced_limit = limit;
        self.notices.push(ConcurrencyNotice::Overload {
            open,
            limit,
            rest: self.backoff,
        });
    }

    fn independent_failures(&mut self, now: Instant) {
        let limit = self.overload.take().map_or(1, |last| last.first_limit);
        self.controller
            .independent_failures(limit, self.sample(now));
        self.notices.push(ConcurrencyNotice::Independent);
    }

    fn extend_pause(&mut self, until: Instant) {
        if until > self.pause_until + JITTER {
            self.pause_until = until;
            self.renew_all_budgets();
        }
    }

    /// Recomputes the end of the pause after waits have ended early.
    fn shorten_pause(&mut self, now: Instant) {
        let wait = self.waits.until().unwrap_or(now);
        let until = wait.max(self.backoff_until).max(now);
        if until + JITTER < self.pause_until {
            let rest = self.pause_until - until;
            self.pause_until = until;
            self.announced_until = until;
            self.notices.push(ConcurrencyNotice::EndedEarly { rest });
            self.renew_all_budgets();
        }
    }

    fn renew_all_budgets(&mut self) {
        for allocation in self.allocations.values_mut() {
            allocation.version += 1;
        }
        self.budget_generation += 1;
    }

    fn update(&mut self, now: Instant) {
        self.probe_waits(now);
        let sample = self.sample(now);
        self.throughput_meter.record_sample(sample);
        if let Some(limit) = self
            .refusals
            .record_totals(self.controller.limit(), &self.totals)
        {
            self.controller.lower(limit);
        }
        if now >= self.pause_until {
            if let Some(after) = self.refusals.ended(&self.totals) {
                self.controller.wait_ended(after, sample);
            }
            self.controller.record_sample(sample, self.observe_every);
        }
        let limit = self.controller.limit();
        if limit != self.announced_limit && !self.controller.is_measuring(&self.totals) {
            self.announced_limit = limit;
            let cause = self.controller.cause();
            self.notices.push(ConcurrencyNotice::Limit { limit, cause });
        }
        // In a large fleet the allocation is not recomputed for each report.
        let workers = u32::try_from(self.allocations.len()).unwrap_or(u32::MAX);
        let slowest = OBSERVE_PER_WORKER * workers;
        if workers <= FEW_WORKERS || now - self.divided_at >= slowest {
            self.divide(now);
        }
        let often = if self.controller.is_measuring(&self.totals) {
            OBSERVE_CLOSELY
        } else {
            OBSERVE
        };
        let every = often.max(slowest);
        if every > self.observe_every * 3 / 2 || every * 3 / 2 < self.observe_every {
            self.observe_every = every;
            self.renew_all_budgets();
        }
    }

    fn divide(&mut self, now: Instant) {
        self.divided_at = now;
        let limit = self.controller.limit();
        let rate = self.ceilings.bytes_per_second;
        if divide(&mut self.allocations, limit, rate, now - self.began) {
            self.budget_generation += 1;
        }
    }
}

#[cfg(test)]
mod tests;

//! Finds the number of connections that gives the best throughput. It raises the limit as long as
//! more connections bring more bytes, and remembers the level at which the origin failed. No I/O, no clock.
//!
//! The controller holds a level of connections until all of them receive a body, measures the
//! throughput, and compares it with the level below. If an added connection brings as much as the
//! existing ones, the next level has a multiple of the connections; if it brings little, the level
//! is held; if it brings nothing, the controller returns to the level below. An origin with a total
//! rate is thus used with two connections, and an origin with a rate per connection with all
//! connections that the workers want, without provoking failures. After a hold the next level is
//! measured again, because origins change.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    refusals::{After, Lower},
    upper_bound::UpperBound,
};
use crate::concurrency::totals::{FleetTotals, Sample, per_second};

mod measurement;

use measurement::{ENOUGH_BYTES, SHORTEST_WINDOW};

/// The limit is raised further if each added connection brings at least this fraction of what an
/// existing connection brought.
const MIN_GAIN: f64 = 0.25;
/// Factors from one level to the next, by the gain of this level: `(minimum gain, factor)`.
const STEPS: [(f64, f64); 3] = [(0.8, 4.0), (0.6, 2.0), (MIN_GAIN, SMALL_STEP)];
/// Factor to the next level before one has been measured.
const FIRST_STEP: f64 = 2.0;
/// Factor between levels of a fast origin: two connections, then eight, then all.
const FAST_STEP: f64 = 4.0;
/// The smallest factor. Also used while an upper bound is known.
const SMALL_STEP: f64 = 1.25;
/// Time for which a level without gain is held at first. It doubles each time, up to
/// [`LONGEST_HOLD`].
const FIRST_HOLD: Duration = Duration::from_millis(300);
const LONGEST_HOLD: Duration = Duration::from_secs(20);
/// Interval at which the throughput of a held level is checked. A change by more than
/// [`RATE_CHANGE`] ends the hold.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const RATE_CHANGE: f64 = 1.0 / 3.0;
/// A single connection pauses between two tars. A second connection uses these pauses.
const PARALLEL_MINIMUM: u32 = 2;

/// A number of connections and its measured throughput.
#[derive(Debug, Clone, Copy)]
struct Level {
    connections: u32,
    /// Bytes per second.
    rate: f64,
}

/// The phase of the current level.
#[derive(Debug, Clone, Copy)]
enum LevelPhase {
    /// Waits until the level is reached and each worker has reported once at its former interval.
    Settling {
        since: Sample,
        report_interval: Duration,
    },
    /// The level is reached. It is measured after the warm-up, for at least `least`.
    Measuring {
        /// When the settling phase of this level began.
        since: Sample,
        from: Sample,
        begins: Instant,
        least: Duration,
    },
    /// Holds the level until `until`, and checks its throughput meanwhile.
    Holding {
        until: Instant,
        checked: Sample,
        rate: Option<f64>,
    },
}

/// The controller of the fleet's limit: the level, its measurement, and the levels before it.
#[derive(Debug)]
pub(super) struct LimitController {
    limit: u32,
    ceiling: Option<u32>,
    /// The most connections that were wanted at once. A slot between two tars wants none for a
    /// moment.
    most_wanted: u32,
    phase: LevelPhase,
    /// The level below this one, once it is measured.
    below: Option<Level>,
    /// Factor from this level to the next one.
    step: f64,
    hold: Duration,
    upper_bound: Option<UpperBound>,
    /// The level at which throughput dropped to zero.
    stalled_at: Option<u32>,
}

impl LimitController {
    /// Starts at one connection, or at the ceiling if there is one.
    pub(super) fn new(ceiling: Option<u32>, now: Instant) -> Self {
        Self {
            limit: ceiling.unwrap_or(1).max(1),
            ceiling,
            most_wanted: 1,
            phase: LevelPhase::Settling {
                since: Sample::of(&FleetTotals::default(), now),
                report_interval: Duration::ZERO,
            },
            stalled_at: None,
            below: None,
            step: FIRST_STEP,
            hold: FIRST_HOLD,
            upper_bound: None,
        }
    }

    /// Connections allowed to all workers together.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The highest level that is known to be served, while it is remembered.
    pub(super) fn upper_bound(&self, now: Instant) -> Option<u32> {
        self.upper_bound
            .and_then(|upper_bound| upper_bound.remembered(now))
    }

    /// Whether a level is being measured, so that workers must report often.
    pub(super) fn is_measuring(&self, totals: &FleetTotals) -> bool {
        totals.wanted > self.limit && !matches!(self.phase, LevelPhase::Holding { .. })
    }

    /// Takes the fleet's totals. Each worker reports at least once per `report_interval`.
    pub(super) fn observed(
        &mut self,
        totals: &FleetTotals,
        report_interval: Duration,
        now: Instant,
    ) {
        self.most_wanted = self.most_wanted.max(totals.wanted);
        // If the workers have all connections that they want, more of them cannot be measured.
        let is_limited = totals.wanted > self.limit;
        let sample = Sample::of(totals, now);
        match self.phase {
            LevelPhase::Settling {
                report_interval, ..
            } if !is_limited => {
                self.phase = LevelPhase::Settling {
                    since: sample,
                    report_interval,
                };
            }
            LevelPhase::Measuring { .. } if !is_limited => {
                self.phase = LevelPhase::Settling {
                    since: sample,
                    report_interval,
                }
            }
            LevelPhase::Settling { since, .. } | LevelPhase::Measuring { from: since, .. }
                if since.is_stalled(totals, now) =>
            {
                self.add_after_stall(sample, report_interval);
            }
            LevelPhase::Settling { since, .. } | LevelPhase::Measuring { since, .. }
                if self.is_fast(since, totals, now) =>
            {
                self.measured(since.rate(totals, now), sample, report_interval);
            }
            LevelPhase::Settling { since, .. } | LevelPhase::Measuring { since, .. }
                if self.is_single_and_fast(since, totals, now) =>
            {
                // The measurement starts anew with two connections: the first MiB of a connection
                // does not predict the rate of others.
                self.limit = PARALLEL_MINIMUM;
                self.phase = LevelPhase::Settling {
                    since: sample,
                    report_interval,
                };
            }
            LevelPhase::Settling {
                since,
                report_interval: before,
            } => {
                if let Some(warm_up) = self.warm_up(since, before.max(report_interval), totals, now)
                {
                    self.phase = LevelPhase::Measuring {
                        since,
                        from: sample,
                        begins: now + warm_up,
                        least: warm_up,
                    };
                }
            }
            // The connections of this level are still in TCP slow start.
            LevelPhase::Measuring {
                since,
                from,
                begins,
                least,
            } if from.at < begins => {
                if now >= begins {
                    self.phase = LevelPhase::Measuring {
                        since,
                        from: sample,
                        begins: now,
                        least,
                    };
                }
            }
            LevelPhase::Measuring { from, least, .. } => {
                let bytes = totals.received.saturating_sub(from.received);
                let time = now - from.at;
                let is_long = time >= self.window(totals, report_interval).max(least);
                let is_enough_received = self.step() >= 2.0
                    && bytes >= ENOUGH_BYTES
                    && time >= SHORTEST_WINDOW.max(least);
                if bytes > 0 && (is_long || is_enough_received) {
                    self.measured(per_second(bytes, time), sample, report_interval);
                }
            }
            LevelPhase::Holding {
                until,
                checked,
                rate,
            } => {
                self.check_hold(until, checked, rate, is_limited, sample, report_interval);
            }
        }
    }

    /// No connection receives data: allows one more, up to twice as many.
    fn add_after_stall(&mut self, sample: Sample, report_interval: Duration) {
        let most = self.stalled_at.get_or_insert(self.limit).saturating_mul(2);
        self.limit = (self.limit + 1)
            .min(most)
            .min(self.highest(sample.at))
            .max(self.limit);
        (self.below, self.step) = (None, FIRST_STEP);
        self.phase = LevelPhase::Settling {
            since: sample,
            report_interval,
        };
    }

    /// Factor from the level below to this one or, if the level below is not measured, from this
    /// one to the next.
    fn step(&self) -> f64 {
        self.below.map_or(self.step, |below| {
            f64::from(self.limit) / f64::from(below.connections)
        })
    }

    fn check_hold(
        &mut self,
        until: Instant,
        checked: Sample,
        rate: Option<f64>,
        is_limited: bool,
        sample: Sample,
        report_interval: Duration,
    ) {
        if is_limited && sample.at >= until {
            // This level is measured again before the next one, so that both are measured under the
            // same conditions.
            (self.below, self.step) = (None, SMALL_STEP);
            self.phase = LevelPhase::Settling {
                since: sample,
                report_interval,
            };
            return;
        }
        let time = sample.at - checked.at;
        if time < RATE_CHECK_INTERVAL {
            return;
        }
        let now_rate = per_second(sample.received.saturating_sub(checked.received), time);
        let has_changed = rate.is_some_and(|rate| (now_rate - rate).abs() > rate * RATE_CHANGE);
        let until = if has_changed && is_limited {
            sample.at
        } else {
            until
        };
        self.phase = LevelPhase::Holding {
            until,
            checked: sample,
            rate: Some(now_rate),
        };
    }

    fn measured(&mut self, rate: f64, sample: Sample, report_interval: Duration) {
        self.stalled_at = None;
        let level = Level {
            connections: self.limit,
            rate,
        };
        if let Some(upper_bound) = &mut self.upper_bound {
            upper_bound.raise(self.limit);
        }
        let below = self.below.replace(level);
        if rate >= self.fast_rate() {
            (self.step, self.hold) = (FAST_STEP, FIRST_HOLD);
            return self.raise(sample, report_interval);
        }
        let Some(below) = below else {
            if self.limit == PARALLEL_MINIMUM && self.upper_bound.is_none() {
                // The level below was skipped without a measurement, so two connections may already
                // be the maximum.
                self.step = SMALL_STEP;
            }
            return self.raise(sample, report_interval);
        };
        let gain = (rate / below.rate - 1.0)
            / (f64::from(self.limit) / f64::from(below.connections) - 1.0);
        tracing::debug!(
            self.limit,
            rate,
            gain,
            "a level of connections was measured"
        );
        if let Some((_, step)) = STEPS.into_iter().find(|(enough, _)| gain >= *enough) {
            (self.step, self.hold) = (step, FIRST_HOLD);
            return self.raise(sample, report_interval);
        }
        self.below = Some(below);
        self.limit = below
            .connections
            .max(PARALLEL_MINIMUM)
            .min(self.highest(sample.at));
        self.hold(sample);
    }

    fn raise(&mut self, sample: Sample, report_interval: Duration) {
        let step = if self.upper_bound.is_some() {
            SMALL_STEP
        } else {
            self.step
        };
        let next = times(self.limit, step)
            .min(self.highest(sample.at))
            .min(self.most_wanted);
        if next <= self.limit {
            return self.hold(sample);
        }
        self.limit = next;
        self.phase = LevelPhase::Settling {
            since: sample,
            report_interval,
        };
    }

    fn hold(&mut self, sample: Sample) {
        self.phase = LevelPhase::Holding {
            until: sample.at + self.hold,
            checked: sample,
            rate: None,
        };
        self.hold = (self.hold * 2).min(LONGEST_HOLD);
    }

    fn highest(&self, now: Instant) -> u32 {
        let bound = self
            .upper_bound
            .map_or(u32::MAX, |upper_bound| upper_bound.highest(now));
        self.ceiling.unwrap_or(u32::MAX).min(bound)
    }

    /// Lowers the limit after an overload with `open` connections: to the level below if it is
    /// measured, otherwise to half. It is held for `pause` and a hold; levels above are avoided for
    /// a while and then tried in small steps. After a repeated overload (`again`) one connection is
    /// left, which shows soonest whether the number of connections is the cause.
    pub(super) fn back_off(
        &mut self,
        open: u32,
        again: bool,
        pause: Duration,
        totals: &FleetTotals,
        now: Instant,
    ) {
        // While a level is being reached, the reports do not show yet how many connections are
        // open.
        let open = if matches!(self.phase, LevelPhase::Settling { .. }) {
            self.limit
        } else {
            open
        };
        let too_many = open.clamp(1, self.limit);
        self.upper_bound = Some(UpperBound::new(
            (too_many - 1).max(1),
            self.upper_bound,
            now,
        ));
        let served = self
            .below
            .take()
            .map(|level| level.connections)
            .filter(|served| *served < too_many);
        self.limit = if again {
            1
        } else {
            served.unwrap_or(too_many / 2).max(1)
        };
        self.hold = (self.hold * 2).clamp(FIRST_HOLD * 4, LONGEST_HOLD);
        let checked = Sample::of(totals, now);
        self.phase = LevelPhase::Holding {
            until: now + pause + self.hold,
            checked,
            rate: None,
        };
    }

    /// Whether the limit is above the known upper bound, because a higher level is being retried.
    pub(super) fn is_above_bound(&self) -> bool {
        self.upper_bound
            .is_some_and(|upper_bound| upper_bound.is_exceeded_by(self.limit))
    }

    /// Lowers the limit until [`LimitController::wait_ended`].
    pub(super) fn lower(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// The wait of a refusal is over: returns to the level before it, or to a lower one.
    pub(super) fn wait_ended(&mut self, after: After, totals: &FleetTotals, now: Instant) {
        let checked = Sample::of(totals, now);
        if let After::Lower(Lower { limit, highest }) = after {
            self.upper_bound = Some(UpperBound::new(highest, self.upper_bound, now));
            self.limit = limit;
            (self.below, self.hold) = (None, FIRST_HOLD);
            return self.hold(checked);
        }
        self.phase = match self.phase {
            LevelPhase::Holding { until, .. } => LevelPhase::Holding {
                until,
                checked,
                rate: None,
            },
            _ => LevelPhase::Settling {
                since: checked,
                report_interval: Duration::ZERO,
            },
        };
    }

    /// A worker has left, so measurements that included it are no longer valid.
    pub(super) fn worker_left(&mut self, totals: &FleetTotals, now: Instant) {
        self.most_wanted = totals.wanted.max(1);
        if self.upper_bound.is_none() {
            (self.below, self.step, self.hold) = (None, FIRST_STEP, FIRST_HOLD);
            self.phase = LevelPhase::Settling {
                since: Sample::of(totals, now),
                report_interval: Duration::ZERO,
            };
        }
    }

    /// A request failed on the only connection. A second connection waits until the cause is known.
    pub(super) fn postpone(&mut self, totals: &FleetTotals, now: Instant) {
        if self.limit == 1 && self.upper_bound.is_some() {
            let checked = Sample::of(totals, now);
            self.phase = LevelPhase::Holding {
                until: now + RATE_CHECK_INTERVAL * 2,
                checked,
                rate: None,
            };
        }
    }

    /// The failures do not depend on the number of connections: returns to the limit before them.
    pub(super) fn independent_failures(&mut self, to: u32, totals: &FleetTotals, now: Instant) {
        self.upper_bound = None;
        self.limit = self.limit.max(to);
        (self.below, self.step, self.hold) = (None, FIRST_STEP, FIRST_HOLD);
        self.phase = LevelPhase::Settling {
            since: Sample::of(totals, now),
            report_interval: Duration::ZERO,
        };
    }
}

/// Multiplies, and adds at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and is positive"
)]
fn times(limit: u32, step: f64) -> u32 {
    ((f64::from(limit) * step) as u32).max(limit.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::measurement::{IMMEDIATE_STEP_BYTES, SECOND_CONNECTION_BYTES};
    use super::*;

    /// The limit after `seconds` in which all allowed connections are open and receive nothing.
    fn limit_after(controller: &mut LimitController, seconds: u32, start: Instant) -> u32 {
        for tenth in 0..seconds * 10 {
            let open = controller.limit();
            let totals = FleetTotals {
                open,
                flowing: open,
                wanted: 5,
                received: 20_000,
                requests: 5,
                workers: 1,
            };
            controller.observed(
                &totals,
                Duration::from_millis(100),
                start + Duration::from_millis(100) * tenth,
            );
        }
        controller.limit()
    }

    /// The limit after one connection has received `received` bytes within `within`.
    fn limit_with(received: u64, within: Duration, workers: usize) -> u32 {
        let start = Instant::now();
        let mut controller = LimitController::new(None, start);
        let first_request = FleetTotals {
            open: 1,
            wanted: 10,
            requests: 1,
            workers,
            ..FleetTotals::default()
        };
        controller.observed(&first_request, Duration::from_millis(20), start);
        controller.observed(
            &FleetTotals {
                flowing: 1,
                received,
                ..first_request
            },
            Duration::from_millis(20),
            start + within,
        );
        controller.limit()
    }

    #[test]
    fn a_fast_origin_raises_the_limit_without_a_full_window() {
        let soon = Duration::from_millis(10);
        assert_eq!(limit_with(IMMEDIATE_STEP_BYTES, soon, 1), 4);
        assert_eq!(
            limit_with(IMMEDIATE_STEP_BYTES - 1, soon, 1),
            2,
            "the first connection is fast enough for a second one"
        );
        assert_eq!(limit_with(SECOND_CONNECTION_BYTES, soon, 1), 2);
        assert_eq!(
            limit_with(SECOND_CONNECTION_BYTES - 1, soon, 1),
            1,
            "bytes from the origin's buffers are not a rate"
        );
        assert_eq!(
            limit_with(IMMEDIATE_STEP_BYTES, Duration::from_millis(50), 1),
            1,
            "the rate is below 100 MB/s"
        );
        assert_eq!(
            limit_with(IMMEDIATE_STEP_BYTES, soon, 2),
            1,
            "counters of several workers are not all current"
        );
    }

    #[test]
    fn bytes_received_before_the_measurement_count() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(20);
        let mut controller = LimitController::new(None, start);
        let first_request = FleetTotals {
            open: 1,
            wanted: 10,
            requests: 1,
            workers: 1,
            ..FleetTotals::default()
        };
        controller.observed(&first_request, report_interval, start);
        controller.observed(
            &FleetTotals {
                flowing: 1,
                received: SECOND_CONNECTION_BYTES - 1,
                ..first_request
            },
            report_interval,
            start + report_interval,
        );
        assert!(
            matches!(controller.phase, LevelPhase::Measuring { .. }) && controller.limit() == 1
        );
        controller.observed(
            &FleetTotals {
                flowing: 1,
                received: IMMEDIATE_STEP_BYTES,
                ..first_request
            },
            report_interval,
            start + report_interval * 3 / 2,
        );
        assert_eq!(controller.limit(), 4);
    }

    #[test]
    fn a_fast_shared_link_raises_the_limit_from_eight_to_all_wanted_connections() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(20);
        let limit_at = |rate: u64| {
            let mut controller = LimitController::new(None, start);
            let mut totals = FleetTotals {
                open: 1,
                flowing: 1,
                wanted: 10,
                requests: 1,
                workers: 1,
                ..FleetTotals::default()
            };
            controller.observed(&totals, report_interval, start);
            for (pause, milliseconds) in [(0, 10), (1, 30)] {
                // One of the connections is between two tars.
                (totals.open, totals.flowing, totals.wanted) =
                    (controller.limit(), controller.limit(), 10 - pause);
                totals.requests = u64::from(controller.limit());
                totals.received = milliseconds * rate / 1000;
                controller.observed(
                    &totals,
                    report_interval,
                    start + Duration::from_millis(milliseconds),
                );
            }
            controller.limit()
        };
        assert_eq!(limit_at(600_000_000), 10);
        assert!(
            limit_at(90_000_000) < 8,
            "90 MB/s over eight connections is not fast"
        );
    }

    #[test]
    fn the_demand_of_a_worker_that_left_does_not_raise_the_limit() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(20);
        let mut controller = LimitController::new(None, start);
        controller.observed(
            &FleetTotals {
                wanted: 100,
                workers: 2,
                ..FleetTotals::default()
            },
            report_interval,
            start,
        );
        let left = FleetTotals {
            open: 1,
            wanted: 3,
            requests: 1,
            workers: 1,
            ..FleetTotals::default()
        };
        controller.worker_left(&left, start);
        controller.observed(
            &FleetTotals {
                flowing: 1,
                received: IMMEDIATE_STEP_BYTES,
                ..left
            },
            report_interval,
            start + report_interval / 2,
        );
        assert_eq!(controller.limit(), 3);
    }

    #[test]
    fn stalled_connections_do_not_block_other_transfers() {
        let start = Instant::now();
        assert_eq!(
            limit_after(&mut LimitController::new(None, start), 1, start),
            1
        );
        assert!((2..=3).contains(&limit_after(
            &mut LimitController::new(None, start),
            5,
            start
        )));
        assert_eq!(
            limit_after(&mut LimitController::new(Some(2), start), 60, start),
            2,
            "the ceiling is never exceeded"
        );
    }

    #[test]
    fn only_a_first_connection_opens_a_second_one_within_the_ceiling() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(20);
        for ceiling in [1, 8] {
            let mut controller = LimitController::new(Some(ceiling), start);
            let first_request = FleetTotals {
                open: 1,
                wanted: 10,
                requests: 1,
                workers: 1,
                ..FleetTotals::default()
            };
            controller.observed(&first_request, report_interval, start);
            controller.observed(
                &FleetTotals {
                    flowing: 1,
                    received: SECOND_CONNECTION_BYTES,
                    ..first_request
                },
                report_interval,
                start + report_interval / 2,
            );
            assert_eq!(controller.limit(), ceiling);
        }
    }

    #[test]
    fn a_fast_connection_does_not_retry_a_level_that_failed() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(20);
        let mut controller = LimitController::new(None, start);
        let totals = FleetTotals {
            open: 1,
            flowing: 1,
            wanted: 10,
            requests: 1,
            workers: 1,
            ..FleetTotals::default()
        };
        controller.limit = 4;
        controller.back_off(4, true, Duration::ZERO, &totals, start);
        let later = start + Duration::from_secs(5);
        controller.observed(&totals, report_interval, later);
        controller.observed(
            &FleetTotals {
                received: SECOND_CONNECTION_BYTES,
                ..totals
            },
            report_interval,
            later + report_interval / 2,
        );
        assert_eq!(controller.limit(), 1);
    }

    #[test]
    fn a_second_connection_opens_while_the_first_is_measured() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(4);
        let mut controller = LimitController::new(None, start);
        let first_request = FleetTotals {
            open: 1,
            wanted: 10,
            requests: 1,
            workers: 1,
            ..FleetTotals::default()
        };
        controller.observed(&first_request, report_interval, start);
        controller.observed(
            &FleetTotals {
                flowing: 1,
                received: SECOND_CONNECTION_BYTES - 1,
                ..first_request
            },
            report_interval,
            start + report_interval,
        );
        assert!(matches!(controller.phase, LevelPhase::Measuring { .. }));
        controller.observed(
            &FleetTotals {
                flowing: 1,
                received: SECOND_CONNECTION_BYTES,
                ..first_request
            },
            report_interval,
            start + report_interval * 2,
        );
        assert_eq!(controller.limit(), 2);
    }

    #[test]
    fn bytes_of_the_first_connection_do_not_count_for_two() {
        let start = Instant::now();
        let mut controller = LimitController::new(None, start);
        let totals = FleetTotals {
            open: 1,
            flowing: 1,
            wanted: 10,
            requests: 1,
            workers: 1,
            ..FleetTotals::default()
        };
        for (received, milliseconds) in [
            (0, 0),
            (SECOND_CONNECTION_BYTES, 1),
            (IMMEDIATE_STEP_BYTES, 20),
        ] {
            controller.observed(
                &FleetTotals { received, ..totals },
                Duration::from_millis(20),
                start + Duration::from_millis(milliseconds),
            );
        }
        assert_eq!(controller.limit(), 2);
    }
}

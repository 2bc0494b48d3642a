//! Finds the number of connections that gives the best throughput. It raises the limit as long as
//! more connections bring more bytes, and remembers the level at which the origin failed. No I/O,
//! no clock.
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

use super::{LimitCause, upper_bound::UpperBound};
use crate::concurrency::totals::{FleetTotals, Sample};

mod measurement;
mod setbacks;

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
    /// Why `limit` has changed last.
    cause: LimitCause,
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
    /// Each worker reports at least once in this time.
    report_interval: Duration,
}

impl LimitController {
    /// Starts at one connection, or at the ceiling if there is one.
    pub(super) fn new(ceiling: Option<u32>, now: Instant) -> Self {
        Self {
            limit: ceiling.unwrap_or(1).max(1),
            cause: LimitCause::Ceiling,
            ceiling,
            most_wanted: 1,
            phase: LevelPhase::Settling {
                since: Sample::of(&FleetTotals::default(), now),
                report_interval: Duration::ZERO,
            },
            below: None,
            step: FIRST_STEP,
            hold: FIRST_HOLD,
            upper_bound: None,
            stalled_at: None,
            report_interval: Duration::ZERO,
        }
    }

    /// Connections allowed to all workers together.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Why the limit is what it is. Applies once no level is being measured.
    pub(super) fn cause(&self) -> LimitCause {
        self.cause
    }

    /// Whether a level is being measured, so that workers must report often.
    pub(super) fn is_measuring(&self, totals: &FleetTotals) -> bool {
        self.is_limited(totals) && !matches!(self.phase, LevelPhase::Holding { .. })
    }

    /// Takes the fleet's totals. Each worker reports at least once per `report_interval`.
    pub(super) fn record_sample(&mut self, sample: Sample, report_interval: Duration) {
        let totals = &sample.totals;
        self.most_wanted = self.most_wanted.max(totals.wanted);
        self.report_interval = report_interval;
        match self.phase {
            LevelPhase::Settling { .. } | LevelPhase::Measuring { .. }
                if !self.is_limited(totals) =>
            {
                self.wait_for_demand(sample);
            }
            LevelPhase::Settling { since, .. } | LevelPhase::Measuring { from: since, .. }
                if since.is_stalled(&sample) =>
            {
                self.add_after_stall(sample);
            }
            LevelPhase::Settling { since, .. } | LevelPhase::Measuring { since, .. }
                if self.is_fast(since, &sample) =>
            {
                self.measured(since.rate(&sample), sample);
            }
            LevelPhase::Settling { since, .. } | LevelPhase::Measuring { since, .. }
                if self.is_single_and_fast(since, &sample) =>
            {
                // The measurement starts anew with two connections: the first MiB of a connection
                // does not predict the rate of others.
                self.try_level(PARALLEL_MINIMUM, sample);
            }
            LevelPhase::Settling {
                since,
                report_interval: before,
            } => {
                if let Some(warm_up) = self.warm_up(since, before.max(report_interval), &sample) {
                    self.phase = LevelPhase::Measuring {
                        since,
                        from: sample,
                        begins: sample.at + warm_up,
                        least: warm_up,
                    };
                }
            }
            // The connections of this level are still in TCP slow start.
            LevelPhase::Measuring {
                ref mut from,
                ref mut begins,
                ..
            } if from.at < *begins => {
                if sample.at >= *begins {
                    (*from, *begins) = (sample, sample.at);
                }
            }
            LevelPhase::Measuring { from, least, .. } => {
                let bytes = from.bytes_until(&sample);
                let time = sample.at - from.at;
                let is_long = time >= self.window(totals).max(least);
                let is_enough_received = self.step() >= 2.0
                    && bytes >= ENOUGH_BYTES
                    && time >= SHORTEST_WINDOW.max(least);
                if bytes > 0 && (is_long || is_enough_received) {
                    self.measured(from.rate(&sample), sample);
                }
            }
            LevelPhase::Holding {
                until,
                checked,
                rate,
            } => self.check_hold(until, checked, rate, sample),
        }
    }

    /// Whether the workers want more connections than they have. Otherwise more connections cannot
    /// be measured.
    fn is_limited(&self, totals: &FleetTotals) -> bool {
        totals.wanted > self.limit
    }

    fn settle(&mut self, since: Sample) {
        self.phase = LevelPhase::Settling {
            since,
            report_interval: self.report_interval,
        };
    }

    /// Settles without regard to a former report interval.
    fn settle_now(&mut self, since: Sample) {
        self.phase = LevelPhase::Settling {
            since,
            report_interval: Duration::ZERO,
        };
    }

    /// Settles again from now on, and waits for the former report interval if it was longer.
    fn wait_for_demand(&mut self, sample: Sample) {
        if let LevelPhase::Settling { since, .. } = &mut self.phase {
            *since = sample;
        } else {
            self.settle(sample);
        }
    }

    /// No connection receives data: allows one more, up to twice as many.
    fn add_after_stall(&mut self, sample: Sample) {
        let most = self.stalled_at.get_or_insert(self.limit).saturating_mul(2);
        let limit = (self.limit + 1).min(most).min(self.highest(sample.at));
        if limit > self.limit {
            self.change(limit, LimitCause::Stalled);
        }
        (self.below, self.step) = (None, FIRST_STEP);
        self.settle(sample);
    }

    /// Factor from the level below to this one or, if the level below is not measured, from this
    /// one to the next.
    fn step(&self) -> f64 {
        self.below.map_or(self.step, |below| {
            f64::from(self.limit) / f64::from(below.connections)
        })
    }

    fn check_hold(&mut self, until: Instant, checked: Sample, rate: Option<f64>, sample: Sample) {
        let is_limited = self.is_limited(&sample.totals);
        if is_limited && sample.at >= until {
            // This level is measured again before the next one, so that both are measured under the
            // same conditions.
            (self.below, self.step) = (None, SMALL_STEP);
            self.settle(sample);
        } else if sample.at - checked.at >= RATE_CHECK_INTERVAL {
            let now_rate = checked.rate(&sample);
            let has_changed = rate.is_some_and(|rate| (now_rate - rate).abs() > rate * RATE_CHANGE);
            self.phase = LevelPhase::Holding {
                until: if has_changed && is_limited {
                    sample.at
                } else {
                    until
                },
                checked: sample,
                rate: Some(now_rate),
            };
        }
    }

    fn measured(&mut self, rate: f64, sample: Sample) {
        self.stalled_at = None;
        if let Some(upper_bound) = &mut self.upper_bound {
            upper_bound.raise(self.limit);
        }
        let below = self.below.replace(Level {
            connections: self.limit,
            rate,
        });
        if rate >= self.fast_rate() {
            (self.step, self.hold) = (FAST_STEP, FIRST_HOLD);
            return self.raise(sample);
        }
        let Some(below) = below else {
            if self.limit == PARALLEL_MINIMUM && self.upper_bound.is_none() {
                // The level below was skipped without a measurement, so two connections may already
                // be the maximum.
                self.step = SMALL_STEP;
            }
            return self.raise(sample);
        };
        let more_connections = f64::from(self.limit) / f64::from(below.connections) - 1.0;
        let gain = (rate / below.rate - 1.0) / more_connections;
        tracing::debug!(
            self.limit,
            rate,
            gain,
            "a level of connections was measured"
        );
        if let Some((_, step)) = STEPS.into_iter().find(|(enough, _)| gain >= *enough) {
            (self.step, self.hold) = (step, FIRST_HOLD);
            return self.raise(sample);
        }
        self.below = Some(below);
        let tried = self.limit;
        let limit = below
            .connections
            .max(PARALLEL_MINIMUM)
            .min(self.highest(sample.at));
        let cause = if limit < tried {
            LimitCause::NoGain { tried }
        } else {
            LimitCause::SecondConnection
        };
        self.change(limit, cause);
        self.hold(sample);
    }

    fn raise(&mut self, sample: Sample) {
        let step = if self.upper_bound.is_some() {
            SMALL_STEP
        } else {
            self.step
        };
        let next = times(self.limit, step)
            .min(self.highest(sample.at))
            .min(self.most_wanted);
        if next <= self.limit {
            self.cause = self.bound(sample.at);
            return self.hold(sample);
        }
        self.try_level(next, sample);
    }

    /// Allows more connections, to measure their throughput. As long as the workers want more, the
    /// measurement gives the limit its cause; before it only a lack of demand ends the attempt.
    fn try_level(&mut self, limit: u32, sample: Sample) {
        self.change(limit, LimitCause::Demand);
        self.settle(sample);
    }

    fn change(&mut self, limit: u32, cause: LimitCause) {
        self.limit = limit;
        self.cause = cause;
    }

    /// What keeps the limit from being raised.
    fn bound(&self, now: Instant) -> LimitCause {
        if self.ceiling.is_some_and(|ceiling| ceiling <= self.limit) {
            LimitCause::Ceiling
        } else if self.highest(now) <= self.limit {
            LimitCause::UpperBound
        } else {
            LimitCause::Demand
        }
    }

    fn hold(&mut self, sample: Sample) {
        self.hold_until(sample.at + self.hold, sample);
        self.hold = (self.hold * 2).min(LONGEST_HOLD);
    }

    fn hold_until(&mut self, until: Instant, checked: Sample) {
        self.phase = LevelPhase::Holding {
            until,
            checked,
            rate: None,
        };
    }

    fn highest(&self, now: Instant) -> u32 {
        let bound = self
            .upper_bound
            .map_or(u32::MAX, |upper_bound| upper_bound.highest(now));
        self.ceiling.unwrap_or(u32::MAX).min(bound)
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

    impl LimitController {
        fn reported(&mut self, totals: &FleetTotals, report_interval: Duration, now: Instant) {
            self.record_sample(Sample::of(totals, now), report_interval);
        }
    }

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
                ..FleetTotals::default()
            };
            controller.reported(
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
        controller.reported(&first_request, Duration::from_millis(20), start);
        controller.reported(
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
        controller.reported(&first_request, report_interval, start);
        controller.reported(
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
        controller.reported(
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
            controller.reported(&totals, report_interval, start);
            for (pause, milliseconds) in [(0, 10), (1, 30)] {
                // One of the connections is between two tars.
                (totals.open, totals.flowing, totals.wanted) =
                    (controller.limit(), controller.limit(), 10 - pause);
                totals.requests = u64::from(controller.limit());
                totals.received = milliseconds * rate / 1000;
                controller.reported(
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
        controller.reported(
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
        controller.worker_left(Sample::of(&left, start));
        controller.reported(
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
    fn totals_that_went_back_do_not_overflow() {
        let start = Instant::now();
        let report_interval = Duration::from_millis(20);
        let mut controller = LimitController::new(None, start);
        let totals = |received, requests| FleetTotals {
            open: 1,
            wanted: 10,
            received,
            requests,
            workers: 1,
            ..FleetTotals::default()
        };
        controller.worker_left(Sample::of(&totals(100, 100), start));
        controller.reported(&totals(50, 50), report_interval, start + report_interval);
        assert_eq!(controller.limit(), 1);
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
            controller.reported(&first_request, report_interval, start);
            controller.reported(
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
        controller.back_off(4, true, Duration::ZERO, Sample::of(&totals, start));
        let later = start + Duration::from_secs(5);
        controller.reported(&totals, report_interval, later);
        controller.reported(
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
        controller.reported(&first_request, report_interval, start);
        controller.reported(
            &FleetTotals {
                flowing: 1,
                received: SECOND_CONNECTION_BYTES - 1,
                ..first_request
            },
            report_interval,
            start + report_interval,
        );
        assert!(matches!(controller.phase, LevelPhase::Measuring { .. }));
        controller.reported(
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
            controller.reported(
                &FleetTotals { received, ..totals },
                Duration::from_millis(20),
                start + Duration::from_millis(milliseconds),
            );
        }
        assert_eq!(controller.limit(), 2);
    }
}

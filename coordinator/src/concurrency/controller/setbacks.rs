//! The limit after overloads, refusals, independent failures, and the departure of a worker.

use std::time::Duration;

use super::{
    FIRST_HOLD, FIRST_STEP, LONGEST_HOLD, LevelPhase, LimitController, RATE_CHECK_INTERVAL,
};
use crate::concurrency::{
    LimitCause, refusals::AfterBurst, totals::Sample, upper_bound::UpperBound,
};

impl LimitController {
    /// Lowers the limit after an overload with `open` connections: to the level below if it is
    /// measured, otherwise to half. It is held for `pause` and a hold; levels above are avoided for
    /// a while and then tried in small steps. After a repeated overload (`again`) one connection is
    /// left, which shows soonest whether the number of connections is the cause.
    pub(crate) fn back_off(&mut self, open: u32, again: bool, pause: Duration, sample: Sample) {
        let now = sample.at;
        // While a level is being reached, the reports do not show yet how many connections are
        // open.
        let open = if matches!(self.phase, LevelPhase::Settling { .. }) {
            self.limit
        } else {
            open
        };
        let too_many = open.clamp(1, self.limit);
        let highest = (too_many - 1).max(1);
        self.upper_bound = Some(UpperBound::new(highest, self.upper_bound, now));
        let below = self.below.take().map(|level| level.connections);
        let served = below.filter(|served| *served < too_many);
        // The notice of the overload is the cause of this change.
        self.limit = if again {
            1
        } else {
            served.unwrap_or(too_many / 2).max(1)
        };
        self.hold = (self.hold * 2).clamp(FIRST_HOLD * 4, LONGEST_HOLD);
        self.hold_until(now + pause + self.hold, sample);
    }

    /// Whether the limit is above the known upper bound, because a higher level is being retried.
    pub(crate) fn is_above_bound(&self) -> bool {
        self.upper_bound
            .is_some_and(|upper_bound| upper_bound.is_exceeded_by(self.limit))
    }

    /// Lowers the limit until [`LimitController::wait_ended`].
    pub(crate) fn lower(&mut self, limit: u32) {
        if limit != self.limit {
            self.change(limit, LimitCause::Refused);
        }
    }

    /// The wait of a refusal is over: returns to the level before it, or to a lower one.
    pub(crate) fn wait_ended(&mut self, after: AfterBurst, sample: Sample) {
        if let Some(highest) = after.highest {
            self.upper_bound = Some(UpperBound::new(highest, self.upper_bound, sample.at));
            self.change(after.limit, LimitCause::Refused);
            (self.below, self.hold) = (None, FIRST_HOLD);
            self.hold(sample);
        } else if let LevelPhase::Holding { until, .. } = self.phase {
            self.hold_until(until, sample);
        } else {
            self.settle_now(sample);
        }
    }

    /// A worker has left, so measurements that included it are no longer valid.
    pub(crate) fn worker_left(&mut self, sample: Sample) {
        self.most_wanted = sample.totals.wanted.max(1);
        if self.upper_bound.is_none() {
            self.start_anew(sample);
        }
    }

    /// A request failed on the only connection. A second connection waits until the cause is known.
    pub(crate) fn postpone(&mut self, sample: Sample) {
        if self.limit == 1 && self.upper_bound.is_some() {
            self.hold_until(sample.at + RATE_CHECK_INTERVAL * 2, sample);
        }
    }

    /// The failures do not depend on the number of connections: returns to the limit before them.
    pub(crate) fn independent_failures(&mut self, to: u32, sample: Sample) {
        self.upper_bound = None;
        if to > self.limit {
            self.change(to, LimitCause::Independent);
        }
        self.start_anew(sample);
    }

    /// Forgets the measurements of other levels, and measures this one.
    fn start_anew(&mut self, sample: Sample) {
        (self.below, self.step, self.hold) = (None, FIRST_STEP, FIRST_HOLD);
        self.settle_now(sample);
    }
}

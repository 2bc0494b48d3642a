//! Finds how many connections the origin is worth: it takes more as long as more brings more, and remembers where trouble
//! began. Pure.
//!
//! A level of connections is held until as many bodies flow, then measured, and compared with the level before it. Where one
//! connection more brings what one connection did, the level doubles; where it brings little, the climb is over; where it
//! brings nothing, the level goes back. An origin with one total rate is thus served by two connections and an origin with a
//! rate per connection by all that the workers have, and neither has to break to be found out. After a while the next
//! level is tried again, because origins change.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    refusals::{After, Lower},
    wall::Wall,
};
use crate::concurrency::throughput::{Flow, Sample, per_second};

/// A level with twice the connections is measured for so long, or until [`PLENTY`] has come; a smaller step for longer, because
/// what it brings is harder to see.
const WINDOW: Duration = Duration::from_millis(80);
/// Where there are several workers, for at least so many words of theirs: their counts are as old as that. A small step for
/// twice as many.
const WORDS: u32 = 4;
/// So many bytes are measured in less: a fast origin should not be kept waiting.
const PLENTY: u64 = 8 << 20;
const SHORTEST_WINDOW: Duration = Duration::from_millis(15);
/// So many bytes at the speed of [`FAST`] connections say at once that the next level is worth it, also before this one is at its
/// speed: the first milliseconds of a short job, in which most of the machine has nothing to do. Of a single worker, whose counts
/// are of now. It is more than an origin that is slow on purpose gives away at once.
const AT_ONCE: u64 = 4 << 20;
/// So many at that speed are enough for a second connection, which is all that this end needs while it waits for [`AT_ONCE`].
const SOON: u64 = 1 << 20;
/// Who opens connections for many small tars seldom has all their bodies flowing: so many requests a connection, and what
/// flows is what will.
const ROUNDS: u64 = 2;
/// Connections over which nothing comes by then do not count for a level.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3);
/// A connection begins slowly (RFC 5681 §3.1): until it is at its speed, and while it is measured, so many times go by
/// that it took to its first byte.
const SLOW_START: u32 = 2;
/// Of what the added connections would bring if each brought as much as those before: from here on the climb goes on.
const WORTH_IT: f64 = 0.25;
/// The next level has so many times the connections of this one, by what this one brought.
const STEPS: [(f64, f64); 3] = [(0.8, 4.0), (0.6, 2.0), (WORTH_IT, SMALL_STEP)];
const FIRST_STEP: f64 = 2.0;
/// A connection that brings more bytes a second than that is limited by this end and not by the origin, which has shown no
/// sign of being tired: then more of them use more of this end.
const FAST: f64 = 100e6;
/// From so many connections on half of that says the same, where nothing has broken: they share what this end can do.
const SHARED: u32 = 8;
/// Two connections are followed by eight, and these by all.
const FAST_STEP: f64 = 4.0;
const SMALL_STEP: f64 = 1.25;
/// A level without gain is not left for so long at first, then for twice as long each time, up to [`LONGEST_HOLD`].
const FIRST_HOLD: Duration = Duration::from_millis(300);
const LONGEST_HOLD: Duration = Duration::from_secs(20);
/// While a level is held its rate is looked at so often; when it has changed by more than a third, so has the origin.
const LOOK: Duration = Duration::from_secs(1);
const CHANGED: f64 = 1.0 / 3.0;
/// What one connection cannot bring because of its pauses between two tars, a second one can.
const FEW: u32 = 2;

#[derive(Debug, Clone, Copy)]
struct Level {
    connections: u32,
    /// Bytes per second.
    rate: f64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Waits until the level is reached, and until everybody has spoken who spoke seldom before.
    Settling {
        since: Sample,
        word: Duration,
    },
    /// At the level; measured once the connections are at their speed, and for at least so long.
    Measuring {
        /// When it began to settle.
        since: Sample,
        from: Sample,
        begins: Instant,
        least: Duration,
    },
    Holding {
        until: Instant,
        looked: Sample,
        rate: Option<f64>,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Climb {
    limit: u32,
    ceiling: Option<u32>,
    /// The most connections that were ever wanted at once: who is between two tars wants none for a moment.
    most_wanted: u32,
    phase: Phase,
    /// The level below this one, once it is measured.
    below: Option<Level>,
    /// The next level by this one.
    step: f64,
    hold: Duration,
    wall: Option<Wall>,
    /// The level at which nothing came any more.
    stuck_at: Option<u32>,
}

impl Climb {
    /// Begins at one connection, or at the ceiling where people have said one.
    pub(super) fn new(ceiling: Option<u32>, now: Instant) -> Self {
        Self {
            limit: ceiling.unwrap_or(1).max(1),
            ceiling,
            most_wanted: 1,
            phase: Phase::Settling { since: Sample::of(&Flow::default(), now), word: Duration::ZERO },
            stuck_at: None,
            below: None,
            step: FIRST_STEP,
            hold: FIRST_HOLD,
            wall: None,
        }
    }

    /// Connections of all workers together.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The level above which the origin broke, while it is remembered.
    pub(super) fn wall(&self, now: Instant) -> Option<u32> {
        self.wall.and_then(|wall| wall.remembered(now))
    }

    /// Whether a level is being measured, so that news should come often.
    pub(super) fn is_measuring(&self, flow: &Flow) -> bool {
        flow.wanted > self.limit && !matches!(self.phase, Phase::Holding { .. })
    }

    /// Takes what the fleet does now; each worker says it at least once in `word`.
    pub(super) fn observed(&mut self, flow: &Flow, word: Duration, now: Instant) {
        self.most_wanted = self.most_wanted.max(flow.wanted);
        // Who has all the connections that are wanted can say nothing about more of them.
        let is_tight = flow.wanted > self.limit;
        let sample = Sample::of(flow, now);
        match self.phase {
            Phase::Settling { word, .. } if !is_tight => self.phase = Phase::Settling { since: sample, word },
            Phase::Measuring { .. } if !is_tight => self.phase = Phase::Settling { since: sample, word },
            Phase::Settling { since, .. } | Phase::Measuring { from: since, .. } if since.is_stuck(flow, now) => {
                self.stuck(sample, word);
            }
            Phase::Settling { since, .. } | Phase::Measuring { since, .. } if self.is_fast(since, flow, now) => {
                self.measured(since.rate(flow, now), sample, word);
            }
            Phase::Settling { since, .. } | Phase::Measuring { since, .. }
                if self.is_alone_and_fast(since, flow, now) =>
            {
                // As if it had begun with two: the first MiB of a connection is no measure for others.
                self.limit = FEW;
                self.phase = Phase::Settling { since: sample, word };
            }
            Phase::Settling { since, word: before } => {
                if let Some(slow) = self.is_settled(since, before.max(word), flow, now) {
                    self.phase = Phase::Measuring { since, from: sample, begins: now + slow, least: slow };
                }
            }
            // What began this level is not yet at its speed.
            Phase::Measuring { since, from, begins, least } if from.at < begins => {
                if now >= begins {
                    self.phase = Phase::Measuring { since, from: sample, begins: now, least };
                }
            }
            Phase::Measuring { from, least, .. } => {
                let (bytes, time) = (flow.received.saturating_sub(from.received), now - from.at);
                let is_long = time >= self.window(flow, word).max(least);
                let is_plenty = self.step() >= 2.0 && bytes >= PLENTY && time >= SHORTEST_WINDOW.max(least);
                if bytes > 0 && (is_long || is_plenty) {
                    self.measured(per_second(bytes, time), sample, word);
                }
            }
            Phase::Holding { until, looked, rate } => self.held(until, looked, rate, is_tight, sample, word),
        }
    }

    /// Whether what has come says enough without a window.
    fn is_fast(&self, since: Sample, flow: &Flow, now: Instant) -> bool {
        let is_plenty = flow.received.saturating_sub(since.received) >= AT_ONCE;
        is_plenty && flow.workers <= 1 && self.step() >= FIRST_STEP && since.rate(flow, now) >= self.fast()
    }

    /// Whether the first connection shows that a second one finds work.
    fn is_alone_and_fast(&self, since: Sample, flow: &Flow, now: Instant) -> bool {
        let is_first = self.limit == 1 && self.highest(now) >= FEW && self.wall.is_none();
        let is_enough = flow.received.saturating_sub(since.received) >= SOON;
        is_first && is_enough && flow.workers <= 1 && since.rate(flow, now) >= FAST
    }

    /// Bytes per second from which on this end is what limits the connections of this level.
    fn fast(&self) -> f64 {
        let of_each = if self.limit < SHARED || self.wall.is_some() { FAST } else { FAST / 2.0 };
        of_each * f64::from(self.limit)
    }

    /// Whether as many connections are at work as the level has, and no more; then for how long they are still too slow.
    fn is_settled(&self, since: Sample, word: Duration, flow: &Flow, now: Instant) -> Option<Duration> {
        let waited = now - since.at;
        if flow.open > self.limit || flow.received == since.received || waited < word {
            return None;
        }
        if flow.requests - since.requests >= ROUNDS * u64::from(self.limit) {
            return Some(Duration::ZERO);
        }
        if waited >= GIVEN_UP_AFTER {
            return Some(Duration::ZERO); // what does not come, also because nobody hears of its worker, is not waited for
        }
        (flow.flowing >= self.limit).then(|| waited.saturating_sub(word * 4) * SLOW_START)
    }

    /// Nothing comes over any connection: one more, up to twice as many.
    fn stuck(&mut self, sample: Sample, word: Duration) {
        let most = self.stuck_at.get_or_insert(self.limit).saturating_mul(2);
        self.limit = (self.limit + 1).min(most).min(self.highest(sample.at)).max(self.limit);
        (self.below, self.step) = (None, FIRST_STEP);
        self.phase = Phase::Settling { since: sample, word };
    }

    /// How long this level is to be measured.
    fn window(&self, flow: &Flow, word: Duration) -> Duration {
        let words = match flow.workers {
            0 | 1 => 0, // its counts are of now
            _ if self.step() < 2.0 => WORDS * 2,
            _ => WORDS,
        };
        WINDOW.max(word * words).div_f64((self.step() - 1.0).clamp(SMALL_STEP - 1.0, 1.0))
    }

    /// This level by the one below, or the next one by this.
    fn step(&self) -> f64 {
        self.below.map_or(self.step, |below| f64::from(self.limit) / f64::from(below.connections))
    }

    fn held(
        &mut self,
        until: Instant,
        looked: Sample,
        rate: Option<f64>,
        is_tight: bool,
        sample: Sample,
        word: Duration,
    ) {
        if is_tight && sample.at >= until {
            // Measured anew before the next level is: both in the same weather.
            (self.below, self.step) = (None, SMALL_STEP);
            self.phase = Phase::Settling { since: sample, word };
            return;
        }
        let time = sample.at - looked.at;
        if time < LOOK {
            return;
        }
        let now_rate = per_second(sample.received.saturating_sub(looked.received), time);
        let has_changed = rate.is_some_and(|rate| (now_rate - rate).abs() > rate * CHANGED);
        let until = if has_changed && is_tight { sample.at } else { until };
        self.phase = Phase::Holding { until, looked: sample, rate: Some(now_rate) };
    }

    fn measured(&mut self, rate: f64, sample: Sample, word: Duration) {
        self.stuck_at = None;
        let level = Level { connections: self.limit, rate };
        if let Some(wall) = &mut self.wall {
            wall.raise(self.limit);
        }
        let below = self.below.replace(level);
        if rate >= self.fast() {
            (self.step, self.hold) = (FAST_STEP, FIRST_HOLD);
            return self.climb(sample, word);
        }
        let Some(below) = below else {
            if self.limit == FEW && self.wall.is_none() {
                // Taken before one was measured: these two may be all that the origin is worth.
                self.step = SMALL_STEP;
            }
            return self.climb(sample, word);
        };
        let gain = (rate / below.rate - 1.0) / (f64::from(self.limit) / f64::from(below.connections) - 1.0);
        tracing::debug!(self.limit, rate, gain, "a level of connections was measured");
        if let Some((_, step)) = STEPS.into_iter().find(|(enough, _)| gain >= *enough) {
            (self.step, self.hold) = (step, FIRST_HOLD);
            return self.climb(sample, word);
        }
        self.below = Some(below);
        self.limit = below.connections.max(FEW).min(self.highest(sample.at));
        self.hold(sample);
    }

    fn climb(&mut self, sample: Sample, word: Duration) {
        let step = if self.wall.is_some() { SMALL_STEP } else { self.step };
        let next = times(self.limit, step).min(self.highest(sample.at)).min(self.most_wanted);
        if next <= self.limit {
            return self.hold(sample);
        }
        self.limit = next;
        self.phase = Phase::Settling { since: sample, word };
    }

    fn hold(&mut self, sample: Sample) {
        self.phase = Phase::Holding { until: sample.at + self.hold, looked: sample, rate: None };
        self.hold = (self.hold * 2).min(LONGEST_HOLD);
    }

    fn highest(&self, now: Instant) -> u32 {
        let bears = self.wall.map_or(u32::MAX, |wall| wall.highest(now));
        self.ceiling.unwrap_or(u32::MAX).min(bears)
    }

    /// `open` connections were too many: back to what the origin bore, or to half, and nothing more for `rest`. Levels from
    /// there on are left alone for a while, and tried in small steps then. What was too many `again` goes back to one
    /// connection, which finds out soonest whether their number is the cause.
    pub(super) fn fell(&mut self, open: u32, again: bool, rest: Duration, flow: &Flow, now: Instant) {
        // While a level is being reached, nobody has said yet what is open.
        let open = if matches!(self.phase, Phase::Settling { .. }) { self.limit } else { open };
        let too_many = open.clamp(1, self.limit);
        self.wall = Some(Wall::new((too_many - 1).max(1), self.wall, now));
        let bore = self.below.take().map(|level| level.connections).filter(|bore| *bore < too_many);
        self.limit = if again { 1 } else { bore.unwrap_or(too_many / 2).max(1) };
        self.hold = (self.hold * 2).clamp(FIRST_HOLD * 4, LONGEST_HOLD);
        let looked = Sample::of(flow, now);
        self.phase = Phase::Holding { until: now + rest + self.hold, looked, rate: None };
    }

    /// Whether the origin broke or refused under this level before, and it is tried again.
    pub(super) fn is_above_wall(&self) -> bool {
        self.wall.is_some_and(|wall| wall.is_below(self.limit))
    }

    /// So many connections at most, until [`Climb::returned`].
    pub(super) fn lower(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// The wait that a refusal asked for is over: back to the level that there was, or to a lower one.
    pub(super) fn returned(&mut self, after: After, flow: &Flow, now: Instant) {
        let looked = Sample::of(flow, now);
        if let After::Lower(Lower { limit, highest }) = after {
            self.wall = Some(Wall::new(highest, self.wall, now));
            self.limit = limit;
            (self.below, self.hold) = (None, FIRST_HOLD);
            return self.hold(looked);
        }
        self.phase = match self.phase {
            Phase::Holding { until, .. } => Phase::Holding { until, looked, rate: None },
            _ => Phase::Settling { since: looked, word: Duration::ZERO },
        };
    }

    /// A worker has gone, and what was measured with it says nothing any more.
    pub(super) fn forget(&mut self, flow: &Flow, now: Instant) {
        self.most_wanted = flow.wanted.max(1);
        if self.wall.is_none() {
            (self.below, self.step, self.hold) = (None, FIRST_STEP, FIRST_HOLD);
            self.phase = Phase::Settling { since: Sample::of(flow, now), word: Duration::ZERO };
        }
    }

    /// Something broke over the only connection that is left: no second one before it is clear what that means.
    pub(super) fn put_off(&mut self, flow: &Flow, now: Instant) {
        if self.limit == 1 && self.wall.is_some() {
            let looked = Sample::of(flow, now);
            self.phase = Phase::Holding { until: now + LOOK * 2, looked, rate: None };
        }
    }

    /// The trouble had nothing to do with the number of connections: as before it.
    pub(super) fn absolved(&mut self, to: u32, flow: &Flow, now: Instant) {
        self.wall = None;
        self.limit = self.limit.max(to);
        (self.below, self.step, self.hold) = (None, FIRST_STEP, FIRST_HOLD);
        self.phase = Phase::Settling { since: Sample::of(flow, now), word: Duration::ZERO };
    }
}

/// At least one more.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is positive")]
fn times(limit: u32, step: f64) -> u32 {
    ((f64::from(limit) * step) as u32).max(limit.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is allowed after so many seconds in which so many connections are all that come, and nothing over them.
    fn limit_after(climb: &mut Climb, seconds: u32, start: Instant) -> u32 {
        for tenth in 0..seconds * 10 {
            let open = climb.limit();
            let flow = Flow { open, flowing: open, wanted: 5, received: 20_000, requests: 5, workers: 1 };
            climb.observed(&flow, Duration::from_millis(100), start + Duration::from_millis(100) * tenth);
        }
        climb.limit()
    }

    /// What is allowed when one connection has brought so many bytes within so long.
    fn limit_with(received: u64, within: Duration, workers: usize) -> u32 {
        let start = Instant::now();
        let mut climb = Climb::new(None, start);
        let asked = Flow { open: 1, wanted: 10, requests: 1, workers, ..Flow::default() };
        climb.observed(&asked, Duration::from_millis(20), start);
        climb.observed(&Flow { flowing: 1, received, ..asked }, Duration::from_millis(20), start + within);
        climb.limit()
    }

    #[test]
    fn a_fast_origin_is_taken_at_its_word_at_once() {
        let soon = Duration::from_millis(10);
        assert_eq!(limit_with(AT_ONCE, soon, 1), 4);
        assert_eq!(limit_with(AT_ONCE - 1, soon, 1), 2, "a second one finds work");
        assert_eq!(limit_with(SOON, soon, 1), 2);
        assert_eq!(limit_with(SOON - 1, soon, 1), 1, "what an origin has in its buffers says nothing");
        assert_eq!(limit_with(AT_ONCE, Duration::from_millis(50), 1), 1, "that is less than 100 MB/s");
        assert_eq!(limit_with(AT_ONCE, soon, 2), 1, "what several workers tell is not all of now");
    }

    #[test]
    fn what_came_before_a_level_was_measured_counts_too() {
        let (start, word) = (Instant::now(), Duration::from_millis(20));
        let mut climb = Climb::new(None, start);
        let asked = Flow { open: 1, wanted: 10, requests: 1, workers: 1, ..Flow::default() };
        climb.observed(&asked, word, start);
        climb.observed(&Flow { flowing: 1, received: SOON - 1, ..asked }, word, start + word);
        assert!(matches!(climb.phase, Phase::Measuring { .. }) && climb.limit() == 1);
        climb.observed(&Flow { flowing: 1, received: AT_ONCE, ..asked }, word, start + word * 3 / 2);
        assert_eq!(climb.limit(), 4);
    }

    #[test]
    fn eight_connections_that_share_a_fast_line_are_followed_by_all_that_are_ever_wanted() {
        let (start, word) = (Instant::now(), Duration::from_millis(20));
        let limit_at = |rate: u64| {
            let mut climb = Climb::new(None, start);
            let mut flow = Flow { open: 1, flowing: 1, wanted: 10, requests: 1, workers: 1, ..Flow::default() };
            climb.observed(&flow, word, start);
            for (pause, milliseconds) in [(0, 10), (1, 30)] {
                // One of them is between two tars then.
                (flow.open, flow.flowing, flow.wanted) = (climb.limit(), climb.limit(), 10 - pause);
                flow.requests = u64::from(climb.limit());
                flow.received = milliseconds * rate / 1000;
                climb.observed(&flow, word, start + Duration::from_millis(milliseconds));
            }
            climb.limit()
        };
        assert_eq!(limit_at(600_000_000), 10);
        assert!(limit_at(90_000_000) < 8, "one is not fast");
    }

    #[test]
    fn what_a_worker_wanted_that_has_gone_is_not_climbed_to() {
        let (start, word) = (Instant::now(), Duration::from_millis(20));
        let mut climb = Climb::new(None, start);
        climb.observed(&Flow { wanted: 100, workers: 2, ..Flow::default() }, word, start);
        let left = Flow { open: 1, wanted: 3, requests: 1, workers: 1, ..Flow::default() };
        climb.forget(&left, start);
        climb.observed(&Flow { flowing: 1, received: AT_ONCE, ..left }, word, start + word / 2);
        assert_eq!(climb.limit(), 3);
    }

    #[test]
    fn connections_that_stall_keep_nobody_from_the_origin() {
        let start = Instant::now();
        assert_eq!(limit_after(&mut Climb::new(None, start), 1, start), 1);
        assert!((2..=3).contains(&limit_after(&mut Climb::new(None, start), 5, start)));
        assert_eq!(limit_after(&mut Climb::new(Some(2), start), 60, start), 2, "the ceiling is the ceiling");
    }

    #[test]
    fn only_a_first_connection_brings_a_second_one_and_no_ceiling_is_passed() {
        let (start, word) = (Instant::now(), Duration::from_millis(20));
        for ceiling in [1, 8] {
            let mut climb = Climb::new(Some(ceiling), start);
            let asked = Flow { open: 1, wanted: 10, requests: 1, workers: 1, ..Flow::default() };
            climb.observed(&asked, word, start);
            climb.observed(&Flow { flowing: 1, received: SOON, ..asked }, word, start + word / 2);
            assert_eq!(climb.limit(), ceiling);
        }
    }

    #[test]
    fn what_broke_is_not_tried_again_because_one_connection_is_fast() {
        let (start, word) = (Instant::now(), Duration::from_millis(20));
        let mut climb = Climb::new(None, start);
        let flow = Flow { open: 1, flowing: 1, wanted: 10, requests: 1, workers: 1, ..Flow::default() };
        climb.limit = 4;
        climb.fell(4, true, Duration::ZERO, &flow, start);
        let later = start + Duration::from_secs(5);
        climb.observed(&flow, word, later);
        climb.observed(&Flow { received: SOON, ..flow }, word, later + word / 2);
        assert_eq!(climb.limit(), 1);
    }

    #[test]
    fn a_second_connection_comes_also_while_the_first_is_measured() {
        let (start, word) = (Instant::now(), Duration::from_millis(4));
        let mut climb = Climb::new(None, start);
        let asked = Flow { open: 1, wanted: 10, requests: 1, workers: 1, ..Flow::default() };
        climb.observed(&asked, word, start);
        climb.observed(&Flow { flowing: 1, received: SOON - 1, ..asked }, word, start + word);
        assert!(matches!(climb.phase, Phase::Measuring { .. }));
        climb.observed(&Flow { flowing: 1, received: SOON, ..asked }, word, start + word * 2);
        assert_eq!(climb.limit(), 2);
    }

    #[test]
    fn what_the_first_connection_brought_is_not_counted_for_two() {
        let start = Instant::now();
        let mut climb = Climb::new(None, start);
        let flow = Flow { open: 1, flowing: 1, wanted: 10, requests: 1, workers: 1, ..Flow::default() };
        for (received, milliseconds) in [(0, 0), (SOON, 1), (AT_ONCE, 20)] {
            climb.observed(
                &Flow { received, ..flow },
                Duration::from_millis(20),
                start + Duration::from_millis(milliseconds),
            );
        }
        assert_eq!(climb.limit(), 2);
    }
}

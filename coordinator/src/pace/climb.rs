//! Finds how many connections the origin is worth: it takes more as long as more brings more, and remembers where trouble
//! began. Pure.
//!
//! A level of connections is held until as many bodies flow, then measured, and compared with the level before it. Where one
//! connection more brings what one connection did, the level doubles; where it brings little, the climb is over; where it
//! brings nothing, the level goes back. An origin with one total rate is thus served by two connections and an origin with a
//! rate per connection by all that the workers have, and neither is ever driven into the wall to find out. After a while the
//! next level is tried again, because origins change.

use std::time::Duration;

use tokio::time::Instant;

use super::Observation;

/// A level is measured for so long, or until [`PLENTY`] has come.
const WINDOW: Duration = Duration::from_millis(80);
/// So many bytes are measured in less: a fast origin should not be kept waiting.
const PLENTY: u64 = 24 << 20;
const SHORTEST_WINDOW: Duration = Duration::from_millis(15);
/// Bodies that have not begun to flow by then do not count for a level.
const SETTLED_AFTER: Duration = Duration::from_millis(400);
/// Of what the added connections would bring if each brought as much as those before: from here on the climb goes on.
const WORTH_IT: f64 = 0.25;
/// And from here on in doubles.
const IN_FULL: f64 = 0.6;
/// A level without gain is not left for so long at first, then for twice as long each time, up to [`LONGEST_HOLD`].
const FIRST_HOLD: Duration = Duration::from_millis(300);
const LONGEST_HOLD: Duration = Duration::from_secs(20);
/// While a level is held its rate is looked at so often; when it has changed by more than a third, so has the origin.
const LOOK: Duration = Duration::from_secs(1);
const CHANGED: f64 = 1.0 / 3.0;
/// What one connection cannot bring because of its pauses between two tars, a second one can.
const FEW: u32 = 2;
/// How long a level at which the origin broke is avoided at first; twice as long each time that it breaks again.
const FIRST_MEMORY: Duration = Duration::from_mins(1);
const LONGEST_MEMORY: Duration = Duration::from_mins(30);

/// The connections of all workers together, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// Connections with a request on them.
    pub(super) open: u32,
    /// Those of them over which a body comes.
    pub(super) flowing: u32,
    /// Connections that the workers could use.
    pub(super) wanted: u32,
    /// Bytes so far.
    pub(super) received: u64,
}

impl Flow {
    /// One worker does something else than it did.
    pub(super) fn replace(&mut self, last: &Observation, observation: &Observation) {
        let change = |all: u32, last: u32, now: u32| all.saturating_sub(last).saturating_add(now);
        self.open = change(self.open, last.open, observation.open);
        self.flowing = change(self.flowing, last.flowing, observation.flowing);
        self.wanted = change(self.wanted, last.wanted, observation.wanted);
        self.received += observation.received.saturating_sub(last.received);
    }
}

#[derive(Debug, Clone, Copy)]
struct Level {
    connections: u32,
    /// Bytes per second.
    rate: f64,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    received: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Waits until the level is reached.
    Settling {
        since: Instant,
    },
    Measuring {
        from: Sample,
    },
    Holding {
        until: Instant,
        looked: Sample,
        rate: Option<f64>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Wall {
    /// The most connections that are taken.
    highest: u32,
    until: Instant,
    memory: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Climb {
    limit: u32,
    ceiling: Option<u32>,
    phase: Phase,
    /// The level below this one, once it is measured.
    below: Option<Level>,
    /// Whether the next level may be twice this one.
    in_doubles: bool,
    hold: Duration,
    wall: Option<Wall>,
}

impl Climb {
    /// Begins at one connection, or at the ceiling where people have said one.
    pub(super) fn new(ceiling: Option<u32>, now: Instant) -> Self {
        Self {
            limit: ceiling.unwrap_or(1).max(1),
            ceiling,
            phase: Phase::Settling { since: now },
            below: None,
            in_doubles: true,
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
        self.wall.filter(|wall| now < wall.until).map(|wall| wall.highest)
    }

    /// Whether a level is being measured, so that news should come often.
    pub(super) fn is_measuring(&self, flow: &Flow) -> bool {
        flow.wanted > self.limit && !matches!(self.phase, Phase::Holding { .. })
    }

    /// Takes what the fleet does now.
    pub(super) fn observed(&mut self, flow: &Flow, now: Instant) {
        // Who has all the connections that are wanted can say nothing about more of them.
        let is_tight = flow.wanted > self.limit;
        let sample = Sample { at: now, received: flow.received };
        match self.phase {
            Phase::Settling { .. } | Phase::Measuring { .. } if !is_tight => {
                self.phase = Phase::Settling { since: now };
            }
            Phase::Settling { since } => {
                if flow.flowing >= self.limit || (now - since >= SETTLED_AFTER && flow.flowing > 0) {
                    self.phase = Phase::Measuring { from: sample };
                }
            }
            Phase::Measuring { from } => {
                let (bytes, time) = (flow.received.saturating_sub(from.received), now - from.at);
                if bytes > 0 && (time >= WINDOW || (bytes >= PLENTY && time >= SHORTEST_WINDOW)) {
                    self.measured(per_second(bytes, time), flow, sample);
                }
            }
            Phase::Holding { until, looked, rate } => self.held(until, looked, rate, is_tight, sample),
        }
    }

    fn held(&mut self, until: Instant, looked: Sample, rate: Option<f64>, is_tight: bool, sample: Sample) {
        if is_tight && sample.at >= until {
            // Measured anew before the next level is: both in the same weather.
            (self.below, self.in_doubles) = (None, false);
            self.phase = Phase::Settling { since: sample.at };
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

    fn measured(&mut self, rate: f64, flow: &Flow, sample: Sample) {
        let level = Level { connections: self.limit, rate };
        let Some(below) = self.below.replace(level) else { return self.climb(flow, sample) };
        let gain = (rate / below.rate - 1.0) / (f64::from(self.limit) / f64::from(below.connections) - 1.0);
        tracing::debug!(self.limit, rate, gain, "a level of connections was measured");
        if gain >= WORTH_IT {
            self.in_doubles = gain >= IN_FULL;
            self.hold = FIRST_HOLD;
            return self.climb(flow, sample);
        }
        self.below = Some(below);
        self.limit = below.connections.max(FEW).min(self.highest(sample.at));
        self.hold(sample);
    }

    fn climb(&mut self, flow: &Flow, sample: Sample) {
        let step = if self.in_doubles { self.limit } else { (self.limit / 4).max(1) };
        let next = self.limit.saturating_add(step).min(self.highest(sample.at)).min(flow.wanted.max(1));
        if next <= self.limit {
            return self.hold(sample);
        }
        self.limit = next;
        self.phase = Phase::Settling { since: sample.at };
    }

    fn hold(&mut self, sample: Sample) {
        self.phase = Phase::Holding { until: sample.at + self.hold, looked: sample, rate: None };
        self.hold = (self.hold * 2).min(LONGEST_HOLD);
    }

    fn highest(&self, now: Instant) -> u32 {
        let ceiling = self.ceiling.unwrap_or(u32::MAX);
        match self.wall {
            Some(wall) if now < wall.until => ceiling.min(wall.highest),
            // One step at a time, once it is forgotten.
            Some(wall) => ceiling.min(wall.highest.saturating_add(1)),
            None => ceiling,
        }
    }

    /// The origin broke under the connections that it had: back to what it bore, or to half, and nothing more for `rest`.
    pub(super) fn overloaded(&mut self, open: u32, rest: Duration, flow: &Flow, now: Instant) {
        let broke_at = open.min(self.limit).max(1);
        let again = self.wall.is_some_and(|wall| broke_at > wall.highest);
        let memory = self.wall.map_or(FIRST_MEMORY, |wall| if again { wall.memory * 2 } else { FIRST_MEMORY });
        let memory = memory.min(LONGEST_MEMORY);
        self.wall = Some(Wall { highest: (broke_at - 1).max(1), until: now + memory, memory });
        let bore = self.below.map(|level| level.connections).filter(|bore| *bore < broke_at);
        self.fall(bore.unwrap_or(broke_at / 2), rest, flow, now);
    }

    /// The origin asks for less.
    pub(super) fn refused(&mut self, rest: Duration, flow: &Flow, now: Instant) {
        self.fall(self.limit / 2, rest, flow, now);
    }

    fn fall(&mut self, to: u32, rest: Duration, flow: &Flow, now: Instant) {
        self.limit = to.clamp(1, self.limit);
        self.below = None;
        self.hold = (self.hold * 2).clamp(FIRST_HOLD * 4, LONGEST_HOLD);
        let looked = Sample { at: now, received: flow.received };
        self.phase = Phase::Holding { until: now + rest + self.hold, looked, rate: None };
    }

    /// The trouble had nothing to do with the number of connections: as before it.
    pub(super) fn absolved(&mut self, to: u32, now: Instant) {
        self.wall = None;
        self.limit = self.limit.max(to);
        (self.below, self.in_doubles, self.hold) = (None, true, FIRST_HOLD);
        self.phase = Phase::Settling { since: now };
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are compared roughly")]
fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64()
}

//! The pace: one budget of connections to the origin for all workers together. Pure.
//!
//! Workers say what they do (an [`Observation`]); from all of it `climb` finds how many connections
//! the origin is worth, `trouble` whether it breaks under them, `refusals` whether it refuses
//! because of them, and `shares` gives each worker its part (a [`Budget`]). A refusal with
//! `Retry-After` (`waits`), or an overload, stops all requests for a while.
//!
//! The ceilings that people give are never passed, whatever the origin would bear.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;
use tokio::time::Instant;

mod allocation;
mod controller;
mod notice;
mod overload;
mod refusals;
mod speed;
mod throughput;
mod trial;
mod waits;
mod wall;

use allocation::{Share, divide};
use controller::Climb;
pub use notice::Notice;
use overload::{Meaning, Seen, Trouble};
use refusals::Refusals;
use speed::Speed;
use throughput::Flow;
use trial::Trials;
use waits::{JITTER, Waits};

/// After an overload nobody asks for anything for so long; then twice as long each time, up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_millis(1100);
const LONGEST_REST: Duration = Duration::from_secs(15);
/// An overload after so long is a new one.
const SAME_TROUBLE: Duration = Duration::from_secs(30);
/// A wait that is extended by less is not announced again: requests that were under way together are refused one by one.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// One worker speaks so often while a level is measured, and otherwise; more workers speak more seldom.
const OBSERVE_CLOSELY: Duration = Duration::from_millis(20);
const OBSERVE: Duration = Duration::from_millis(250);
const OBSERVE_PER_WORKER: Duration = Duration::from_millis(2);
const FEW_WORKERS: u32 = 64;

/// What a worker says of its connections to the origin. Counters since its process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    /// Version of the budget that it keeps to; 0: none yet.
    pub seen: u64,
    /// Connections with a request on them, now.
    pub open: u32,
    /// Those of them over which a body comes.
    pub flowing: u32,
    /// Connections that it could use now, the open ones included.
    pub wanted: u32,
    /// Bytes of bodies.
    pub received: u64,
    /// Requests to the origin.
    pub requests: u64,
    /// Requests that broke: no connection, no answer, a body that broke off.
    pub cuts: u64,
    /// 429 and 503.
    pub refusals: u64,
    /// The rest of the longest `Retry-After` that it was given and that has not passed.
    pub retry_after: Option<Duration>,
}

/// What one worker may do, until it is told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Grows whenever it changes.
    pub version: u64,
    /// Connections to the origin.
    pub connections: u32,
    /// Bytes per second over all of them.
    pub bytes_per_second: Option<u64>,
    /// Nothing is asked of the origin for so long.
    pub quiet: Duration,
    /// How often to say what it does, if that changes.
    pub observe_every: Duration,
    /// How often waits were lifted. With each time the wait that the origin has asked this worker
    /// for ends as well.
    pub resumed: u64,
}

/// What people allow: hard limits for all workers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// `--max-connections`, at least 1.
    pub connections: Option<u32>,
    /// `--max-rate`.
    pub bytes_per_second: Option<u64>,
}

/// The pace as people see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PaceStatus {
    /// Connections allowed to all workers together.
    pub limit: u32,
    /// Connections with a request on them.
    pub open: u32,
    /// Connections that the workers could use.
    pub wanted: u32,
    /// Nobody asks for anything for so long.
    pub quiet: Duration,
    /// What comes, over the last seconds.
    pub bytes_per_second: u64,
    /// The level above which the origin broke, while it is remembered.
    pub wall: Option<u32>,
    /// Requests of the whole job.
    pub requests: u64,
    /// Requests that broke.
    pub cuts: u64,
    /// 429 and 503.
    pub refusals: u64,
    /// Times that the connections died together.
    pub overloads: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Pace {
    ceilings: Ceilings,
    shares: BTreeMap<SessionId, Share>,
    flow: Flow,
    climb: Climb,
    refusals: Refusals,
    trouble: Trouble,
    began: Instant,
    divided_at: Instant,
    waits: Waits,
    trials: Trials,
    /// The end of the rest after the last overload.
    rest_until: Instant,
    /// The later one of `rest_until` and the end of the waits.
    quiet_until: Instant,
    resumed: u64,
    rest: Duration,
    overload: Option<Overload>,
    observe_every: Duration,
    speed: Speed,
    counts: Counts,
    notices: Vec<Notice>,
    /// The limit that people were told last.
    told: u32,
    /// The end of a wait that people were told last.
    told_until: Instant,
    turn: u64,
}

/// The last time that the connections died together.
#[derive(Debug, Clone, Copy)]
struct Overload {
    at: Instant,
    /// How many were allowed before the trouble began.
    before: u32,
    fell_to: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    requests: u64,
    cuts: u64,
    refusals: u64,
    overloads: u64,
}

impl Pace {
    /// Begins carefully, or with as many connections as people allow.
    pub fn new(ceilings: Ceilings, now: Instant) -> Self {
        let climb = Climb::new(ceilings.connections, now);
        Self {
            ceilings,
            shares: BTreeMap::new(),
            flow: Flow::default(),
            told: climb.limit(),
            told_until: now,
            climb,
            refusals: Refusals::default(),
            trouble: Trouble::default(),
            began: now,
            divided_at: now,
            waits: Waits::default(),
            trials: Trials::default(),
            rest_until: now,
            quiet_until: now,
            resumed: 0,
            rest: FIRST_REST,
            overload: None,
            observe_every: OBSERVE_CLOSELY,
            speed: Speed::default(),
            counts: Counts::default(),
            notices: Vec::new(),
            turn: 0,
        }
    }

    /// Takes what a worker says.
    pub fn observed(&mut self, id: SessionId, observation: &Observation, now: Instant) {
        let (open_before, workers_before) = (self.flow.open, self.flow.workers);
        // What its process did before this session was counted, or nobody counts it any more.
        let share = self.shares.entry(id).or_insert_with(|| Share::of_newcomer(observation));
        let last = share.hear(*observation);
        let since = |number: fn(&Observation) -> u64| number(observation).saturating_sub(number(&last));
        let (requests, cuts, refusals) = (since(|is| is.requests), since(|is| is.cuts), since(|is| is.refusals));
        self.flow.replace(&last, observation);
        let counts = &mut self.counts;
        counts.requests = counts.requests.saturating_add(requests);
        counts.cuts = counts.cuts.saturating_add(cuts);
        counts.refusals = counts.refusals.saturating_add(refusals);
        let is_quiet = now < self.quiet_until;
        let counts = |wait: &Duration| self.waits.told(id, now + *wait, refusals > 0);
        if let Some(wait) = observation.retry_after.filter(counts) {
            if refusals > 0 {
                self.refusals.refused(refusals, self.climb.limit(), self.climb.is_above_wall(), &self.flow);
            }
            let until = now + wait;
            if (refusals > 0 && !is_quiet) || until > self.told_until + TOLD_AGAIN {
                self.told_until = until;
                self.notices.push(Notice::Refused { rest: wait });
            }
            self.silence(until);
        } else if !is_quiet {
            // Without a word on how long to wait, a refusal says no more than a cut. What the origin
            // refuses one worker alone says nothing of the number of connections.
            let refused = if self.waits.is_own(id) { 0 } else { refusals };
            let seen =
                Seen { worker: id, cuts: cuts.saturating_add(refused), open: open_before, workers: workers_before };
            match self.trouble.observed(seen, self.climb.limit(), now) {
                Meaning::None if cuts > 0 => self.climb.put_off(&self.flow, now),
                Meaning::None => {}
                Meaning::Overload { open } => self.overloaded(open, now),
                Meaning::Independent => self.absolved(now),
            }
        }
        self.reckon(now);
    }

    /// A session has ended: its share is free, and a wait that only it reported ends.
    pub fn left(&mut self, id: SessionId, now: Instant) {
        if self.waits.left(id) {
            self.shorten(now);
        }
        if let Some(share) = self.shares.remove(&id) {
            self.flow.replace(&share.last(), &Observation::default());
            self.climb.forget(&self.flow, now);
            self.reckon(now);
        }
    }

    /// Ends the waits that the origin has asked for; gives what is left of the longest.
    pub fn resume(&mut self, now: Instant) -> Duration {
        let left = self.waits.until().map(|until| until.saturating_duration_since(now)).unwrap_or_default();
        self.waits.lift();
        self.resumed += 1;
        self.shorten(now);
        self.tell_everybody();
        self.reckon(now);
        left
    }

    /// To be called once in a second: shares go round, and speeds are looked at.
    pub fn tick(&mut self, now: Instant) {
        self.reckon(now);
        self.divide(now);
    }

    /// What a worker may do. A worker that has said nothing may do nothing.
    pub fn budget(&self, id: SessionId, now: Instant) -> Budget {
        let share = self.shares.get(&id).copied().unwrap_or_default();
        Budget {
            version: share.version,
            connections: self.connections(id, &share),
            bytes_per_second: share.rate,
            quiet: self.quiet_until(id).saturating_duration_since(now),
            observe_every: self.observe_every,
            resumed: self.resumed,
        }
    }

    /// Changes whenever somebody's budget has.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// What people should hear, once.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The pace as people see it.
    pub fn status(&self, now: Instant) -> PaceStatus {
        let Counts { requests, cuts, refusals, overloads } = self.counts;
        PaceStatus {
            limit: self.climb.limit(),
            open: self.flow.open,
            wanted: self.flow.wanted,
            quiet: self.quiet_until.saturating_duration_since(now),
            bytes_per_second: self.speed.bytes_per_second(),
            wall: self.climb.wall(now),
            requests,
            cuts,
            refusals,
            overloads,
        }
    }

    fn overloaded(&mut self, open: u32, now: Instant) {
        let last = self.overload.filter(|last| now - last.at < SAME_TROUBLE);
        // What broke again although there were fewer needs a longer rest; a level that was tried again and broke does not.
        let again = last.is_some_and(|last| open <= last.fell_to);
        self.rest = if again { (self.rest * 2).min(LONGEST_REST) } else { FIRST_REST };
        let before = last.map_or(self.climb.limit(), |last| last.before);
        self.climb.fell(open, again, self.rest, &self.flow, now);
        let limit = self.climb.limit();
        self.overload = Some(Overload { at: now, before, fell_to: limit });
        self.counts.overloads += 1;
        self.trouble.forget();
        self.rest_until = now + self.rest;
        self.silence(self.rest_until);
        self.notices.push(Notice::Overload { open, limit, rest: self.rest });
    }

    fn absolved(&mut self, now: Instant) {
        let before = self.overload.take().map_or(1, |last| last.before);
        self.climb.absolved(before, &self.flow, now);
        self.notices.push(Notice::Independent);
    }

    fn silence(&mut self, until: Instant) {
        if until > self.quiet_until + JITTER {
            self.quiet_until = until;
            self.tell_everybody();
        }
    }

    /// Waits have ended before their time.
    fn shorten(&mut self, now: Instant) {
        let until = self.waits.until().map_or(self.rest_until, |until| until.max(self.rest_until)).max(now);
        if until + JITTER < self.quiet_until {
            let rest = self.quiet_until - until;
            self.quiet_until = until;
            self.told_until = until;
            self.notices.push(Notice::Lifted { rest });
            self.tell_everybody();
        }
    }

    fn tell_everybody(&mut self) {
        self.shares.values_mut().for_each(|share| share.version += 1);
        self.turn += 1;
    }

    fn reckon(&mut self, now: Instant) {
        self.try_wait(now);
        self.speed.observed(self.flow.received, now);
        if let Some(limit) = self.refusals.observed(self.climb.limit(), &self.flow) {
            self.climb.lower(limit);
        }
        if now >= self.quiet_until {
            if let Some(after) = self.refusals.ended(&self.flow) {
                self.climb.returned(after, &self.flow, now);
            }
            self.climb.observed(&self.flow, self.observe_every, now);
        }
        let limit = self.climb.limit();
        if limit != self.told && !self.climb.is_measuring(&self.flow) {
            self.told = limit;
            self.notices.push(Notice::Limit(limit));
        }
        // A large fleet is not divided anew with every word of one worker.
        let workers = u32::try_from(self.shares.len()).unwrap_or(u32::MAX);
        let slowest = OBSERVE_PER_WORKER * workers;
        if workers <= FEW_WORKERS || now - self.divided_at >= slowest {
            self.divide(now);
        }
        let often = if self.climb.is_measuring(&self.flow) { OBSERVE_CLOSELY } else { OBSERVE };
        let every = often.max(slowest);
        if every > self.observe_every * 3 / 2 || every * 3 / 2 < self.observe_every {
            self.observe_every = every;
            self.tell_everybody();
        }
    }

    fn divide(&mut self, now: Instant) {
        self.divided_at = now;
        let (limit, rate) = (self.climb.limit(), self.ceilings.bytes_per_second);
        if divide(&mut self.shares, limit, rate, now - self.began) {
            self.turn += 1;
        }
    }
}

#[cfg(test)]
mod simulation;

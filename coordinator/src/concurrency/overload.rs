//! Tells an origin that breaks under too many connections from one that breaks anyway. Pure.
//!
//! Connections that die together are the sign (FACTS: 20 groups of 8 to 15 within seconds, while 15 were open, none while 5
//! were), or one after the other without end. One worker's line, or one class, is not: where several workers have
//! connections, several must see it. What also happens over a single connection is not the fault of their number: then cuts
//! are put up with for a while.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use shared::ids::SessionId;
use tokio::time::Instant;

/// Cuts within so long belong together.
const TOGETHER: Duration = Duration::from_millis(500);
/// Over this time so many may break, or as many as are open; a class that always fails is tried again five times at most.
const STEADILY: Duration = Duration::from_secs(5);
const STEADY_CUTS: u64 = 12;
/// So many cuts over a single connection within [`STEADILY`], and their number is not the cause.
const ALONE: u64 = 3;
/// How long cuts then say nothing.
const PUT_UP_WITH: Duration = Duration::from_mins(1);

/// What cuts mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing in particular.
    None,
    /// Too many connections: so many were open when it began.
    Overload {
        /// Connections then.
        open: u32,
    },
    /// They break whatever their number.
    Independent,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    at: Instant,
    worker: SessionId,
    cuts: u64,
    open: u32,
}

/// What a worker has seen since its last word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) worker: SessionId,
    pub(super) cuts: u64,
    /// Connections of all workers before that.
    pub(super) open: u32,
    /// Workers that had some.
    pub(super) workers: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The last [`STEADILY`].
    events: VecDeque<Event>,
    put_up_until: Option<Instant>,
}

impl Trouble {
    /// Takes what a worker has seen; `limit`: connections that are allowed.
    pub(super) fn observed(&mut self, seen: Seen, limit: u32, now: Instant) -> Meaning {
        while self.events.front().is_some_and(|event| now - event.at > STEADILY) {
            self.events.pop_front();
        }
        if seen.cuts == 0 || self.put_up_until.is_some_and(|until| now < until) {
            return Meaning::None;
        }
        let Seen { worker, cuts, open, workers } = seen;
        self.events.push_back(Event { at: now, worker, cuts, open });
        let (steady, _, witnesses) = self.cuts(now, STEADILY);
        if limit == 1 {
            if steady < ALONE {
                return Meaning::None;
            }
            self.put_up_until = Some(now + PUT_UP_WITH);
            self.events.clear();
            return Meaning::Independent;
        }
        let (burst, most, together) = self.cuts(now, TOGETHER);
        let enough = workers.min(2);
        let is_burst = burst >= 2 && burst.saturating_mul(2) >= u64::from(most) && together >= enough;
        let is_steady = steady >= STEADY_CUTS.max(open.into()) && witnesses >= enough;
        // What was opened and broke before anybody could speak of it was open all the same.
        let open = most.max(u32::try_from(burst).unwrap_or(limit)).min(limit);
        if is_burst || is_steady { Meaning::Overload { open } } else { Meaning::None }
    }

    /// Cuts of this last time, the most connections that were open, and the number of workers that saw cuts.
    fn cuts(&self, now: Instant, time: Duration) -> (u64, u32, usize) {
        let of_late = || self.events.iter().filter(|event| now - event.at <= time);
        let workers: BTreeSet<SessionId> = of_late().map(|event| event.worker).collect();
        let cuts = of_late().map(|event| event.cuts).fold(0, u64::saturating_add);
        (cuts, of_late().map(|event| event.open).max().unwrap_or(0), workers.len())
    }

    /// The connections were given a rest: what was is forgotten.
    pub(super) fn forget(&mut self) {
        self.events.clear();
    }
}

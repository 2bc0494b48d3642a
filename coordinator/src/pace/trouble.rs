//! Tells an origin that breaks under too many connections from one that breaks anyway. Pure.
//!
//! Connections that die together are the sign (FACTS: 20 groups of 8 to 15 within seconds, while 15 were open, none while 5
//! were). So is a transfer that breaks again and again while others do not. What also happens over a single
//! connection is not the fault of their number: then cuts are put up with for a while.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Cuts within so long belong together.
const TOGETHER: Duration = Duration::from_millis(500);
/// Over this time a quarter of the requests may break.
const STEADILY: Duration = Duration::from_secs(5);
const STEADY_CUTS: u64 = 4;
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
    cuts: u64,
    requests: u64,
    open: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The last [`STEADILY`].
    events: VecDeque<Event>,
    put_up_until: Option<Instant>,
}

impl Trouble {
    /// Takes what has come since the last call. `open`: connections before these cuts; `limit`: connections that are allowed.
    pub(super) fn observed(&mut self, cuts: u64, requests: u64, open: u32, limit: u32, now: Instant) -> Meaning {
        while self.events.front().is_some_and(|event| now - event.at > STEADILY) {
            self.events.pop_front();
        }
        self.events.push_back(Event { at: now, cuts, requests, open });
        if cuts == 0 || self.put_up_until.is_some_and(|until| now < until) {
            return Meaning::None;
        }
        let all = self.events.iter().fold((0, 0), |(cuts, asked), event| (cuts + event.cuts, asked + event.requests));
        if limit == 1 {
            if all.0 < ALONE {
                return Meaning::None;
            }
            self.put_up_until = Some(now + PUT_UP_WITH);
            self.events.clear();
            return Meaning::Independent;
        }
        let together = || self.events.iter().filter(|event| now - event.at <= TOGETHER);
        let most = together().map(|event| event.open).max().unwrap_or(0).max(open);
        let burst = together().map(|event| event.cuts).sum::<u64>();
        let is_burst = burst >= 2 && burst * 2 >= u64::from(most);
        let is_steady = all.0 >= STEADY_CUTS && all.0 * 4 >= all.1;
        // What was opened and broke before anybody could speak of it was open all the same.
        let open = most.max(u32::try_from(burst).unwrap_or(limit)).min(limit);
        if is_burst || is_steady { Meaning::Overload { open } } else { Meaning::None }
    }

    /// The connections were given a rest: what was is forgotten.
    pub(super) fn forget(&mut self) {
        self.events.clear();
    }
}

//! The number of connections above which the origin broke or refused, for as long as that is remembered. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How long a level at which the origin broke is avoided at first; twice as long each time that it breaks again.
const FIRST_MEMORY: Duration = Duration::from_mins(1);
const LONGEST_MEMORY: Duration = Duration::from_mins(30);

/// The most connections that the origin is known to bear; more were too many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wall {
    highest: u32,
    until: Instant,
    memory: Duration,
}

impl Wall {
    /// More than `highest` connections were too many. They are avoided for longer if they were `before`.
    pub(super) fn new(highest: u32, before: Option<Self>, now: Instant) -> Self {
        let memory = match before {
            Some(wall) if highest >= wall.highest => (wall.memory * 2).min(LONGEST_MEMORY),
            _ => FIRST_MEMORY,
        };
        Self { highest, until: now + memory, memory }
    }

    /// The most connections that the origin bears, while it is remembered.
    pub(super) fn remembered(self, now: Instant) -> Option<u32> {
        (now < self.until).then_some(self.highest)
    }

    /// The most connections that may be tried: one step at a time, once it is forgotten.
    pub(super) fn highest(self, now: Instant) -> u32 {
        self.remembered(now).unwrap_or(self.highest.saturating_add(1))
    }

    /// Whether so many connections were too many.
    pub(super) fn is_below(self, connections: u32) -> bool {
        connections > self.highest
    }

    /// The origin has borne so many connections.
    pub(super) fn raise(&mut self, connections: u32) {
        self.highest = self.highest.max(connections);
    }
}

//! The number of connections above which the origin failed or refused, for as long as it is
//! remembered. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Time for which a level at which the origin failed is avoided at first. It doubles each time that
/// the level fails again, up to [`LONGEST_MEMORY`].
const FIRST_MEMORY: Duration = Duration::from_mins(1);
const LONGEST_MEMORY: Duration = Duration::from_mins(30);

/// The highest number of connections that the origin is known to serve; more have failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpperBound {
    highest: u32,
    until: Instant,
    memory: Duration,
}

impl UpperBound {
    /// More than `highest` connections have failed. They are avoided for longer if the bound before
    /// was not higher.
    pub(super) fn new(highest: u32, before: Option<Self>, now: Instant) -> Self {
        let memory = match before {
            Some(upper_bound) if highest >= upper_bound.highest => {
                (upper_bound.memory * 2).min(LONGEST_MEMORY)
            }
            _ => FIRST_MEMORY,
        };
        Self {
            highest,
            until: now + memory,
            memory,
        }
    }

    /// The highest number of connections that may be tried: one more than the bound, once its time
    /// has passed.
    pub(super) fn highest(self, now: Instant) -> u32 {
        let more = u32::from(now >= self.until);
        self.highest.saturating_add(more)
    }

    /// Whether `connections` exceeds the bound.
    pub(super) fn is_exceeded_by(self, connections: u32) -> bool {
        connections > self.highest
    }

    /// The origin has served this many connections.
    pub(super) fn raise(&mut self, connections: u32) {
        self.highest = self.highest.max(connections);
    }
}

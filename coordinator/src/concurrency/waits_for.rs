//! What keeps a worker from sending more requests to the origin, for display.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};
use shared::ids::SessionId;
use tokio::time::Instant;

use super::ConcurrencyController;

/// What keeps a worker from sending more requests to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// The origin asked for a pause (`Retry-After`), which lasts for this time.
    Origin(Duration),
    /// The pause after an overload of the origin, which lasts for this time.
    Overload(Duration),
    /// The worker could use more connections than it has open and than its part of these, which
    /// are allowed to all workers together.
    Limit(u32),
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| time.as_millis().div_ceil(1000);
        match self {
            Self::Origin(time) => write!(formatter, "origin asked for {} s", seconds(time)),
            Self::Overload(time) => {
                write!(formatter, "pause of {} s after an overload", seconds(time))
            }
            Self::Limit(1) => write!(formatter, "limit of 1 connection"),
            Self::Limit(connections) => write!(formatter, "limit of {connections} connections"),
        }
    }
}

impl Serialize for WaitsFor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ConcurrencyController {
    /// What keeps a worker from sending more requests to the origin now.
    pub fn waits_for(&self, id: SessionId, now: Instant) -> Option<WaitsFor> {
        let allocation = self.allocations.get(&id)?;
        let pause = self.pause_until_of(id).saturating_duration_since(now);
        let part = self.connections(id, allocation);
        let wanted = allocation.last.wanted;
        if wanted == 0 {
            None
        } else if pause > self.backoff_until.saturating_duration_since(now) {
            Some(WaitsFor::Origin(pause))
        } else if !pause.is_zero() {
            Some(WaitsFor::Overload(pause))
        } else {
            let waits = part < wanted && allocation.last.open < wanted;
            waits.then(|| WaitsFor::Limit(self.controller.limit()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concurrency::{Ceilings, Observation};

    #[test]
    fn a_worker_waits_for_the_origin_a_pause_or_the_limit() {
        let now = Instant::now();
        let ceilings = Ceilings {
            connections: Some(1),
            ..Ceilings::default()
        };
        let mut controller = ConcurrencyController::new(ceilings, now);
        let id = SessionId(1);
        assert_eq!(controller.waits_for(id, now), None);
        let mut observation = Observation {
            wanted: 3,
            ..Observation::default()
        };
        controller.record_observation(id, &observation, now);
        assert_eq!(controller.waits_for(id, now), Some(WaitsFor::Limit(1)));
        observation.refusals = 1;
        observation.retry_after = Some(Duration::from_millis(11_001));
        controller.record_observation(id, &observation, now);
        let asked = controller.waits_for(id, now).unwrap();
        assert_eq!(asked.to_string(), "origin asked for 12 s");
        observation.retry_after = None;
        controller.resume(now);
        assert_eq!(controller.waits_for(id, now), Some(WaitsFor::Limit(1)));
        controller.backoff_until = now + Duration::from_secs(2);
        controller.extend_pause(controller.backoff_until);
        let pause = controller.waits_for(id, now).unwrap();
        assert_eq!(pause.to_string(), "pause of 2 s after an overload");
        observation.wanted = 0;
        controller.record_observation(id, &observation, now);
        assert_eq!(controller.waits_for(id, now), None);
    }

    #[test]
    fn a_worker_without_a_connection_waits_for_the_limit_of_all_workers() {
        let now = Instant::now();
        let ceilings = Ceilings {
            connections: Some(3),
            ..Ceilings::default()
        };
        let mut controller = ConcurrencyController::new(ceilings, now);
        let of = |open, wanted| Observation {
            open,
            wanted,
            ..Observation::default()
        };
        let (first, second) = (SessionId(1), SessionId(2));
        controller.record_observation(first, &of(0, 3), now);
        controller.record_observation(first, &of(3, 3), now);
        controller.record_observation(second, &of(0, 3), now);
        assert_eq!(controller.budget(second, now).connections, 0);
        let waits_for = controller.waits_for(second, now).unwrap();
        assert_eq!(waits_for.to_string(), "limit of 3 connections");
        // Its part is smaller now, but all its downloads still have a connection.
        assert!(controller.budget(first, now).connections < 3);
        assert_eq!(controller.waits_for(first, now), None);
    }
}

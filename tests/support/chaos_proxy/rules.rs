//! The faults of the chaos proxy.

use std::{net::SocketAddr, time::Duration};

use rand::RngExt;
use tokio::time::Instant;

use super::Direction;

/// The faults that apply to all connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) server: Option<SocketAddr>,
    pub(super) refuses: bool,
    pub(super) blocked: [bool; 2],
    pub(super) flapping: Option<Flapping>,
    pub(super) delay: (Duration, Duration),
    pub(super) bytes_per_second: u64,
    pub(super) longest_silence: Option<Duration>,
    pub(super) resets: [Option<u64>; 2],
}

/// Alternating passing and blocked periods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flapping {
    pub(super) since: Instant,
    pub(super) passing: Duration,
    pub(super) blocked: Duration,
}

impl Rules {
    pub(super) fn is_blocked(&self, direction: Direction) -> bool {
        let flaps = self.flapping.is_some_and(
            |Flapping {
                 since,
                 passing,
                 blocked,
             }| {
                since.elapsed().as_nanos() % (passing + blocked).as_nanos() >= passing.as_nanos()
            },
        );
        self.blocked[direction as usize] || flaps
    }

    pub(super) fn next_delay(&self) -> Duration {
        let (by, give_or_take) = self.delay;
        (by + give_or_take.mul_f64(2.0 * rand::rng().random::<f64>())).saturating_sub(give_or_take)
    }

    pub(super) fn time_for(&self, bytes: usize) -> Duration {
        (bytes as u64 * 1_000_000)
            .checked_div(self.bytes_per_second)
            .map(Duration::from_micros)
            .unwrap_or_default()
    }
}

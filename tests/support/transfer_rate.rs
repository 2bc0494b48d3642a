//! The rate at which an answer is sent.

use std::{net::TcpStream, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{connection::wait_for_disconnect, line::LinkSchedule, origin::State};

/// Bytes per write without a rate limit: large enough that the cost of system calls does not
/// matter.
pub(crate) const SLICE: usize = 512 << 10;

/// Portions per second with a rate limit, for one connection and for the shared link.
const SLICES: u64 = 200;
const SHARED_SLICES: u64 = 500;

/// Decides when the next bytes may be sent.
pub(crate) struct TransferRate<'origin> {
    state: &'origin State,
    /// Bytes of one write.
    pub(crate) slice: usize,
    every: Option<Duration>,
    rate: u64,
    link: LinkSchedule,
}

impl<'origin> TransferRate<'origin> {
    pub(crate) fn new(drip: Option<(usize, Duration)>, state: &'origin State) -> Self {
        let [rate, total] = [&state.traffic.rate, &state.traffic.total_rate]
            .map(|rate| rate.load(Ordering::Relaxed));
        let slice_of =
            |rate: u64, slices_per_second: u64| match usize::try_from(rate / slices_per_second) {
                Ok(_) if rate == 0 => SLICE,
                Ok(slice) => slice.clamp(1, SLICE),
                Err(_) => SLICE,
            };
        let slice = match drip {
            Some((bytes, _)) => bytes.max(1),
            None => slice_of(rate, SLICES).min(slice_of(total, SHARED_SLICES)),
        };
        Self {
            state,
            slice,
            every: drip.map(|(_, every)| every),
            rate,
            link: LinkSchedule::default(),
        }
    }

    /// Waits for the time slot of these bytes on the shared link; false if the client has
    /// disconnected or the origin stops.
    pub(crate) fn wait_for_slot(&self, bytes: u64, stream: &TcpStream) -> bool {
        self.state
            .traffic
            .time_slot(bytes)
            .is_none_or(|begins| self.wait_until(begins, stream))
    }

    /// Waits until these bytes are through at this connection's rate, or for the pause of a drip.
    pub(crate) fn wait_after(&mut self, bytes: u64, stream: &TcpStream) -> bool {
        let now = Instant::now();
        let due = match self.every {
            Some(every) => now + every,
            None if self.rate == 0 => now,
            None => self.link.take(bytes, self.rate, now).ends,
        };
        self.wait_until(due, stream)
    }

    fn wait_until(&self, due: Instant, stream: &TcpStream) -> bool {
        while let Some(left) = due
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            if left < Duration::from_millis(60) {
                std::thread::sleep(left);
            } else if wait_for_disconnect(stream, self.state) {
                return false;
            }
        }
        !self.state.stopping.load(Ordering::Relaxed)
    }
}

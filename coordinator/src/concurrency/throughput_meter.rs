//! The throughput that is shown in the status. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The throughput is a mean over this time.
const AVERAGED_OVER: Duration = Duration::from_secs(3);
/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// Samples of the bytes received over the last [`AVERAGED_OVER`].
#[derive(Debug, Default)]
pub(super) struct ThroughputMeter(VecDeque<(Instant, u64)>);

impl ThroughputMeter {
    pub(super) fn observed(&mut self, received: u64, now: Instant) {
        if self
            .0
            .back()
            .is_none_or(|(at, _)| now - *at >= SAMPLE_INTERVAL)
        {
            self.0.push_back((now, received));
        }
        while self.0.len() > 2
            && self
                .0
                .front()
                .is_some_and(|(at, _)| now - *at > AVERAGED_OVER)
        {
            self.0.pop_front();
        }
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.0.front(), self.0.back()) else {
            return 0;
        };
        let millis = u64::try_from((*to - *from).as_millis()).unwrap_or(u64::MAX);
        after
            .saturating_sub(*before)
            .saturating_mul(1000)
            .checked_div(millis)
            .unwrap_or(0)
    }
}

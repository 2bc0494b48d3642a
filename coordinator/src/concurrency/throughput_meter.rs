//! The throughput that is shown in the status. Pure.

use std::{collections::VecDeque, time::Duration};

use super::totals::Sample;

/// The throughput is a mean over this time.
const AVERAGED_OVER: Duration = Duration::from_secs(3);
/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// Samples over the last [`AVERAGED_OVER`].
#[derive(Debug, Default)]
pub(super) struct ThroughputMeter(VecDeque<Sample>);

impl ThroughputMeter {
    pub(super) fn record_sample(&mut self, sample: Sample) {
        let is_recent = |last: &Sample| sample.at - last.at < SAMPLE_INTERVAL;
        if !self.0.back().is_some_and(is_recent) {
            self.0.push_back(sample);
        }
        while self.0.len() > 2 && sample.at - self.0[0].at > AVERAGED_OVER {
            self.0.pop_front();
        }
    }

    /// 0 before the second sample.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and is positive"
    )]
    pub(super) fn bytes_per_second(&self) -> u64 {
        let ends = self.0.front().zip(self.0.back());
        ends.map_or(0, |(first, last)| first.rate(last) as u64)
    }
}

//! Numbers for people.

use std::time::Duration;

/// How long calls took.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Median, 99th percentile and maximum.
    pub(crate) fn describe(mut self) -> String {
        self.0.sort_unstable();
        let at = |percent: usize| {
            let last = self.0.len().checked_sub(1)?;
            Some(milliseconds(self.0[(self.0.len() * percent / 100).min(last)]))
        };
        match (at(50), at(99), at(100)) {
            (Some(half), Some(most), Some(all)) => format!("p50 {half}, p99 {most}, max {all}"),
            _ => "none".to_owned(),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// So many a second.
pub(crate) fn rate(count: u64, time: Duration) -> String {
    format!("{:.0}/s", real(count) / time.as_secs_f64())
}

/// Cores in use.
pub(crate) fn cores(cpu: Duration, time: Duration) -> String {
    format!("{:.2} cores", cpu.as_secs_f64() / time.as_secs_f64())
}

/// CPU time for each of `count`.
pub(crate) fn microseconds_each(cpu: Duration, count: u64) -> String {
    format!("{:.0} µs", cpu.as_secs_f64() * 1e6 / real(count.max(1)))
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", real(bytes) / f64::from(1 << 20))
}

/// Bytes for each class, beyond what the program needs anyway.
pub(crate) fn bytes_each(bytes: u64, fixed: u64, classes: u32) -> String {
    format!("{:.0}", real(bytes.saturating_sub(fixed)) / f64::from(classes))
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn real(number: u64) -> f64 {
    number as f64
}

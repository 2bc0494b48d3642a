//! Formatting of measurements.

use std::time::Duration;

/// Durations of calls.
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

    /// The given percentile; zero if there were no calls.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((sorted.len() * percent / 100).min(last))
            .copied()
            .unwrap_or_default()
    }

    /// Median, 99th percentile and maximum.
    pub(crate) fn describe(&self) -> String {
        if self.0.is_empty() {
            return "none".to_owned();
        }
        let [half, most, all] = [50, 99, 100].map(|percent| milliseconds(self.at(percent)));
        format!("p50 {half}, p99 {most}, max {all}")
    }
}

pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// A rate per second.
pub(crate) fn rate(count: u64, time: Duration) -> String {
    format!("{:.0}/s", to_f64(count) / time.as_secs_f64())
}

/// Average number of cores in use.
pub(crate) fn cores(cpu: Duration, time: Duration) -> String {
    format!("{:.2} cores", cpu.as_secs_f64() / time.as_secs_f64())
}

/// CPU time per item.
pub(crate) fn microseconds_each(cpu: Duration, count: u64) -> String {
    format!("{:.0} µs", cpu.as_secs_f64() * 1e6 / to_f64(count.max(1)))
}

pub(crate) fn kibibytes(bytes: u64) -> String {
    format!("{:.1} KiB", to_f64(bytes) / 1024.0)
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", to_f64(bytes) / f64::from(1 << 20))
}

/// A rate in bytes per second, in KB (1000 bytes) per second.
pub(crate) fn kilobytes_per_second(bytes_per_second: f64) -> String {
    format!("{:.1} KB/s", bytes_per_second / 1000.0)
}

/// Bytes per second; zero if no time has passed.
pub(crate) fn bytes_per_second(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    to_f64(bytes) / time.as_secs_f64()
}

/// Bytes per class, beyond what the program needs without classes.
pub(crate) fn bytes_each(bytes: u64, fixed: u64, classes: u32) -> String {
    format!(
        "{:.0}",
        to_f64(bytes.saturating_sub(fixed)) / f64::from(classes)
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

//! The export of spans, and how long the end of the program waits for it: a collector that does not
//! answer must not make a job longer.

use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout},
};

/// Time that a collector that has answered has at the end to accept the last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// A collector that has not answered so far has the program's time divided by this.
const SHARE: u32 = 100;
/// Minimum of that time: the spans of a short program also reach a collector that is slow.
const MIN_TIMEOUT: Duration = Duration::from_millis(50);

/// The export of spans to a collector.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) provider: SdkTracerProvider,
    began: Instant,
    /// Sends a request without spans when the program starts; returns whether the collector has
    /// accepted it.
    probe: JoinSet<bool>,
}

impl Export {
    /// Starts the probe.
    pub(super) fn start(provider: SdkTracerProvider, exporter: SpanExporter) -> Self {
        let mut probe = JoinSet::new();
        probe.spawn(async move { exporter.export(Vec::new()).await.is_ok() });
        Self {
            provider,
            began: Instant::now(),
            probe,
        }
    }

    /// Sends the spans that are queued, as far as the collector accepts them in time.
    pub(super) async fn flush(mut self) {
        let share = share_of(self.began.elapsed());
        let limit = match timeout(share, self.probe.join_next()).await {
            Ok(Some(Ok(true))) => FLUSH_TIMEOUT,
            Ok(_) => share,
            // The collector has not answered the probe in this time either.
            Err(_) => Duration::ZERO,
        };
        let flush = move || self.provider.shutdown_with_timeout(limit);
        match spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the last spans were not delivered"),
            Err(error) => tracing::debug!(%error, "the export of spans ended badly"),
        }
    }
}

/// The time that the end of a program of this duration waits for a collector that does not answer.
fn share_of(duration: Duration) -> Duration {
    (duration / SHARE).clamp(MIN_TIMEOUT, FLUSH_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_waits_for_a_hundredth_of_the_time_within_limits() {
        for (seconds, milliseconds) in [(1, 50), (10, 100), (60, 600), (200, 2000), (9000, 2000)] {
            let share = share_of(Duration::from_secs(seconds));
            assert_eq!(share, Duration::from_millis(milliseconds), "{seconds} s");
        }
    }
}

//! Counters of this worker's work, kept in atomics and updated where the events happen. They are
//! read by the metrics endpoint and the reports to the coordinator.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use shared::metrics::{Durations, MetricsSource, Page};

/// Counters of one process, over all its sessions and runs.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    pub(crate) slots: Gauge,
    pub(crate) busy: Gauge,
    pub(crate) received: Counter,
    pub(crate) retries: Counter,
    /// Connections in use, requests that wait, and the limit of the origin limiter.
    pub(crate) origin_open: Gauge,
    pub(crate) origin_waiting: Gauge,
    pub(crate) origin_limit: Gauge,
    pub(crate) origin_requests: Counter,
    /// Additional requests that follow redirects of the origin.
    pub(crate) origin_redirects: Counter,
    /// Requests that failed without an answer, or whose body ended early.
    pub(crate) origin_cuts: Counter,
    /// Answers 429 and 503.
    pub(crate) origin_refusals: Counter,
    /// Time from a class being complete in its staging folder to its publication.
    pub(crate) publishes: Durations,
    pub(crate) missed_renewals: Counter,
    /// Class folders that differed from their manifests and were replaced.
    pub(crate) replaced_folders: Counter,
    /// Classes that have left their slots, by outcome.
    pub(crate) success: Counter,
    pub(crate) skipped: Counter,
    pub(crate) failed: Counter,
    pub(crate) handed_back: Counter,
    registered: AtomicBool,
}

impl WorkerCounters {
    /// Whether the worker is registered and the coordinator has answered lately.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    pub(crate) fn set_registered(&self, registered: bool) {
        self.registered.store(registered, Ordering::Relaxed);
    }

    /// Logs how many class folders differed from their manifests, if there were any.
    pub(crate) fn log_replaced_folders(&self) {
        match self.replaced_folders.get() {
            0 => {}
            1 => tracing::warn!("1 class folder differed from its manifest and was replaced"),
            count => tracing::warn!(
                "{count} class folders differed from their manifests and were replaced"
            ),
        }
    }

    /// Requests to the origin, including those that follow redirects.
    pub(crate) fn requests_with_redirects(&self) -> u64 {
        self.origin_requests
            .get()
            .saturating_add(self.origin_redirects.get())
    }
}

impl WorkerCounters {
    /// Each with its name and its help.
    fn gauges(&self) -> [(&str, &str, &Gauge); 5] {
        [
            (
                "worker_slots",
                "Downloads that may run at the same time.",
                &self.slots,
            ),
            (
                "worker_busy_slots",
                "Downloads that are running.",
                &self.busy,
            ),
            (
                "worker_origin_connections",
                "Connections to the origin that have a request.",
                &self.origin_open,
            ),
            (
                "worker_origin_waiting",
                "Requests to the origin that wait for a connection.",
                &self.origin_waiting,
            ),
            (
                "worker_origin_budget",
                "Connections to the origin that this worker may use.",
                &self.origin_limit,
            ),
        ]
    }
}

impl MetricsSource for WorkerCounters {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "worker_registered",
            "1 while the worker is registered and the coordinator answers, else 0.",
            u64::from(self.is_registered()),
        )?;
        page.counters(
            "worker_classes",
            "Classes that left a slot; handed_back ones have a checkpoint and are resumed later.",
            &[
                (("outcome", "success"), self.success.get()),
                (("outcome", "skipped"), self.skipped.get()),
                (("outcome", "failed"), self.failed.get()),
                (("outcome", "handed_back"), self.handed_back.get()),
            ],
        )?;
        for (name, help, gauge) in self.gauges() {
            page.metric(name, help, gauge)?;
        }
        for (name, help, counter) in [
            (
                "worker_received_bytes",
                "Bytes received from the origin.",
                &self.received,
            ),
            (
                "worker_retries",
                "Requests to the origin that were repeated after an error or an interrupted body.",
                &self.retries,
            ),
            (
                "worker_origin_requests",
                "Requests to the origin.",
                &self.origin_requests,
            ),
            (
                "worker_origin_redirects",
                "Redirects that were followed.",
                &self.origin_redirects,
            ),
            (
                "worker_origin_cuts",
                "Requests that failed: no connection, no answer, or a body that ended early.",
                &self.origin_cuts,
            ),
            (
                "worker_origin_refusals",
                "Answers 429 and 503 of the origin.",
                &self.origin_refusals,
            ),
            (
                "worker_renewal_failures",
                "Renewals of leases that had no answer.",
                &self.missed_renewals,
            ),
        ] {
            page.metric(name, help, counter)?;
        }
        page.metric(
            "worker_publish_seconds",
            "Time from a complete class in the staging folder to its publication under the final name.",
            &self.publishes,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::metrics::Metrics;

    use super::*;

    #[test]
    fn classes_are_shown_by_how_they_left_their_slots() {
        let counters = Arc::new(WorkerCounters::default());
        counters.slots.set(3);
        counters.success.inc_by(2);
        counters.skipped.inc();
        counters.failed.inc_by(2);
        counters.handed_back.inc();
        let text = Metrics::new("worker", crate::version::VERSION, counters)
            .text()
            .unwrap();
        for (outcome, count) in [
            ("success", 2),
            ("skipped", 1),
            ("failed", 2),
            ("handed_back", 1),
        ] {
            let sample =
                format!("\nimagenet_worker_classes_total{{outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&sample), "no {sample} in {text}");
        }
        assert!(
            text.contains("\nimagenet_worker_slots 3\n")
                && text.contains("\nimagenet_worker_registered 0\n")
        );
    }
}

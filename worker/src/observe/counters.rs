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
    success: Counter,
    skipped: Counter,
    failed: Counter,
    handed_back: Counter,
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

    /// Counts a class that has left its slot.
    pub(crate) fn ended(&self, end: ClassEnd) {
        let counter = match end {
            ClassEnd::Success => &self.success,
            ClassEnd::Skipped => &self.skipped,
            ClassEnd::Failed => &self.failed,
            ClassEnd::HandedBack => &self.handed_back,
        };
        counter.inc();
    }
}

/// How a class left its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClassEnd {
    Success,
    Skipped,
    Failed,
    /// Not finished; the next lease of the class continues where this one ended.
    HandedBack,
}

impl WorkerCounters {
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

    fn origin(&self, page: &mut Page<'_>) -> fmt::Result {
        for (name, help, gauge) in [
            (
                "connections",
                "Connections to the origin with a request on them.",
                &self.origin_open,
            ),
            (
                "waiting",
                "Requests to the origin that wait for a connection.",
                &self.origin_waiting,
            ),
            (
                "budget",
                "Connections to the origin that this worker may have.",
                &self.origin_limit,
            ),
        ] {
            page.gauge(&format!("worker_origin_{name}"), help, count(gauge))?;
        }
        for (name, help, counter) in [
            ("requests", "Requests to the origin.", &self.origin_requests),
            (
                "redirects",
                "Redirects that were followed.",
                &self.origin_redirects,
            ),
            (
                "cuts",
                "Failed requests: no connection, no answer, or a body that ended early.",
                &self.origin_cuts,
            ),
            (
                "refusals",
                "Answers 429 and 503 of the origin.",
                &self.origin_refusals,
            ),
        ] {
            page.counter(&format!("worker_origin_{name}"), help, counter.get())?;
        }
        Ok(())
    }
}

fn count(gauge: &Gauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or_default()
}

impl MetricsSource for WorkerCounters {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let registered = u64::from(self.is_registered());
        page.gauge(
            "worker_registered",
            "1 while the coordinator knows the worker and answers.",
            registered,
        )?;
        page.gauge(
            "worker_slots",
            "Downloads that may run at once.",
            count(&self.slots),
        )?;
        page.gauge(
            "worker_busy_slots",
            "Downloads that run.",
            count(&self.busy),
        )?;
        page.counters(
            "worker_classes",
            "Classes that left a slot, by outcome; those handed back are checkpointed and go on elsewhere.",
            &[
                (("outcome", "success"), self.success.get()),
                (("outcome", "skipped"), self.skipped.get()),
                (("outcome", "failed"), self.failed.get()),
                (("outcome", "handed_back"), self.handed_back.get()),
            ],
        )?;
        page.counter(
            "worker_received_bytes",
            "Bytes received from the origin.",
            self.received.get(),
        )?;
        let retries =
            "Requests to the origin that are made again, after an error or in the middle of a tar.";
        page.counter("worker_retries", retries, self.retries.get())?;
        self.origin(page)?;
        let publish =
            "How long a complete class waits until it is on the disk under its final name.";
        page.metric("worker_publish_seconds", publish, &self.publishes)?;
        let missed = "Renewals of the leases that had no answer.";
        page.counter(
            "worker_renewal_failures",
            missed,
            self.missed_renewals.get(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::metrics::Metrics;

    use super::*;

    #[test]
    fn a_class_is_counted_by_how_it_left_its_slot() {
        use ClassEnd::{Failed, HandedBack, Skipped, Success};

        let counters = Arc::new(WorkerCounters::default());
        counters.slots.set(3);
        for end in [Success, Success, Skipped, Failed, Failed, HandedBack] {
            counters.ended(end);
        }
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

//! The coordinator's metrics. Current values come from the dispatcher's published status.

use std::fmt;

use shared::metrics::{MetricsSource, Page};

use super::{CoordinatorState, RunningJob};
use crate::fleet::Phase;

impl MetricsSource for CoordinatorState {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let ready = u64::from(self.readiness().is_ok());
        page.gauge(
            "ready",
            "1 while it leases classes, as /readyz says.",
            ready,
        )?;
        self.running_job
            .get()
            .map_or(Ok(()), |running_job| running_job.write(page))
    }
}

impl RunningJob {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = self.handle.status();
        let counters = self.handle.counters();
        page.gauge(
            "coordinator_epoch",
            "How often a coordinator was started on this ledger.",
            self.epoch.into(),
        )?;
        page.gauge(
            "job_classes",
            "Rows of the job's list, those that are no id too.",
            status.total,
        )?;
        page.gauges(
            "classes",
            "Classes by state; together they are imagenet_job_classes.",
            &[
                (("state", "success"), status.success),
                (("state", "skipped"), status.skipped),
                (("state", "failed"), status.failed),
                (("state", "leased"), status.leased),
                (("state", "pending"), status.pending),
            ],
        )?;
        let now = self.handle.phase();
        let phase = |label, phase| (("phase", label), u64::from(now == phase));
        page.gauges(
            "phase",
            "1 for what the coordinator is doing, 0 for what it is not.",
            &[
                phase("recovering", Phase::Recovering),
                phase("running", Phase::Running),
                phase("waiting_for_workers", Phase::WaitingForWorkers),
                phase("origin_paused", Phase::OriginPaused),
                phase("done", Phase::Done),
            ],
        )?;
        page.gauge(
            "workers",
            "Workers that are registered.",
            status.workers.into(),
        )?;
        let received = "Bytes received from the origin by all workers, as they say, since the coordinator started.";
        page.counter("received_bytes", received, status.received_bytes)?;
        page.counter(
            "grants",
            "Leases granted since the coordinator started.",
            counters.grants.get(),
        )?;
        page.counters(
            "reports",
            "Results taken from workers since the coordinator started, by outcome; repeated ones count again.",
            &[
                (("outcome", "success"), counters.success.get()),
                (("outcome", "skipped"), counters.skipped.get()),
                (("outcome", "failed"), counters.failed.get()),
            ],
        )?;
        let copies = "Second copies of classes that took too long on another worker, by what became of them.";
        page.counters(
            "coordinator_copies",
            copies,
            &[
                (("event", "granted"), counters.copies.granted.get()),
                (("event", "won"), counters.copies.won.get()),
                (("event", "took_over"), counters.copies.took_over.get()),
            ],
        )?;
        let bytes = "Lengths of the tars of which second copies were granted.";
        page.counter(
            "coordinator_copies_granted_bytes",
            bytes,
            counters.copies.granted_bytes.get(),
        )?;
        let expired =
            "Sessions of workers that were silent for longer than the lease's time to live.";
        page.counter("expired_sessions", expired, counters.expired_sessions.get())?;
        page.metric(
            "ledger_commit_seconds",
            "How long a commit of the ledger takes.",
            &self.commits,
        )?;
        self.origin(page)?;
        let calls = "How long gRPC calls take; Acquire waits while there is nothing to lease.";
        page.metric("rpc_seconds", calls, &counters.calls.0)?;
        self.others.iter().try_for_each(|other| other.write(page))
    }

    /// Metrics of the origin, over all workers that take part in the shared budget.
    fn origin(&self, page: &mut Page<'_>) -> fmt::Result {
        let origin = self.handle.pace();
        for (name, help, value) in [
            (
                "limit",
                "Connections to the origin that are allowed to all workers together.",
                origin.limit,
            ),
            (
                "open",
                "Connections to the origin with a request on them.",
                origin.open,
            ),
            (
                "wanted",
                "Connections to the origin that the workers could use.",
                origin.wanted,
            ),
        ] {
            page.gauge(
                &format!("coordinator_origin_connections_{name}"),
                help,
                value.into(),
            )?;
        }
        let quiet =
            "For how long no request is sent to the origin, because it asked for that or broke.";
        page.gauge(
            "coordinator_origin_quiet_seconds",
            quiet,
            origin.quiet.as_secs() + u64::from(origin.quiet.subsec_nanos() > 0),
        )?;
        let speed = "Bytes that come from the origin each second, over the last seconds.";
        page.gauge(
            "coordinator_origin_bytes_per_second",
            speed,
            origin.bytes_per_second,
        )?;
        for (name, help, value) in [
            (
                "requests",
                "Requests to the origin, as the workers say, since the coordinator started.",
                origin.requests,
            ),
            (
                "cuts",
                "Failed requests: no connection, no answer, or a body that ended early.",
                origin.cuts,
            ),
            (
                "refusals",
                "Answers 429 and 503 of the origin.",
                origin.refusals,
            ),
            ("overloads", "Bursts of failed requests.", origin.overloads),
        ] {
            page.counter(&format!("coordinator_origin_{name}"), help, value)?;
        }
        Ok(())
    }
}

//! The coordinator's metrics. Current values come from the dispatcher's published status.

use std::fmt;

use shared::metrics::{MetricsSource, Page};

use super::{CoordinatorState, RunningJob};
use crate::fleet::{Phase, WorkerState};

impl MetricsSource for CoordinatorState {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "1 while the coordinator grants leases, as in /readyz, else 0.";
        page.gauge("ready", help, self.readiness().is_ok().into())?;
        let job = self.running_job.get();
        job.map_or(Ok(()), |job| job.write(page))
    }
}

impl RunningJob {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        let epoch = "Number of times that a coordinator was started on this ledger.";
        page.gauge("coordinator_epoch", epoch, self.epoch.into())?;
        self.classes(page)?;
        self.results(page)?;
        let commits = "Duration of a commit of the ledger.";
        page.metric("ledger_commit_seconds", commits, &self.commits)?;
        self.origin(page)?;
        let calls = "Duration of a gRPC call; Acquire waits while there is nothing to lease.";
        page.metric("rpc_seconds", calls, &self.handle.counters().calls.0)?;
        self.others.iter().try_for_each(|other| other.write(page))
    }

    /// What the job is doing now.
    fn classes(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = self.handle.status();
        let rows = "Rows of the job's class list, including rows without a class id.";
        page.gauge("job_classes", rows, status.total)?;
        let classes = [
            (("state", "success"), status.success),
            (("state", "skipped"), status.skipped),
            (("state", "failed"), status.failed),
            (("state", "leased"), status.leased),
            (("state", "pending"), status.pending),
        ];
        let help = "Classes by state; together they are imagenet_job_classes.";
        page.gauges("classes", help, &classes)?;
        let now = self.handle.phase();
        let phases = [
            ("recovering", Phase::Recovering),
            ("running", Phase::Running),
            ("waiting_for_workers", Phase::WaitingForWorkers),
            ("origin_paused", Phase::OriginPaused),
            ("done", Phase::Done),
        ];
        let phases = phases.map(|(label, phase)| (("phase", label), u64::from(now == phase)));
        let help = "1 for the current phase of the job, 0 for the others.";
        page.gauges("phase", help, &phases)?;
        let counts = self.handle.worker_states();
        let workers =
            WorkerState::ALL.map(|state| (("state", state.name()), u64::from(counts.of(state))));
        let help = "Workers by state; all but the lost ones are registered.";
        page.gauges("workers", help, &workers)?;
        let received = "Bytes received from the origin by all workers, as they say, since the coordinator started.";
        page.counter("received_bytes", received, status.received_bytes)
    }

    /// What has happened since the coordinator started.
    fn results(&self, page: &mut Page<'_>) -> fmt::Result {
        let counters = self.handle.counters();
        let grants = "Leases granted since the coordinator started.";
        page.counter("grants", grants, counters.grants.get())?;
        let outcomes = [
            (("outcome", "success"), counters.success.get()),
            (("outcome", "skipped"), counters.skipped.get()),
            (("outcome", "failed"), counters.failed.get()),
        ];
        let help = "Results accepted from workers since the coordinator started; a repeated report counts again.";
        page.counters("reports", help, &outcomes)?;
        let attempts = &counters.attempts;
        let events = [
            (("event", "granted"), attempts.granted.get()),
            (("event", "won"), attempts.won.get()),
            (("event", "took_over"), attempts.took_over.get()),
        ];
        let help = "Speculative attempts (second leases of classes that take long), by event.";
        page.counters("coordinator_copies", help, &events)?;
        let bytes = "Sum of the lengths of the tars for which speculative attempts were granted.";
        let granted = attempts.granted_bytes.get();
        page.counter("coordinator_copies_granted_bytes", bytes, granted)?;
        let expired = "Sessions that ended because the worker did not renew its leases in time.";
        page.counter("expired_sessions", expired, counters.expired_sessions.get())
    }

    /// Metrics of the origin, over all workers that take part in the shared budget.
    fn origin(&self, page: &mut Page<'_>) -> fmt::Result {
        let origin = self.handle.concurrency_status();
        let limit = "Connections to the origin that all workers together may use.";
        let open = "Connections to the origin that have a request.";
        let wanted = "Connections to the origin that the workers could use.";
        let pause =
            "Rest of the pause in which no request is sent to the origin; 0 if there is none.";
        let seconds = origin.pause.as_secs() + u64::from(origin.pause.subsec_nanos() > 0);
        let speed = "Rate at which all workers receive from the origin, averaged over seconds.";
        for (name, help, value) in [
            ("connections_limit", limit, origin.limit.into()),
            ("connections_open", open, origin.open.into()),
            ("connections_wanted", wanted, origin.wanted.into()),
            ("quiet_seconds", pause, seconds),
            ("bytes_per_second", speed, origin.bytes_per_second),
        ] {
            page.gauge(&format!("coordinator_origin_{name}"), help, value)?;
        }
        let requests = "Requests to the origin, as reported by the workers.";
        let cuts = "Requests that failed: no connection, no answer, or a body that ended early.";
        let refusals = "Answers 429 and 503 of the origin.";
        for (name, help, value) in [
            ("requests", requests, origin.requests),
            ("cuts", cuts, origin.cuts),
            ("refusals", refusals, origin.refusals),
            ("overloads", "Bursts of failed requests.", origin.overloads),
        ] {
            page.counter(&format!("coordinator_origin_{name}"), help, value)?;
        }
        Ok(())
    }
}

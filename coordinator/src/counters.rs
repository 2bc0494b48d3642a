//! Counters since this process started, for the metrics endpoint. They are updated without a lock.
//! The current state of the job is published by the dispatcher.

use prometheus_client::metrics::{counter::Counter, family::Family};
use shared::{
    metrics::{Durations, Label},
    outcome::Outcome,
    protocol::{method, status_name},
    telemetry::trace,
};
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use crate::lease_table::AttemptEvent;

/// The coordinator's counters, shared by all tasks that update them.
#[derive(Debug, Default)]
pub struct JobCounters {
    /// Leases granted.
    pub grants: Counter,
    /// Results accepted from workers, including results that were known before.
    pub success: Counter,
    /// As `success`.
    pub skipped: Counter,
    /// As `success`.
    pub failed: Counter,
    /// Speculative attempts.
    pub attempts: SpeculativeCounters,
    /// Sessions that expired because the worker sent no heartbeat.
    pub expired_sessions: Counter,
    /// Calls of workers and other clients.
    pub calls: Calls,
}

impl JobCounters {
    /// Counts a result.
    pub fn reported(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Success(_) => &self.success,
            Outcome::Skipped(_) => &self.skipped,
            Outcome::Failed(_) => &self.failed,
        };
        counter.inc();
    }
}

/// Counters of speculative attempts: second leases of classes that another worker holds.
#[derive(Debug, Default)]
pub struct SpeculativeCounters {
    /// Speculative attempts started.
    pub granted: Counter,
    /// Sum of the lengths of their tars, in bytes.
    pub granted_bytes: Counter,
    /// Attempts that published their class first.
    pub won: Counter,
    /// Attempts that became the only one, because the first holder lost or failed the class.
    pub took_over: Counter,
}

impl SpeculativeCounters {
    /// Counts an event of a speculative attempt.
    pub(crate) fn note(&self, news: &AttemptEvent) {
        match news {
            AttemptEvent::Granted { length, .. } => {
                self.granted.inc();
                self.granted_bytes.inc_by(*length);
            }
            AttemptEvent::Won => drop(self.won.inc()),
            AttemptEvent::Promoted => drop(self.took_over.inc()),
            AttemptEvent::Late | AttemptEvent::Failed | AttemptEvent::GivenBack => {}
        }
    }
}

/// Methods of the standard health service.
const HEALTH: [&str; 2] = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"];

/// The full name of a known gRPC method.
pub(crate) fn known_method(path: &str) -> Option<&'static str> {
    let mut known = method::ALL.into_iter().chain(HEALTH);
    known.find(|name| path.strip_prefix('/') == Some(name))
}

/// The full name of a known gRPC method, or `other`.
fn known_call(path: &str) -> &'static str {
    known_method(path).unwrap_or("other")
}

/// Durations of calls by method and code. Clones refer to the same table, which has a cell for each
/// combination, so that recording needs no lock.
#[derive(Debug, Clone, Default)]
pub struct Calls(pub(crate) Family<[Label; 3], Durations>);

/// A call in progress. It is recorded when it is dropped, also if the client has disconnected.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Calls,
    service: &'static str,
    method: &'static str,
    began: Instant,
    /// The span of the call, in which its status is recorded.
    span: Span,
    /// The status code of the response; `Cancelled` until there is one.
    pub(crate) code: Code,
}

impl Calls {
    /// Starts the clock of a call to `path`.
    pub(crate) fn begin(self, path: &str) -> Call {
        let name = known_call(path);
        let (service, method) = name.rsplit_once('/').unwrap_or((name, name));
        let service = service.rsplit('.').next().unwrap_or(service);
        Call {
            calls: self,
            service,
            method,
            began: Instant::now(),
            span: Span::current(),
            code: Code::Cancelled,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let labels = labels(self.service, self.method, status_name(self.code));
        let durations = self.calls.0.get_or_create(&labels);
        durations.record(self.began.elapsed());
        trace::answered(&self.span, self.code, is_fault_of_server(self.code));
    }
}

/// Whether a status means that this server has failed, by the semantic conventions for gRPC.
fn is_fault_of_server(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

pub(crate) fn labels(
    service: &'static str,
    method: &'static str,
    code: &'static str,
) -> [Label; 3] {
    [("service", service), ("method", method), ("code", code)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_by_its_method_and_its_code() {
        let calls = Calls::default();
        for (path, code) in [
            ("/imagenet.v1.Coordinator/Renew", Some(Code::Ok)),
            ("/imagenet.v1.Coordinator/Renew", Some(Code::Ok)),
            ("/grpc.health.v1.Health/Check", Some(Code::Unauthenticated)),
            ("/imagenet.v1.Coordinator/Acquire", None),
            ("/n02124075/../x", Some(Code::Unimplemented)),
        ] {
            let mut call = calls.clone().begin(path);
            if let Some(code) = code {
                call.code = code;
            }
        }
        for (service, method, code) in [
            ("Coordinator", "Renew", "OK"),
            ("Coordinator", "Acquire", "CANCELLED"),
            ("Health", "Check", "UNAUTHENTICATED"),
            ("other", "other", "UNIMPLEMENTED"),
        ] {
            assert!(
                calls.0.get(&labels(service, method, code)).is_some(),
                "{service} {method} {code}"
            );
        }
        assert_eq!(
            known_call("/imagenet.v1.Coordinator/Renew"),
            "imagenet.v1.Coordinator/Renew"
        );
        assert_eq!(
            (known_call(""), known_call("/n02124075")),
            ("other", "other")
        );
    }
}

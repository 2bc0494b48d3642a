//! What has happened since this process started, counted without a lock where it happens. What stands now is the dispatcher's
//! to tell; this is only for those who look from outside.

use prometheus_client::metrics::{counter::Counter, family::Family};
use shared::{
    metrics::{Durations, Label},
    outcome::Outcome,
};
use tokio::time::Instant;
use tonic::Code;

use crate::lease_table::CopyNews;

/// See the module. Shared by all who count.
#[derive(Debug, Default)]
pub struct Tally {
    /// Leases granted.
    pub grants: Counter,
    /// Results taken from workers, also those that were known before.
    pub success: Counter,
    /// As `success`.
    pub skipped: Counter,
    /// As `success`.
    pub failed: Counter,
    /// Second copies of classes.
    pub copies: CopyTally,
    /// Sessions that ended because nothing was heard of the worker.
    pub expired_sessions: Counter,
    /// Calls of workers and others.
    pub calls: Calls,
}

impl Tally {
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

/// Second copies of classes that others held.
#[derive(Debug, Default)]
pub struct CopyTally {
    /// Begun.
    pub granted: Counter,
    /// Lengths of their tars, in bytes.
    pub granted_bytes: Counter,
    /// First to publish.
    pub won: Counter,
    /// Left alone with the class, because the holder lost or failed it.
    pub took_over: Counter,
}

impl CopyTally {
    /// Counts what became of a copy.
    pub(crate) fn note(&self, news: &CopyNews) {
        match news {
            CopyNews::Granted { length, .. } => {
                self.granted.inc();
                self.granted_bytes.inc_by(*length);
            }
            CopyNews::Won => drop(self.won.inc()),
            CopyNews::TookOver => drop(self.took_over.inc()),
            CopyNews::Late | CopyNews::CameToNothing | CopyNews::GivenBack => {}
        }
    }
}

/// The calls that exist. Whatever else somebody asks for is counted as one.
const METHODS: [(&str, &str, &str); 14] = [
    ("/imagenet.v1.Coordinator/Register", "Coordinator", "Register"),
    ("/imagenet.v1.Coordinator/Renew", "Coordinator", "Renew"),
    ("/imagenet.v1.Coordinator/Acquire", "Coordinator", "Acquire"),
    ("/imagenet.v1.Coordinator/Report", "Coordinator", "Report"),
    ("/imagenet.v1.Coordinator/Leave", "Coordinator", "Leave"),
    ("/imagenet.v1.Coordinator/Watch", "Coordinator", "Watch"),
    ("/imagenet.v1.Coordinator/Pace", "Coordinator", "Pace"),
    ("/imagenet.v1.Admin/GetFleet", "Admin", "GetFleet"),
    ("/imagenet.v1.Admin/ListClasses", "Admin", "ListClasses"),
    ("/imagenet.v1.Admin/RetryFailed", "Admin", "RetryFailed"),
    ("/imagenet.v1.Admin/DrainWorker", "Admin", "DrainWorker"),
    ("/imagenet.v1.Admin/Resume", "Admin", "Resume"),
    ("/grpc.health.v1.Health/Check", "Health", "Check"),
    ("/grpc.health.v1.Health/Watch", "Health", "Watch"),
];
/// By number, as gRPC has them.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A call's name as gRPC writes it, or `other`.
pub(crate) fn known_call(path: &str) -> &'static str {
    let known = METHODS.iter().find(|(known, ..)| path == *known);
    known.map_or("other", |(path, ..)| path.trim_start_matches('/'))
}

/// How long calls took, by service, method and code.
#[derive(Debug, Default)]
pub struct Calls(pub(crate) Family<[Label; 3], Durations>);

/// A call that is being answered; counted when it is dropped, as cancelled unless it was answered.
#[derive(Debug)]
pub(crate) struct Call {
    service: &'static str,
    method: &'static str,
    began: Instant,
    code: Code,
}

impl Call {
    /// A call has come, for this path.
    pub(crate) fn begin(path: &str) -> Self {
        let known = METHODS.iter().find(|(known, ..)| path == *known);
        let (_, service, method) = *known.unwrap_or(&("", "other", "other"));
        Self { service, method, began: Instant::now(), code: Code::Cancelled }
    }

    /// It was answered.
    pub(crate) fn answered(&mut self, code: Code) {
        self.code = code;
    }
}

impl Calls {
    /// Counts a call that has ended.
    pub(crate) fn ended(&self, call: &Call) {
        let code = usize::try_from(i32::from(call.code)).unwrap_or_default();
        let labels = labels(call.service, call.method, CODES[code.min(CODES.len() - 1)]);
        self.0.get_or_create(&labels).record(call.began.elapsed());
    }
}

pub(crate) fn labels(service: &'static str, method: &'static str, code: &'static str) -> [Label; 3] {
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
            let mut call = Call::begin(path);
            if let Some(code) = code {
                call.answered(code);
            }
            calls.ended(&call);
        }
        for (service, method, code) in [
            ("Coordinator", "Renew", "OK"),
            ("Coordinator", "Acquire", "CANCELLED"),
            ("Health", "Check", "UNAUTHENTICATED"),
            ("other", "other", "UNIMPLEMENTED"),
        ] {
            assert!(calls.0.get(&labels(service, method, code)).is_some(), "{service} {method} {code}");
        }
        assert_eq!(known_call("/imagenet.v1.Coordinator/Renew"), "imagenet.v1.Coordinator/Renew");
        assert_eq!((known_call(""), known_call("/n02124075")), ("other", "other"));
    }
}

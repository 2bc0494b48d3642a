//! The largest report that a worker sends.

use proto::{Failure, FailureKind, Outcome, ReportRequest, outcome::Kind};

/// A worker's limits are 4,096 results and 1 MiB; this report has 1,023 KiB. It changes no state:
/// the coordinator accepts a failure only with the token of a valid lease.
pub fn largest_report() -> ReportRequest {
    let kind = FailureKind::NotATar.into();
    let failure = Failure {
        kind,
        message: "m".repeat(160),
        ..Failure::default()
    };
    let outcome = Outcome {
        kind: Some(Kind::Failure(failure)),
    };
    let result = |number| proto::Result {
        wnid: format!("n{number:08}"),
        token: u64::MAX,
        outcome: Some(outcome.clone()),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        needs_lease: false,
    };
    ReportRequest {
        session_id: 1,
        results: (1..=4096).map(result).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    #[test]
    fn the_report_has_nearly_a_mebibyte() {
        let length = super::largest_report().encoded_len();
        assert!((983 << 10..=1 << 20).contains(&length), "{length} bytes");
    }
}

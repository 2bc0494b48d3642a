//! Conversions between wire messages and checked types for both services. Messages are parsed once,
//! within limits; a refusal contains the reason.

use std::fmt::Display;

use shared::{
    Wnid,
    ids::LeaseToken,
    outcome::{LONGEST_MESSAGE, Outcome, printable_within},
    protocol::MAX_BATCH,
    telemetry::trace,
};
use tonic::Status;
use tracing::Span;

pub(crate) use shared::protocol::milliseconds;

use crate::{
    dispatcher::{DispatchError, Reported},
    lease_table::{Lease, Refused, ReportedLease},
};

/// Longer names are cut, in characters; they are shown, nothing else.
const MAX_NAME: usize = 128;

impl From<DispatchError> for Status {
    fn from(error: DispatchError) -> Self {
        let message = error.to_string();
        match error {
            DispatchError::UnknownSession(_) | DispatchError::NotInList(_) => {
                Self::not_found(message)
            }
            // The operator of the worker must act. A retry does not help.
            DispatchError::Refused(Refused::NameTaken { .. }) => Self::already_exists(message),
            DispatchError::Refused(Refused::NameOfAnother { .. }) => {
                Self::permission_denied(message)
            }
            DispatchError::Refused(Refused::TooMany) => Self::unavailable(message),
            DispatchError::Stopped => Self::unavailable("the coordinator is at its end"),
        }
    }
}

/// Refuses a batch that is longer than [`MAX_BATCH`].
pub(crate) fn at_most<T>(batch: Vec<T>) -> Result<Vec<T>, Status> {
    if batch.len() > MAX_BATCH {
        return Err(too_many(batch.len()));
    }
    Ok(batch)
}

/// The refusal of a message that names more than [`MAX_BATCH`] classes.
pub(crate) fn too_many(named: impl Display) -> Status {
    Status::invalid_argument(format!(
        "a message may name {MAX_BATCH} classes, this one {named}"
    ))
}

/// Parses a class id.
pub(crate) fn wnid(text: &str) -> Result<Wnid, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("\"{}\" is {error}", shown(text))))
}

fn lease(named: &str, token: u64) -> Result<Lease, Status> {
    Ok(Lease {
        wnid: wnid(named)?,
        token: LeaseToken(token),
    })
}

/// Parses the leases that a worker holds.
pub(crate) fn held(held: Vec<proto::Held>) -> Result<Vec<ReportedLease>, Status> {
    let known = |held: proto::Held| {
        Ok(ReportedLease {
            lease: lease(&held.wnid, held.token)?,
            bytes: held.bytes,
            length: held.length,
            is_local: held.is_local,
        })
    };
    at_most(held)?.into_iter().map(known).collect()
}

/// Truncates a sentence for the log, the ledger and the screen.
pub(crate) fn sentence(text: &str) -> String {
    printable_within(text, LONGEST_MESSAGE)
}

/// Truncates a text that is only displayed.
pub(crate) fn shown(text: &str) -> String {
    // A character has at most four bytes.
    printable_within(text, 4 * MAX_NAME)
        .chars()
        .take(MAX_NAME)
        .collect()
}

/// Parses a result and the tracing span of its settlement.
pub(crate) fn reported(result: proto::Result) -> Result<(Reported, Span), Status> {
    let outcome = result
        .outcome
        .ok_or_else(|| Status::invalid_argument("a result has no outcome"))?;
    let outcome =
        Outcome::try_from(outcome).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let lease = lease(&result.wnid, result.token)?;
    let span = trace::settling(lease.wnid, lease.token, &outcome, &result.traceparent);
    let reported = Reported {
        lease,
        outcome,
        needs_lease: result.needs_lease,
    };
    Ok((reported, span))
}

/// Leases as message entries.
pub(crate) fn leases(leases: &[Lease]) -> Vec<proto::Held> {
    let named = |lease: &Lease| proto::Held {
        wnid: lease.wnid.to_string(),
        token: lease.token.0,
        ..proto::Held::default()
    };
    leases.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_message_are_truncated_after_they_were_escaped() {
        let escapes = "\u{1}".repeat(1_000_000);
        assert_eq!(sentence(&escapes), "\\u{1}".repeat(LONGEST_MESSAGE / 5));
        assert_eq!(sentence("short"), "short");
        assert_eq!(shown(&escapes).len(), MAX_NAME);
        assert_eq!(shown(&"ü".repeat(MAX_NAME + 1)), "ü".repeat(MAX_NAME));
        let refused = wnid(&escapes).unwrap_err();
        assert!(refused.message().len() < 2 * MAX_NAME, "{refused}");
    }
}

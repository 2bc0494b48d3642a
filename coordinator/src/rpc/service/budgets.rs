//! One worker's budget stream: the worker sends observations, and the coordinator sends a budget
//! whenever it has changed.

use std::time::Duration;

use futures_util::{Stream, stream};
use shared::{
    ids::SessionId,
    outcome::printable_within,
    protocol::{MAX_RETRY_AFTER, MAX_SLOTS},
};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::{
    concurrency::{Budget, Observation},
    dispatcher::DispatcherHandle,
    lease_table::LiveReport,
    rpc::conversions::{held, milliseconds},
};

/// Upper limit for the bytes that one worker reports. The counters of all workers are added, and
/// their sum must not overflow.
pub(super) const MAX_RECEIVED: u64 = 1 << 48;

/// Limit in bytes for the worker's message on why the origin has not responded.
const MAX_MESSAGE: usize = 500;

/// The state of one worker's budget stream.
pub(super) struct BudgetStream {
    dispatcher: DispatcherHandle,
    session: SessionId,
    observations: Streaming<proto::Observation>,
    changes: watch::Receiver<u64>,
    /// Version of the budget that was sent last.
    sent: Option<u64>,
    /// The budget to send first.
    next: Option<Budget>,
}

impl BudgetStream {
    /// Waits for the first observation, which names the session.
    ///
    /// # Errors
    /// `NOT_FOUND` if the session is not known or has ended.
    pub(super) async fn open(
        dispatcher: DispatcherHandle,
        mut observations: Streaming<proto::Observation>,
    ) -> Result<Self, Status> {
        let none = || Status::invalid_argument("a stream for the pace begins with an observation");
        let first = observations.message().await?.ok_or_else(none)?;
        let session = SessionId(first.session_id);
        // Subscribed before the first budget is read, so that no later change is missed.
        let changes = dispatcher.watch_budgets();
        let budget = record_observation(&dispatcher, first).await?;
        Ok(Self {
            dispatcher,
            session,
            observations,
            changes,
            sent: None,
            next: Some(budget),
        })
    }

    /// The stream of budgets. It ends when the worker closes its side, when the session ends, or
    /// when the dispatcher stops.
    pub(super) fn budgets(self) -> impl Stream<Item = Result<proto::Budget, Status>> {
        stream::try_unfold(self, |mut pacing| async move {
            Ok(pacing.changed().await?.map(|budget| (budget, pacing)))
        })
    }

    /// The next budget whose version the worker does not have.
    async fn changed(&mut self) -> Result<Option<proto::Budget>, Status> {
        loop {
            let next = match self.next.take() {
                None => self.next_budget().await?,
                next => next,
            };
            let Some(budget) = next else { return Ok(None) };
            if self.sent.replace(budget.version) != Some(budget.version) {
                return Ok(Some(message(budget)));
            }
        }
    }

    /// The budget after the next observation, or after a change caused by another worker.
    async fn next_budget(&mut self) -> Result<Option<Budget>, Status> {
        let budget = tokio::select! {
            observation = self.observations.message() => {
                let Some(observation) = observation? else { return Ok(None) };
                if observation.session_id != self.session.0 {
                    return Err(Status::invalid_argument("a stream for the pace stays with one session"));
                }
                record_observation(&self.dispatcher, observation).await?
            }
            changed = self.changes.changed() => {
                if changed.is_err() {
                    return Ok(None);
                }
                self.dispatcher.budget(self.session).await?
            }
        };
        Ok(Some(budget))
    }
}

/// Passes on an observation, and the worker's message on why the origin has not responded yet.
async fn record_observation(
    dispatcher: &DispatcherHandle,
    wire: proto::Observation,
) -> Result<Budget, Status> {
    let session = SessionId(wire.session_id);
    let observation = observation(&wire);
    let failure = first_failure(&wire);
    let live = live_report(wire)?;
    let budget = dispatcher.observe(session, observation, live).await?;
    if let Some(failure) = failure {
        dispatcher.first_failure(session, failure).await?;
    }
    Ok(budget)
}

/// The worker's message on why the origin has not responded yet.
fn first_failure(wire: &proto::Observation) -> Option<String> {
    (!wire.first_failure.is_empty()).then(|| printable_within(&wire.first_failure, MAX_MESSAGE))
}

/// Clamps the reported values to plausible ones, so that a faulty worker cannot pause the others
/// indefinitely.
fn observation(wire: &proto::Observation) -> Observation {
    Observation {
        seen: wire.budget_version.min(u32::MAX.into()),
        open: wire.open.min(MAX_SLOTS),
        flowing: wire.flowing.min(MAX_SLOTS),
        wanted: wire.wanted.min(MAX_SLOTS),
        received: wire.received_bytes.min(MAX_RECEIVED),
        requests: wire.requests.min(u32::MAX.into()),
        cuts: wire.cuts.min(u32::MAX.into()),
        refusals: wire.refusals.min(u32::MAX.into()),
        retry_after: (wire.retry_after_ms > 0)
            .then(|| Duration::from_millis(wire.retry_after_ms).min(MAX_RETRY_AFTER)),
    }
}

/// The part of an observation that is for display.
///
/// # Errors
/// `INVALID_ARGUMENT`: an entry has no class id, or there are too many.
fn live_report(wire: proto::Observation) -> Result<LiveReport, Status> {
    Ok(LiveReport {
        received_bytes: wire.received_bytes.min(MAX_RECEIVED),
        transfers: held(wire.transfers)?,
        disk_free: (wire.disk_free > 0).then_some(wire.disk_free),
    })
}

fn message(budget: Budget) -> proto::Budget {
    proto::Budget {
        version: budget.version,
        connections: budget.connections,
        bytes_per_second: budget.bytes_per_second.unwrap_or(0),
        pause_ms: milliseconds(budget.pause),
        observe_ms: milliseconds(budget.observe_every),
        resumed: budget.resumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implausible_observations_are_clamped() {
        let open = u32::MAX;
        let flowing = u32::MAX;
        let wanted = u32::MAX;
        let budget_version = u64::MAX;
        let retry_after_ms = u64::MAX;
        let max = u64::MAX;
        let wire = proto::Observation {
            open,
            flowing,
            wanted,
            budget_version,
            retry_after_ms,
            session_id: 1,
            received_bytes: max,
            requests: max,
            cuts: max,
            refusals: max,
            first_failure: "\u{1b}".repeat(1000),
            transfers: Vec::new(),
            disk_free: max,
        };
        let clamped = observation(&wire);
        assert!(
            first_failure(&wire)
                .is_some_and(|text| text.len() <= MAX_MESSAGE && !text.contains('\u{1b}'))
        );
        assert_eq!(
            [clamped.open, clamped.flowing, clamped.wanted],
            [MAX_SLOTS; 3]
        );
        assert_eq!(clamped.retry_after, Some(MAX_RETRY_AFTER));
        for counter in [
            clamped.seen,
            clamped.received,
            clamped.requests,
            clamped.cuts,
            clamped.refusals,
        ] {
            assert!(
                counter.checked_mul(20_000).is_some(),
                "the sum over all workers overflows: {counter}"
            );
        }
    }
}

//! One worker's stream for the pace: observations come in, a budget goes out whenever it has changed.

use std::time::Duration;

use futures_util::{Stream, stream};
use shared::{ids::SessionId, outcome::printable_within};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::{MAX_SLOTS, refused};
use crate::{
    concurrency::{Budget, Observation},
    dispatcher::DispatcherHandle,
    rpc::conversions::milliseconds,
};

/// Bytes of one worker since its start, at the most: those of all workers are added.
const MOST_RECEIVED: u64 = 1 << 48;
/// Workers honour no `Retry-After` for longer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(15);

/// Bytes of a sentence on why the origin has not answered.
const LONGEST_TROUBLE: usize = 500;

/// See the module.
pub(super) struct Pacing {
    dispatcher: DispatcherHandle,
    session: SessionId,
    observations: Streaming<proto::Observation>,
    changes: watch::Receiver<()>,
    /// What the worker was told last.
    sent: Option<u64>,
    /// What is to be told first.
    next: Option<Budget>,
}

impl Pacing {
    /// Waits for the first observation, which names the session.
    ///
    /// # Errors
    /// `NOT_FOUND` when that is not known (any more).
    pub(super) async fn open(
        dispatcher: DispatcherHandle,
        mut observations: Streaming<proto::Observation>,
    ) -> Result<Self, Status> {
        let none = || Status::invalid_argument("a stream for the pace begins with an observation");
        let first = observations.message().await?.ok_or_else(none)?;
        let session = SessionId(first.session_id);
        // What changes from here on is seen below.
        let changes = dispatcher.watch_budgets();
        let budget = dispatcher.observe(session, observation(&first)).await.map_err(refused)?;
        if let Some(trouble) = first_trouble(&first) {
            dispatcher.first_trouble(session, trouble).await.map_err(refused)?;
        }
        Ok(Self { dispatcher, session, observations, changes, sent: None, next: Some(budget) })
    }

    /// Ends with the worker's side, with the session, or with the dispatcher.
    pub(super) fn budgets(self) -> impl Stream<Item = Result<proto::Budget, Status>> {
        stream::try_unfold(self, |mut pacing| async move { Ok(pacing.changed().await?.map(|budget| (budget, pacing))) })
    }

    /// The next budget that the worker does not know.
    async fn changed(&mut self) -> Result<Option<proto::Budget>, Status> {
        loop {
            let budget = match self.next.take() {
                Some(budget) => budget,
                None => match self.heard().await? {
                    Some(budget) => budget,
                    None => return Ok(None),
                },
            };
            if self.sent.replace(budget.version) != Some(budget.version) {
                return Ok(Some(message(budget)));
            }
        }
    }

    /// What the worker may do after the next observation, or after a change that somebody else has brought about.
    async fn heard(&mut self) -> Result<Option<Budget>, Status> {
        let budget = tokio::select! {
            observed = self.observations.message() => {
                let Some(observed) = observed? else { return Ok(None) };
                if observed.session_id != self.session.0 {
                    return Err(Status::invalid_argument("a stream for the pace stays with one session"));
                }
                if let Some(trouble) = first_trouble(&observed) {
                    self.dispatcher.first_trouble(self.session, trouble).await.map_err(refused)?;
                }
                self.dispatcher.observe(self.session, observation(&observed)).await
            }
            changed = self.changes.changed() => {
                if changed.is_err() {
                    return Ok(None);
                }
                self.dispatcher.budget(self.session).await
            }
        };
        budget.map(Some).map_err(refused)
    }
}

/// What a worker says, as far as it can be true: one that is mistaken does not silence the others for ever.
fn observation(wire: &proto::Observation) -> Observation {
    Observation {
        seen: wire.seen_version.min(u32::MAX.into()),
        open: wire.open.min(MAX_SLOTS),
        flowing: wire.flowing.min(MAX_SLOTS),
        wanted: wire.wanted.min(MAX_SLOTS),
        received: wire.received_bytes.min(MOST_RECEIVED),
        requests: wire.requests.min(u32::MAX.into()),
        cuts: wire.cuts.min(u32::MAX.into()),
        refusals: wire.refusals.min(u32::MAX.into()),
        retry_after: (wire.retry_after_ms > 0)
            .then(|| Duration::from_millis(wire.retry_after_ms).min(LONGEST_RETRY_AFTER)),
    }
}

/// Why a worker has had no answer of the origin yet.
fn first_trouble(wire: &proto::Observation) -> Option<String> {
    (!wire.first_trouble.is_empty()).then(|| printable_within(&wire.first_trouble, LONGEST_TROUBLE))
}

fn message(budget: Budget) -> proto::Budget {
    proto::Budget {
        version: budget.version,
        connections: budget.connections,
        bytes_per_second: budget.bytes_per_second.unwrap_or(0),
        quiet_ms: milliseconds(budget.quiet),
        observe_ms: milliseconds(budget.observe_every),
        resumed: budget.resumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_true_is_not_believed() {
        let (open, flowing, wanted) = (u32::MAX, u32::MAX, u32::MAX);
        let (seen_version, retry_after_ms) = (u64::MAX, u64::MAX);
        let most = u64::MAX;
        let wire = proto::Observation {
            open,
            flowing,
            wanted,
            seen_version,
            retry_after_ms,
            session_id: 1,
            received_bytes: most,
            requests: most,
            cuts: most,
            refusals: most,
            first_trouble: "\u{1b}".repeat(1000),
        };
        let believed = observation(&wire);
        assert!(first_trouble(&wire).is_some_and(|text| text.len() <= LONGEST_TROUBLE && !text.contains('\u{1b}')));
        assert_eq!([believed.open, believed.flowing, believed.wanted], [MAX_SLOTS; 3]);
        assert_eq!(believed.retry_after, Some(LONGEST_RETRY_AFTER));
        for counter in [believed.seen, believed.received, believed.requests, believed.cuts, believed.refusals] {
            assert!(counter.checked_mul(20_000).is_some(), "those of all workers are added: {counter}");
        }
    }
}

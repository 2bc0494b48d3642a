//! The bidirectional stream of the coordinator client: the worker sends observations of the origin
//! and receives budgets. A budget is the number of connections to the origin, and of bytes per
//! second, that this worker may use.

use std::time::Duration;

use shared::{connect, ids::SessionId, protocol::milliseconds};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{CoordinatorClient, wire_held};
use crate::{
    origin::limiter::{Budget, Observation, OriginLimiter},
    session::live_reports::LiveReports,
};

/// Limits for the observation interval that the coordinator sets.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);
const LONGEST_INTERVAL: Duration = Duration::from_mins(1);

/// Why there is no budget.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoBudget {
    /// The coordinator never provides one: it is too old, or denies the worker this call.
    #[error("the coordinator has none")]
    Never,
    /// This stream provides none; another stream may.
    #[error("{0}")]
    Now(String),
}

/// The sending half of a session's stream. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct Observations {
    sender: mpsc::Sender<proto::Observation>,
    session: SessionId,
}

/// The receiving half of a session's stream. Each budget replaces the one before.
#[derive(Debug)]
pub(crate) struct Budgets(Streaming<proto::Budget>);

impl CoordinatorClient {
    /// Opens the stream with a first observation, and returns that as well. Unlike the unary calls
    /// it has no deadline of its own.
    pub(crate) async fn open_budget_stream(
        &mut self,
        session: SessionId,
        limiter: &OriginLimiter,
        live: &mut LiveReports,
    ) -> Result<(Observations, Budgets, Observation), NoBudget> {
        let (sender, stream) = mpsc::channel(1);
        let observations = Observations { sender, session };
        let first = observations.send(limiter, live).await?;
        let budgets = self.stub.pace(ReceiverStream::new(stream)).await?;
        Ok((observations, Budgets(budgets.into_inner()), first))
    }
}

impl Observations {
    /// Waits until an observation can be sent; then takes, sends and returns the newest one. Cancel
    /// safe.
    pub(crate) async fn send(
        &self,
        limiter: &OriginLimiter,
        live: &mut LiveReports,
    ) -> Result<Observation, NoBudget> {
        let permit = self
            .sender
            .reserve()
            .await
            .map_err(|_| NoBudget::Now("the stream has ended".to_owned()))?;
        let observation = limiter.take_report();
        let live = live.take();
        permit.send(proto::Observation {
            session_id: self.session.0,
            budget_version: observation.budget_version,
            open: observation.open,
            flowing: observation.flowing,
            wanted: observation.wanted,
            received_bytes: observation.received,
            requests: observation.requests,
            cuts: observation.cuts,
            refusals: observation.refusals,
            retry_after_ms: milliseconds(observation.retry_after),
            first_failure: limiter.first_failures.last(),
            transfers: wire_held(&live.transfers),
            disk_free: live.disk_free,
        });
        Ok(observation)
    }
}

impl Budgets {
    /// Waits for the next budget. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Budget, NoBudget> {
        let next = self.0.message().await?;
        let wire =
            next.ok_or_else(|| NoBudget::Now("the coordinator ended the stream".to_owned()))?;
        Ok(Budget {
            version: wire.version,
            connections: wire.connections,
            bytes_per_second: (wire.bytes_per_second > 0).then_some(wire.bytes_per_second),
            pause: Duration::from_millis(wire.pause_ms),
            observe_every: Duration::from_millis(wire.observe_ms)
                .clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
            resumed: wire.resumed,
        })
    }
}

impl From<Status> for NoBudget {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented | Code::PermissionDenied => Self::Never,
            _ => Self::Now(connect::reason(&status)),
        }
    }
}

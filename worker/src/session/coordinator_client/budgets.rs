//! The stream beside the calls: what a worker observes of the origin, and the budgets that it gets for it.

use std::time::Duration;

use shared::{connect, ids::SessionId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::CoordinatorClient;
use crate::origin::limiter::{Budget, Observation};

/// However often the coordinator wants to be told of the pace.
const OFTENEST: Duration = Duration::from_millis(5);
const SELDOMEST: Duration = Duration::from_mins(1);

/// Why there is no budget.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoBudget {
    /// The coordinator gives none: it is older than they are, or keeps a worker from a call that it does not know.
    #[error("the coordinator has none")]
    Never,
    /// It may come over another stream.
    #[error("{0}")]
    Now(String),
}

/// Where a session's observations go. Its stream ends with it.
#[derive(Debug)]
pub(crate) struct Observations {
    sender: mpsc::Sender<proto::Observation>,
    session: SessionId,
}

/// Room for one observation.
pub(crate) struct Room<'stream> {
    room: mpsc::Permit<'stream, proto::Observation>,
    session: SessionId,
}

/// A session's budgets, each in the place of the one before.
#[derive(Debug)]
pub(crate) struct Budgets(Streaming<proto::Budget>);

impl CoordinatorClient {
    /// Opens the stream for the pace. Other than the calls it has no deadline of its own.
    pub(crate) async fn pace(
        &mut self,
        session: SessionId,
        first: &Observation,
        first_trouble: String,
    ) -> Result<(Observations, Budgets), NoBudget> {
        let (sender, stream) = mpsc::channel(1);
        sender.try_send(wire_observation(session, first, first_trouble)).expect("there is room for one");
        let budgets = self.stub.pace(ReceiverStream::new(stream)).await?.into_inner();
        Ok((Observations { sender, session }, Budgets(budgets)))
    }
}

impl Observations {
    /// Waits until one may be sent: as long as that takes, a newer one takes its place. Cancel safe.
    pub(crate) async fn room(&self) -> Result<Room<'_>, NoBudget> {
        let room = self.sender.reserve().await.map_err(|_| NoBudget::Now("the stream has ended".to_owned()))?;
        Ok(Room { room, session: self.session })
    }
}

impl Room<'_> {
    /// `first_trouble`: why the origin has not answered yet.
    pub(crate) fn send(self, observation: &Observation, first_trouble: String) {
        self.room.send(wire_observation(self.session, observation, first_trouble));
    }
}

impl Budgets {
    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Budget, NoBudget> {
        let next = self.0.message().await?;
        let wire = next.ok_or_else(|| NoBudget::Now("the coordinator ended the stream".to_owned()))?;
        Ok(Budget {
            version: wire.version,
            connections: wire.connections,
            bytes_per_second: (wire.bytes_per_second > 0).then_some(wire.bytes_per_second),
            quiet: Duration::from_millis(wire.quiet_ms),
            observe_every: Duration::from_millis(wire.observe_ms).clamp(OFTENEST, SELDOMEST),
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

fn wire_observation(session: SessionId, observation: &Observation, first_trouble: String) -> proto::Observation {
    proto::Observation {
        session_id: session.0,
        seen_version: observation.seen,
        open: observation.open,
        flowing: observation.flowing,
        wanted: observation.wanted,
        received_bytes: observation.received,
        requests: observation.requests,
        cuts: observation.cuts,
        refusals: observation.refusals,
        retry_after_ms: u64::try_from(observation.retry_after.as_millis()).unwrap_or(u64::MAX),
        first_trouble,
    }
}

//! The commands' side of the wire. Every call has an outer deadline: tonic's own does not cover connecting (grpc-rust issue
//! 1635).

use std::time::Duration;

use proto::{admin_client::AdminClient, coordinator_client::CoordinatorClient};
use shared::{
    Wnid,
    connect::{self, ConnectError, Connector, CoordinatorChannel},
    job::JobStatus,
};
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::{
    config::CoordinatorArgs,
    dispatcher::Retried,
    fleet::{ClassPage, Fleet, ListedState},
    rpc::conversions::MAX_BATCH,
};

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a coordinator tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overview {
    /// The run, as it stands in each manifest.
    pub(crate) run_id: String,
    /// Counts the starts of the coordinator.
    pub(crate) epoch: u32,
    /// The rest.
    pub(crate) fleet: Fleet,
}

/// Why the coordinator did not do it; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The flags lead nowhere.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer.
    #[error("reach {coordinator}: {why}; {advice}")]
    Unreachable {
        /// Where.
        coordinator: String,
        /// As far as is known.
        why: String,
        /// What to do.
        advice: String,
    },
    /// One of the two could not prove who it is, or may not do this.
    #[error("be let in by {coordinator}: {why}")]
    Denied {
        /// Where.
        coordinator: String,
        /// In its words.
        why: String,
    },
    /// It is there and will not do it.
    #[error("{asked}: {why}")]
    Refused {
        /// What it was asked to do.
        asked: &'static str,
        /// In its words.
        why: String,
    },
}

/// The way to a coordinator.
pub(crate) struct Client {
    stub: AdminClient<CoordinatorChannel>,
    channel: CoordinatorChannel,
    end: End,
}

/// The coordinator that is asked, for sentences.
struct End {
    coordinator: String,
    advice: String,
}

impl Client {
    /// Connects at the first call: to the address that was given, or else to the socket in the target, or where none
    /// answers there to the address at which coordinators listen on this machine.
    pub(crate) fn new(arguments: &CoordinatorArgs) -> Result<Self, AdminError> {
        let (connector, advice) = match arguments.socket() {
            Some(Ok(socket)) => (Connector::Socket(socket.into()), "is it still running?".to_owned()),
            Some(Err(none)) => (
                arguments.way.connector()?,
                format!(
                    "is it running? Give its target with --target (as far as is known, {none}), or its address with --connect"
                ),
            ),
            None => (
                arguments.way.connector()?,
                "is it running, and is this its address? Give another with --connect".to_owned(),
            ),
        };
        let channel = connector.channel();
        // Of ten thousand workers each has a line.
        let stub = AdminClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        Ok(Self { stub, channel, end: End { coordinator: connector.end(), advice } })
    }

    /// The whole fleet.
    pub(crate) async fn fleet(&mut self) -> Result<Overview, AdminError> {
        Ok(within(&self.end, "tell of the fleet", self.stub.get_fleet(proto::GetFleetRequest {})).await?.into())
    }

    /// A page of the classes that workers hold or that have failed.
    pub(crate) async fn classes(&mut self, state: ListedState, after: Option<Wnid>) -> Result<ClassPage, AdminError> {
        let after = after.map(|wnid| wnid.to_string()).unwrap_or_default();
        let request = proto::ListClassesRequest { state: proto::ListedState::from(state).into(), after };
        Ok(within(&self.end, "list the classes", self.stub.list_classes(request)).await?.into())
    }

    /// The job's last counts, as soon as it is done; nothing if the coordinator goes away before.
    pub(crate) fn done(&self) -> impl Future<Output = Option<JobStatus>> + use<> {
        let mut stub = CoordinatorClient::new(self.channel.clone());
        async move {
            let mut changes = stub.watch(proto::WatchRequest {}).await.ok()?.into_inner();
            loop {
                let status = JobStatus::from(changes.message().await.ok()??);
                if status.is_done() {
                    return Some(status);
                }
            }
        }
    }

    /// Makes failed classes pending again, all of them where none is named.
    pub(crate) async fn retry(&mut self, wnids: &[Wnid]) -> Result<Retried, AdminError> {
        let mut retried = Retried::default();
        // Nothing named is one batch, too: all of them.
        let batches = wnids.chunks(MAX_BATCH).chain(wnids.is_empty().then_some(wnids));
        for batch in batches {
            let wnids = batch.iter().map(Wnid::to_string).collect();
            let call = self.stub.retry_failed(proto::RetryFailedRequest { wnids });
            let reply = within(&self.end, "try failed classes again", call).await?;
            retried.classes += reply.retried;
            retried.invalid_rows = reply.invalid_rows;
        }
        Ok(retried)
    }

    /// Tells a worker to finish and end.
    pub(crate) async fn drain(&mut self, name: &str) -> Result<(), AdminError> {
        let request = proto::DrainWorkerRequest { worker_name: name.to_owned() };
        within(&self.end, "drain a worker", self.stub.drain_worker(request)).await?;
        Ok(())
    }

    /// Ends the waits that the origin has asked for; says what is left of the longest.
    pub(crate) async fn resume(&mut self) -> Result<Duration, AdminError> {
        let call = self.stub.resume(proto::ResumeRequest {});
        Ok(Duration::from_millis(within(&self.end, "resume requests to the origin", call).await?.left_ms))
    }
}

async fn within<T>(
    End { coordinator, advice }: &End,
    asked: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, AdminError> {
    let refused = |why| AdminError::Refused { asked, why };
    let unreachable = |why| AdminError::Unreachable { coordinator: coordinator.clone(), why, advice: advice.clone() };
    let denied = |why| AdminError::Denied { coordinator: coordinator.clone(), why };
    match timeout(PATIENCE, call).await {
        Err(_) => Err(unreachable(format!("no answer for {}s", PATIENCE.as_secs()))),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => {
            let why = connect::reason(&status);
            Err(match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => denied(why),
                _ if connect::mismatched(&status) => denied(why),
                Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition => refused(why),
                Code::Unimplemented => refused("the coordinator is of an older release".to_owned()),
                _ => unreachable(why),
            })
        }
    }
}

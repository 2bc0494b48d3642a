//! The gRPC client of the commands. Each call has a deadline of its own, because tonic's deadline
//! does not cover connecting (grpc-rust issue 1635).

use std::time::Duration;

use proto::{admin_client::AdminClient, coordinator_client::CoordinatorClient};
use shared::{
    Wnid,
    connect::{self, ConnectError, Connector, CoordinatorChannel},
    job::JobStatus,
    protocol::MAX_BATCH,
};
use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::{
    config::CoordinatorArgs,
    dispatcher::Retried,
    fleet::{ClassPage, Fleet, ListedState},
};

/// Deadline of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The response to `GetFleet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overview {
    /// Id of the run, as in each manifest.
    pub(crate) run_id: String,
    /// Number of times that a coordinator was started on this ledger.
    pub(crate) epoch: u32,
    /// The state of the fleet.
    pub(crate) fleet: Fleet,
}

/// Why a command failed; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The connection flags are not valid.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is no response.
    #[error("reach {coordinator}: {why}; {advice}")]
    Unreachable {
        /// The coordinator's address.
        coordinator: String,
        /// The cause, as far as it is known.
        why: String,
        /// Advice for the user.
        advice: String,
    },
    /// One side could not authenticate the other, or the call is not allowed.
    #[error("be let in by {coordinator}: {why}")]
    Denied {
        /// The coordinator's address.
        coordinator: String,
        /// The coordinator's message.
        why: String,
    },
    /// The coordinator rejects the request.
    #[error("{request}: {why}")]
    Refused {
        /// The requested action.
        request: &'static str,
        /// The coordinator's message.
        why: String,
    },
}

/// A connection to a coordinator.
pub(crate) struct Client {
    stub: AdminClient<CoordinatorChannel>,
    channel: CoordinatorChannel,
    endpoint: Endpoint,
}

/// The coordinator's address and advice, for error messages.
struct Endpoint {
    coordinator: String,
    advice: String,
}

impl Client {
    /// Connects at the first call: to the given address, otherwise to the socket in the target or,
    /// if no coordinator listens there, to the default address on this machine.
    pub(crate) fn new(arguments: &CoordinatorArgs) -> Result<Self, AdminError> {
        let (connector, advice) = match arguments.socket() {
            Some(Ok(socket)) => (
                Connector::Socket(socket.into()),
                "is it still running?".to_owned(),
            ),
            Some(Err(none)) => (
                arguments.address.connector()?,
                format!(
                    "is it running? Give its target with --target (as far as is known, {none}), or its address with --connect"
                ),
            ),
            None => (
                arguments.address.connector()?,
                "is it running, and is this its address? Give another with --connect".to_owned(),
            ),
        };
        let channel = connector.channel();
        // The response has a row for each of up to ten thousand workers.
        let stub = AdminClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        Ok(Self {
            stub,
            channel,
            endpoint: Endpoint {
                coordinator: connector.end(),
                advice,
            },
        })
    }

    /// Gets the state of the fleet.
    pub(crate) async fn fleet(&mut self) -> Result<Overview, AdminError> {
        Ok(call_within(
            &self.endpoint,
            "tell of the fleet",
            self.stub.get_fleet(proto::GetFleetRequest {}),
        )
        .await?
        .into())
    }

    /// Gets one page of the classes that are leased or have failed.
    pub(crate) async fn classes(
        &mut self,
        state: ListedState,
        after: Option<Wnid>,
    ) -> Result<ClassPage, AdminError> {
        let after = after.map(|wnid| wnid.to_string()).unwrap_or_default();
        let request = proto::ListClassesRequest {
            state: proto::ListedState::from(state).into(),
            after,
        };
        Ok(call_within(
            &self.endpoint,
            "list the classes",
            self.stub.list_classes(request),
        )
        .await?
        .into())
    }

    /// The job's final counts, once it is done; `None` if the coordinator stops before.
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

    /// Makes failed classes pending again; all of them if `wnids` is empty.
    pub(crate) async fn retry(&mut self, wnids: &[Wnid]) -> Result<Retried, AdminError> {
        let mut retried = Retried::default();
        // An empty list is one batch; it means all failed classes.
        let batches = wnids
            .chunks(MAX_BATCH)
            .chain(wnids.is_empty().then_some(wnids));
        for batch in batches {
            let wnids = batch.iter().map(Wnid::to_string).collect();
            let call = self.stub.retry_failed(proto::RetryFailedRequest { wnids });
            let reply = call_within(&self.endpoint, "try failed classes again", call).await?;
            retried.classes += reply.retried;
            retried.invalid_rows = reply.invalid_rows;
        }
        Ok(retried)
    }

    /// Asks a worker to finish its leases and exit.
    pub(crate) async fn drain(&mut self, name: &str) -> Result<(), AdminError> {
        let request = proto::DrainWorkerRequest {
            worker_name: name.to_owned(),
        };
        call_within(
            &self.endpoint,
            "drain a worker",
            self.stub.drain_worker(request),
        )
        .await?;
        Ok(())
    }

    /// Ends the waits that the origin has request for and returns the time left of the longest one.
    pub(crate) async fn resume(&mut self) -> Result<Duration, AdminError> {
        let call = self.stub.resume(proto::ResumeRequest {});
        Ok(Duration::from_millis(
            call_within(&self.endpoint, "resume requests to the origin", call)
                .await?
                .left_ms,
        ))
    }
}

async fn call_within<T>(
    Endpoint {
        coordinator,
        advice,
    }: &Endpoint,
    request: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, AdminError> {
    let refused = |why| AdminError::Refused { request, why };
    let unreachable = |why| AdminError::Unreachable {
        coordinator: coordinator.clone(),
        why,
        advice: advice.clone(),
    };
    let denied = |why| AdminError::Denied {
        coordinator: coordinator.clone(),
        why,
    };
    match timeout(CALL_TIMEOUT, call).await {
        Err(_) => Err(unreachable(format!(
            "no answer for {}s",
            CALL_TIMEOUT.as_secs()
        ))),
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

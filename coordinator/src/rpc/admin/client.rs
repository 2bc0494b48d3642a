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
    channel: CoordinatorChannel,
    /// The coordinator's address, for error messages.
    coordinator: String,
    /// Advice if it does not respond.
    advice: String,
}

impl Client {
    /// Connects at the first call: to the given address, otherwise to the socket in the target or,
    /// if no coordinator listens there, to the default address on this machine.
    pub(crate) fn new(arguments: &CoordinatorArgs) -> Result<Self, AdminError> {
        let socket = arguments.socket();
        let advice = match &socket {
            Some(Ok(_)) => "is it still running?".to_owned(),
            Some(Err(none)) => format!(
                "is it running? Give its target with --target (as far as is known, {none}), or its address with --connect"
            ),
            None => {
                "is it running, and is this its address? Give another with --connect".to_owned()
            }
        };
        let connector = match socket {
            Some(Ok(socket)) => Connector::Socket(socket.into()),
            _ => arguments.address.connector()?,
        };
        Ok(Self {
            channel: connector.channel(),
            coordinator: connector.end(),
            advice,
        })
    }

    fn stub(&self) -> AdminClient<CoordinatorChannel> {
        // The response has a row for each of up to ten thousand workers.
        AdminClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Gets the state of the fleet.
    pub(crate) async fn fleet(&self) -> Result<Overview, AdminError> {
        let mut stub = self.stub();
        let call = stub.get_fleet(proto::GetFleetRequest {});
        Ok(self.answer("tell of the fleet", call).await?.into())
    }

    /// Gets one page of the classes that are leased or have failed.
    pub(crate) async fn classes(
        &self,
        state: ListedState,
        after: Option<Wnid>,
    ) -> Result<ClassPage, AdminError> {
        let mut stub = self.stub();
        let call = stub.list_classes(proto::ListClassesRequest {
            state: proto::ListedState::from(state).into(),
            after: after.map(|wnid| wnid.to_string()).unwrap_or_default(),
        });
        Ok(self.answer("list the classes", call).await?.into())
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
    pub(crate) async fn retry(&self, wnids: &[Wnid]) -> Result<Retried, AdminError> {
        let mut retried = Retried::default();
        // An empty list is one batch; it means all failed classes.
        let batches = wnids
            .chunks(MAX_BATCH)
            .chain(wnids.is_empty().then_some(wnids));
        for batch in batches {
            let wnids = batch.iter().map(Wnid::to_string).collect();
            let mut stub = self.stub();
            let call = stub.retry_failed(proto::RetryFailedRequest { wnids });
            let reply = self.answer("try failed classes again", call).await?;
            retried.classes += reply.retried;
            retried.invalid_rows = reply.invalid_rows;
        }
        Ok(retried)
    }

    /// Asks a worker to finish its leases and exit.
    pub(crate) async fn drain(&self, name: &str) -> Result<(), AdminError> {
        let mut stub = self.stub();
        let call = stub.drain_worker(proto::DrainWorkerRequest {
            worker_name: name.to_owned(),
        });
        self.answer("drain a worker", call).await.map(drop)
    }

    /// Ends the waits that the origin has asked for and returns the time left of the longest one.
    pub(crate) async fn resume(&self) -> Result<Duration, AdminError> {
        let mut stub = self.stub();
        let call = stub.resume(proto::ResumeRequest {});
        let reply = self.answer("resume requests to the origin", call).await?;
        Ok(Duration::from_millis(reply.left_ms))
    }

    /// The answer to a call, within [`CALL_TIMEOUT`].
    async fn answer<T>(
        &self,
        request: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, AdminError> {
        let status = match timeout(CALL_TIMEOUT, call).await {
            Err(_) => {
                let why = format!("no answer for {}s", CALL_TIMEOUT.as_secs());
                return Err(self.unreachable(why));
            }
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => status,
        };
        let why = connect::reason(&status);
        Err(match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => self.denied(why),
            _ if connect::mismatched(&status) => self.denied(why),
            Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition => {
                AdminError::Refused { request, why }
            }
            Code::Unimplemented => AdminError::Refused {
                request,
                why: "the coordinator is of an older release".to_owned(),
            },
            _ => self.unreachable(why),
        })
    }

    fn denied(&self, why: String) -> AdminError {
        AdminError::Denied {
            coordinator: self.coordinator.clone(),
            why,
        }
    }

    fn unreachable(&self, why: String) -> AdminError {
        AdminError::Unreachable {
            coordinator: self.coordinator.clone(),
            why,
            advice: self.advice.clone(),
        }
    }
}

//! The protocol side of a worker: the generated client, a session, and leases. It downloads
//! nothing.

use std::{io, sync::Arc, time::Duration};

use proto::{
    AcquireRequest, Directive, Held, JobStatus, LeaveRequest, Outcome, Published, RegisterRequest,
    RenewRequest, ReportRequest, WatchRequest, outcome::Kind,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Response, Status, transport::Channel};

use crate::{
    counts::Grants,
    dial::{Client, Dial},
    observations::Observations,
};

pub(crate) mod transfers;

/// Deadline of a call; after it the coordinator counts as unreachable.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// The reason why a phase could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// An error of the benchmark itself.
    #[error("{0}")]
    Benchmark(String),
    /// An error of a file or a process.
    #[error("prepare: {0}")]
    Io(#[from] io::Error),
    /// A call failed or was not answered in time.
    #[error("call {call}: {why}")]
    Unanswered {
        /// Name of the call.
        call: &'static str,
        /// The status or the deadline.
        why: String,
    },
    /// The coordinator violated the protocol.
    #[error("find the protocol kept: {0}")]
    Misbehaved(String),
}

/// A worker with its session and leases.
pub(crate) struct Worker {
    name: String,
    client: Client,
    grants: Arc<Grants>,
    session: u64,
    held: Vec<Held>,
    /// Interval of heartbeats that the coordinator requests.
    pub(crate) renew_every: Duration,
}

/// Reads the counts of the job with `Watch`.
pub(crate) async fn status(dial: &Dial) -> Result<JobStatus, LoadError> {
    let mut client = dial.viewer();
    let first = async {
        client
            .watch(WatchRequest {})
            .await?
            .into_inner()
            .message()
            .await
            .map(Response::new)
    };
    call("Watch", first)
        .await?
        .ok_or_else(|| LoadError::Misbehaved("Watch sent no counts".to_owned()))
}

/// Runs a step for all workers concurrently; returns the workers and the results.
pub(crate) async fn all<T, F>(
    workers: impl IntoIterator<Item = Worker>,
    step: impl Fn(usize, Worker) -> F,
) -> Result<(Vec<Worker>, Vec<T>), LoadError>
where
    T: Send + 'static,
    F: Future<Output = Result<(Worker, T), LoadError>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = workers
        .into_iter()
        .enumerate()
        .map(|(place, worker)| step(place, worker))
        .collect();
    let mut workers = Vec::new();
    let mut results = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (worker, result) =
            ended.map_err(|error| LoadError::Benchmark(format!("await a worker: {error}")))??;
        workers.push(worker);
        results.push(result);
    }
    Ok((workers, results))
}

/// All workers leave.
pub(crate) async fn leave(workers: Vec<Worker>) -> Result<(), LoadError> {
    all(workers, |_, mut worker| async move {
        worker.leave().await?;
        Ok((worker, ()))
    })
    .await
    .map(|_| ())
}

impl Worker {
    pub(crate) fn new(name: String, client: Client, grants: Arc<Grants>) -> Self {
        Self {
            name,
            client,
            grants,
            session: 0,
            held: Vec::new(),
            renew_every: Duration::ZERO,
        }
    }

    /// Creates `count` workers that share `connections` connections.
    pub(crate) fn sharing(
        connections: u32,
        name: &str,
        count: u32,
        dial: &Dial,
        grants: &Arc<Grants>,
    ) -> Vec<Self> {
        let shared: Vec<Channel> = (0..connections).map(|_| dial.channel()).collect();
        let numbered = (0..count).zip(shared.iter().cycle());
        numbered
            .map(|(number, connection)| {
                Self::new(
                    format!("{name}-{number}"),
                    dial.worker(connection.clone()),
                    grants.clone(),
                )
            })
            .collect()
    }

    pub(crate) async fn register(&mut self) -> Result<(), LoadError> {
        let request = RegisterRequest {
            protocol_version: 1,
            worker_name: self.name.clone(),
            instance_nonce: self.name.clone().into_bytes(),
            // The maximum: a phase requests more leases than it reports at once.
            slots: 1000,
            build: "coordinator_load".to_owned(),
            held: self.held.clone(),
            storage_id: self.name.clone(),
            draining: false,
            host: self.name.clone(),
        };
        let reply = call("Register", self.client.register(request)).await?;
        self.session = reply.session_id;
        self.renew_every = Duration::from_millis(reply.renew_ms);
        self.drop_leases_of(&reply.drop_leases)
    }

    /// Renews all leases. Returns `false` if the worker must register again.
    pub(crate) async fn renew(&mut self) -> Result<bool, LoadError> {
        let request = RenewRequest {
            session_id: self.session,
            held: self.held.clone(),
            received_bytes: 0,
        };
        let reply = call("Renew", self.client.renew(request)).await?;
        self.drop_leases_of(&reply.drop_leases)?;
        Ok(reply.directive() != Directive::Reregister)
    }

    /// The stream of its observations.
    pub(crate) fn observations(&self) -> Observations {
        Observations {
            client: self.client.clone(),
            session: self.session,
            held: self.held.clone(),
        }
    }

    /// Requests leases; returns the counts in the answer.
    pub(crate) async fn acquire(&mut self, max: u32) -> Result<JobStatus, LoadError> {
        let request = AcquireRequest {
            session_id: self.session,
            max,
            held: self.held.clone(),
        };
        let reply = call("Acquire", self.client.acquire(request)).await?;
        if reply.directive() == Directive::Reregister {
            return Err(LoadError::Misbehaved(format!(
                "the session of {} is unknown to the coordinator",
                self.name
            )));
        }
        for lease in reply.leases {
            self.grants.granted(&lease.wnid)?;
            self.held.push(Held {
                wnid: lease.wnid,
                token: lease.token,
                bytes: 0,
                length: 0,
                is_local: false,
            });
        }
        Ok(reply.status.unwrap_or_default())
    }

    /// Reports all held classes as published; returns their number.
    pub(crate) async fn report(&mut self) -> Result<u64, LoadError> {
        let published = Outcome {
            kind: Some(Kind::Success(Published {
                files: 500,
                bytes: 55_000_000,
            })),
        };
        self.send_report(&published).await
    }

    /// Reports classes as already complete, without leases, as the inventory of a storage does.
    pub(crate) async fn report_inventory(&mut self, wnids: Vec<String>) -> Result<u64, LoadError> {
        self.held = wnids
            .into_iter()
            .map(|wnid| Held {
                wnid,
                token: 0,
                bytes: 0,
                length: 0,
                is_local: false,
            })
            .collect();
        let skipped = Outcome {
            kind: Some(Kind::Skipped(Published {
                files: 500,
                bytes: 55_000_000,
            })),
        };
        self.send_report(&skipped).await
    }

    async fn send_report(&mut self, outcome: &Outcome) -> Result<u64, LoadError> {
        let result = |held: &Held| proto::Result {
            wnid: held.wnid.clone(),
            token: held.token,
            outcome: Some(outcome.clone()),
            traceparent: String::new(),
            needs_lease: false,
        };
        let request = ReportRequest {
            session_id: self.session,
            results: self.held.iter().map(result).collect(),
            ..Default::default()
        };
        let reply = call("Report", self.client.report(request)).await?;
        if reply.acked.len() != self.held.len() {
            let message = format!(
                "of {:?} only {:?} were acknowledged",
                self.held, reply.acked
            );
            return Err(LoadError::Misbehaved(message));
        }
        reply
            .acked
            .iter()
            .try_for_each(|wnid| self.grants.settled(wnid))?;
        self.held.clear();
        Ok(reply.acked.len() as u64)
    }

    /// Whether the worker has registered, with this or an earlier process of the coordinator.
    pub(crate) fn has_session(&self) -> bool {
        self.session != 0
    }

    /// Forgets all leases.
    pub(crate) fn give_all_up(&mut self) -> Result<(), LoadError> {
        self.held
            .drain(..)
            .try_for_each(|held| self.grants.given_back(&held.wnid))
    }

    /// Releases all leases and ends the session.
    async fn leave(&mut self) -> Result<(), LoadError> {
        // Before the call: the coordinator may grant a class to another worker before the answer
        // arrives.
        self.give_all_up()?;
        let request = LeaveRequest {
            session_id: self.session,
            reason: String::new(),
        };
        call("Leave", self.client.leave(request)).await.map(|_| ())
    }

    fn drop_leases_of(&mut self, drop: &[Held]) -> Result<(), LoadError> {
        self.held
            .retain(|held| drop.iter().all(|lease| lease.wnid != held.wnid));
        drop.iter()
            .try_for_each(|lease| self.grants.given_back(&lease.wnid))
    }
}

pub(crate) async fn call<T>(
    call: &'static str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LoadError> {
    match timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(LoadError::Unanswered {
            call,
            why: status.to_string(),
        }),
        Err(_) => Err(LoadError::Unanswered {
            call,
            why: format!("no answer for {CALL_TIMEOUT:?}"),
        }),
    }
}

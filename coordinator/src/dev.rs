//! Single-host mode: a worker in the same process, over the same gRPC service. Its connections are
//! pairs of in-memory pipes, so no address is used and several runs on one machine never collide.

use std::{io, path::PathBuf, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use shared::{connect::Connector, job::JobStatus, job_line::Screen, shutdown::Shutdown};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;

use worker::WorkerCounters;

use crate::config::SingleHost;

/// Connections that wait to be accepted. A worker has two: one for heartbeats and one for all other
/// calls.
const MAX_WAITING_CONNECTIONS: usize = 4;

/// Arguments of the worker in this process.
#[derive(Debug)]
pub struct DevWorker {
    /// Its name and its number of parallel downloads.
    pub single_host: SingleHost,
    /// The target folder.
    pub target: PathBuf,
    /// Connects the worker: the coordinator serves each pipe whose other end is sent here.
    pub connect: mpsc::Sender<DuplexStream>,
    /// The terminal for progress bars.
    pub screen: Screen,
    /// The signals to stop.
    pub shutdown: Shutdown,
    /// The worker's counters.
    pub counters: Arc<WorkerCounters>,
    /// The job's counts.
    pub counts: watch::Receiver<JobStatus>,
}

/// The error that stopped the worker in this process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DevWorkerError(pub String);

/// Both ends of the in-process transport: where a worker connects, and the connections for the
/// service.
pub(crate) fn in_process() -> (
    mpsc::Sender<DuplexStream>,
    impl Stream<Item = io::Result<DuplexStream>>,
) {
    let (connect, connections) = mpsc::channel(MAX_WAITING_CONNECTIONS);
    (connect, ReceiverStream::new(connections).map(Ok))
}

/// Runs the worker until the job is done or a shutdown is requested.
pub(crate) async fn run_worker(worker: DevWorker) -> Result<(), DevWorkerError> {
    let DevWorker {
        single_host,
        target,
        connect,
        screen,
        shutdown,
        counters,
        counts,
    } = worker;
    let config = worker::WorkerConfig {
        name: single_host.name,
        slots: single_host.workers,
        target,
        staging: single_host.staging,
        allow_private_origin: true,
        counts: Some(counts),
    };
    let connector = Connector::InProcess(connect);
    match worker::run(&config, &connector, &screen, &shutdown, &counters).await {
        Ok(_) => Ok(()),
        Err(error) => Err(DevWorkerError(error.to_string())),
    }
}

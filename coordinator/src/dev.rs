//! Single-host mode: a worker in the same process, over the same gRPC service. Its connections are
//! pairs of in-memory pipes, so no address is used and several runs on one machine never collide.

use std::{io, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use shared::{connect::Connector, job_line::Screen, shutdown::Shutdown};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use worker::{WorkerConfig, WorkerCounters};

/// Connections that wait to be accepted. A worker has two: one for heartbeats and one for all other
/// calls.
const MAX_WAITING_CONNECTIONS: usize = 4;

/// Arguments of the worker in this process.
#[derive(Debug)]
pub struct DevWorker {
    /// Its name, its target folder and its number of parallel downloads.
    pub config: WorkerConfig,
    /// Connects the worker: the coordinator serves each pipe whose other end is sent here.
    pub connect: mpsc::Sender<DuplexStream>,
    /// Where the worker draws its downloads and the job's line.
    pub screen: Screen,
    /// The signals to stop.
    pub shutdown: Shutdown,
    /// The worker's counters.
    pub counters: Arc<WorkerCounters>,
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
        config,
        connect,
        screen,
        shutdown,
        counters,
    } = worker;
    let connector = Connector::InProcess(connect);
    let ended = worker::run(&config, &connector, &screen, &shutdown, &counters).await;
    ended
        .map(drop)
        .map_err(|error| DevWorkerError(error.to_string()))
}

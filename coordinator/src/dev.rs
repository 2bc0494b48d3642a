//! Single-host mode: a worker in the same process, over the same service. Its connections are pairs of memory pipes, so
//! nothing listens and several runs on one machine never collide.

use std::{io, path::PathBuf, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use shared::{connect::Connector, job::JobStatus, job_line::Screen, shutdown::Shutdown};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;

use worker::Tally;

use crate::config::SingleHost;

/// Connections that wait to be accepted: a worker has two, one for renewals and one for the rest.
const WAITING: usize = 4;

/// What the worker in this process is given.
#[derive(Debug)]
pub struct DevWorker {
    /// Its name, and how many downloads at a time.
    pub single_host: SingleHost,
    /// Where the classes go.
    pub target: PathBuf,
    /// How it connects: the coordinator serves each pipe whose other end is sent here.
    pub connect: mpsc::Sender<DuplexStream>,
    /// Where it draws its bars.
    pub screen: Screen,
    /// When it has to stop.
    pub shutdown: Shutdown,
    /// Where it counts.
    pub tally: Arc<Tally>,
    /// The job's counts.
    pub counts: watch::Receiver<JobStatus>,
}

/// The worker in this process could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DevWorkerError(pub String);

/// Both ends: where a worker connects, and what the service accepts.
pub(crate) fn in_process() -> (mpsc::Sender<DuplexStream>, impl Stream<Item = io::Result<DuplexStream>>) {
    let (connect, connections) = mpsc::channel(WAITING);
    (connect, ReceiverStream::new(connections).map(Ok))
}

/// Runs the worker until the job is done or the shutdown asks for an end.
pub(crate) async fn run_worker(worker: DevWorker) -> Result<(), DevWorkerError> {
    let DevWorker { single_host, target, connect, screen, shutdown, tally, counts } = worker;
    let config = worker::WorkerConfig {
        name: single_host.name,
        slots: single_host.workers,
        target,
        staging: single_host.staging,
        allow_private_origin: true,
        counts: Some(counts),
    };
    let connector = Connector::InProcess(connect);
    match worker::run(&config, &connector, &screen, &shutdown, &tally).await {
        Ok(_) => Ok(()),
        Err(error) => Err(DevWorkerError(error.to_string())),
    }
}

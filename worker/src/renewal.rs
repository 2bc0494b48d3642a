//! Renewal of the session: a ticker with its own thread, runtime and connection, so that no work can ever delay it.

use std::time::Duration;

use shared::{connect::Connector, ids::SessionId};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    coordinator_client::{CoordinatorClient, Renewed},
    progress::Progress,
    slots::Held,
};

/// What is renewed: the worker's side keeps it up to date.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renewable {
    pub(crate) session: Option<SessionId>,
    pub(crate) held: Vec<Held>,
}

/// Starts the ticker on a thread of the given set; answers come through the channel. Ends when `stop` is cancelled.
pub(crate) fn start(
    threads: &mut JoinSet<()>,
    connector: Connector,
    every: Duration,
    progress: Progress,
    renewable: watch::Receiver<Renewable>,
    stop: CancellationToken,
) -> mpsc::Receiver<Renewed> {
    let (answers, receiver) = mpsc::channel(8);
    threads.spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "leases cannot be renewed"),
        };
        let ticks = tick(connector, every, progress, renewable, answers);
        runtime.block_on(stop.run_until_cancelled_owned(ticks));
    });
    receiver
}

async fn tick(
    connector: Connector,
    every: Duration,
    progress: Progress,
    renewable: watch::Receiver<Renewable>,
    answers: mpsc::Sender<Renewed>,
) {
    let mut client = CoordinatorClient::new(&connector);
    // A fixed rate: a slow answer must not put the next renewal off.
    let mut ticker = tokio::time::interval(every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticker.tick().await;
        let Renewable { session, held } = renewable.borrow().clone();
        let Some(session) = session else { continue };
        match client.renew(session, &held, progress.received_bytes()).await {
            // The worker is told again with the next answer if its queue is full.
            Ok(renewed) => drop(answers.try_send(renewed)),
            Err(error) => {
                progress.tally().missed_renewals.inc();
                tracing::warn!(%error, "leases could not be renewed, trying again");
            }
        }
    }
}

//! Renewal of the session: a ticker with its own thread, runtime and connection, so that no work can ever delay it.

use std::{fmt::Display, sync::Arc, time::Duration};

use shared::{connect::Connector, ids::SessionId};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    coordinator_client::{CoordinatorClient, Renewed},
    lease_clock::LeaseClock,
    progress::Progress,
    slots::Held,
};

/// The longest that one renewal waits for its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// A session and its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// How long its leases live without a renewal.
    pub(crate) ttl: Duration,
    /// How often to renew it.
    pub(crate) renew: Duration,
}

/// What is renewed: the worker's side keeps it up to date.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renewable {
    pub(crate) session: Option<Session>,
    pub(crate) held: Vec<Held>,
}

/// Starts the ticker on a thread of the given set; answers come through the channel, each with the session that it is for.
/// Ends when `stop` is cancelled.
pub(crate) fn start(
    threads: &mut JoinSet<()>,
    connector: Connector,
    clock: Arc<LeaseClock>,
    progress: Progress,
    renewable: watch::Receiver<Renewable>,
    stop: CancellationToken,
) -> mpsc::Receiver<(SessionId, Renewed)> {
    let (answers, receiver) = mpsc::channel(8);
    threads.spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "leases cannot be renewed"),
        };
        let ticks = async move {
            // Connects on this thread's runtime.
            let client = CoordinatorClient::new(&connector, Arc::clone(&clock));
            Ticker { client, clock, progress, renewable, answers, missed: 0 }.run().await;
        };
        runtime.block_on(stop.run_until_cancelled_owned(ticks));
    });
    receiver
}

struct Ticker {
    client: CoordinatorClient,
    clock: Arc<LeaseClock>,
    progress: Progress,
    renewable: watch::Receiver<Renewable>,
    answers: mpsc::Sender<(SessionId, Renewed)>,
    /// Renewals in a row that had no answer.
    missed: u32,
}

impl Ticker {
    async fn run(mut self) {
        while self.renewable.wait_for(|renewable| renewable.session.is_some()).await.is_ok() {
            // Registering has renewed it just now.
            let mut due = Instant::now();
            while let Some(session) = self.session() {
                // A fixed rate, but for the jitter: a slow answer must not put the next renewal off.
                due = (due + jittered(session.renew)).max(Instant::now());
                sleep_until(due).await;
                self.renew().await;
            }
        }
    }

    fn session(&self) -> Option<Session> {
        self.renewable.borrow().session
    }

    /// One renewal, and two more soon if it has no answer.
    async fn renew(&mut self) {
        for pause in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2)] {
            let Some(session) = self.session() else { return };
            sleep(pause.min(session.renew / 3)).await;
            let Renewable { session: Some(session), held } = self.renewable.borrow().clone() else { return };
            let limit = CALL_TIMEOUT.min(session.renew);
            let renewed = match self.client.renew(session.id, &held, self.progress.received_bytes(), limit).await {
                Err(error) => {
                    self.miss(&error);
                    continue;
                }
                Ok(renewed) if !self.clock.answered(renewed.epoch, renewed.sent, session.ttl) => {
                    self.miss(&"a coordinator of the past answered");
                    continue;
                }
                Ok(renewed) => renewed,
            };
            if self.missed > 0 {
                tracing::info!(missed = self.missed, "leases are renewed again");
                self.missed = 0;
            }
            // The worker is told again with the next answer if its queue is full.
            return drop(self.answers.try_send((session.id, renewed)));
        }
    }

    /// Counts it, and says so: loudly once.
    fn miss(&mut self, why: &dyn Display) {
        self.progress.tally().missed_renewals.inc();
        self.missed = self.missed.saturating_add(1);
        if self.missed == 1 {
            tracing::warn!("leases could not be renewed, trying again: {why}");
        } else {
            tracing::info!(missed = self.missed, "leases could not be renewed: {why}");
        }
    }
}

/// Up to a tenth more or less, so that workers that started together do not renew together for ever.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(rand::random_range(0.9..1.1))
}

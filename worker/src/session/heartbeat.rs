//! Renewal of the session: a ticker with its own thread, runtime and connection, so that no work can ever delay it. It does
//! not even write to the log, which may be on a disk that hangs: whoever hears its beats does.

use std::{io, sync::Arc, time::Duration};

use shared::{
    connect::Connector,
    ids::SessionId,
    threads::{self, NoThread},
};
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    lease_clock::LeaseClock,
    observe::progress::Progress,
    session::coordinator_client::{CoordinatorClient, Directive, Renewed},
    slots::Held,
};

/// The longest that one renewal waits for its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Before each try of one renewal, or a third of the time between two renewals where that is less.
const PAUSES: [Duration; TRIES as usize] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2)];
/// So often is one renewal tried.
pub(crate) const TRIES: u32 = 3;

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

/// What came of a renewal.
#[derive(Debug)]
pub(crate) struct Beat {
    /// The session that it is about, which may have ended by now.
    pub(crate) session: SessionId,
    /// The answer; or why there was none, and the next try is under way.
    pub(crate) renewed: Result<Renewed, String>,
}

/// Renewals cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// Their thread.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// Their runtime.
    #[error("renew leases: {0}; allow the process more open files")]
    Runtime(io::Error),
}

/// The way to the ticker.
#[derive(Debug)]
pub(crate) struct Renewals {
    /// What is to be renewed; nothing at first.
    pub(crate) renewable: watch::Sender<Renewable>,
    /// What comes of it.
    pub(crate) beats: mpsc::Receiver<Beat>,
    /// Ends the ticker when it is dropped.
    pub(crate) stop: DropGuard,
}

/// Starts the ticker on a thread of the given set.
///
/// # Errors
/// [`RenewalError`]: without renewals leases are lost.
pub(crate) fn start(
    set: &mut JoinSet<()>,
    connector: Connector,
    clock: Arc<LeaseClock>,
    progress: Progress,
) -> Result<Renewals, RenewalError> {
    let (beats, heard) = mpsc::channel(8);
    let (renewable, to_renew) = watch::channel(Renewable::default());
    let stop = CancellationToken::new();
    let stop_guard = stop.clone().drop_guard();
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    threads::start(set, "renewal", move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return ready.send(Err(error)).unwrap_or_default(),
        };
        ready.send(Ok(())).unwrap_or_default();
        let ticks = async move {
            // Connects on this thread's runtime.
            let client = CoordinatorClient::new(&connector, Arc::clone(&clock));
            Ticker { connector, client, clock, progress, renewable: to_renew, beats }.run().await;
        };
        runtime.block_on(stop.run_until_cancelled_owned(ticks));
    })?;
    started.recv().expect("the thread says how it began").map_err(RenewalError::Runtime)?;
    Ok(Renewals { renewable, beats: heard, stop: stop_guard })
}

struct Ticker {
    connector: Connector,
    client: CoordinatorClient,
    clock: Arc<LeaseClock>,
    progress: Progress,
    renewable: watch::Receiver<Renewable>,
    beats: mpsc::Sender<Beat>,
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
        for pause in PAUSES {
            let Some(session) = self.session() else { return };
            sleep(pause.min(session.renew / 3)).await;
            let Renewable { session: Some(session), held } = self.renewable.borrow().clone() else { return };
            let limit = CALL_TIMEOUT.min(session.renew);
            let renewed = match self.client.renew(session.id, &held, self.progress.received_bytes(), limit).await {
                Err(error) => {
                    self.miss(session.id, error.to_string());
                    // If the host at the other end is gone, its connection would be believed in for longer than leases live.
                    self.client = CoordinatorClient::new(&self.connector, Arc::clone(&self.clock));
                    continue;
                }
                Ok(renewed) if !counts(&self.clock, &renewed, session.ttl) => {
                    self.miss(session.id, "a coordinator of the past answered".to_owned());
                    continue;
                }
                Ok(renewed) => renewed,
            };
            // The worker is told again with the next answer if its queue is full.
            return drop(self.beats.try_send(Beat { session: session.id, renewed: Ok(renewed) }));
        }
    }

    fn miss(&self, session: SessionId, why: String) {
        self.progress.tally().missed_renewals.inc();
        // It is counted at least.
        self.beats.try_send(Beat { session, renewed: Err(why) }).ok();
    }
}

/// Whether the coordinator of now answered. One that does not know the session has not renewed its leases: they may be another
/// worker's already, and are ours again only when a registration says so.
fn counts(clock: &LeaseClock, renewed: &Renewed, ttl: Duration) -> bool {
    match renewed.directive {
        Directive::Reregister => clock.heard_of(renewed.epoch),
        Directive::Continue | Directive::Stop | Directive::Drain => clock.answered(renewed.epoch, renewed.sent, ttl),
    }
}

/// Up to a tenth more or less, so that workers that started together do not renew together for ever.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn an_answer_that_the_session_is_gone_renews_nothing_but_tells_the_coordinators_from_their_past() {
        let time = Arc::new(AtomicU64::new(1000));
        let now = Arc::clone(&time);
        let clock = LeaseClock::new(move || Duration::from_secs(now.load(Ordering::Relaxed)));
        let answered = |epoch, directive| {
            let renewed = Renewed { epoch, drop: Vec::new(), directive, job_done: false, sent: clock.now() };
            counts(&clock, &renewed, Duration::from_secs(30))
        };
        assert!(answered(1, Directive::Continue));
        time.store(1025, Ordering::Relaxed);
        assert!(clock.has_run_out());
        assert!(answered(2, Directive::Reregister));
        assert!(clock.has_run_out(), "the leases may be another worker's");
        assert!(!answered(1, Directive::Continue), "its successor was heard of");
        assert!(clock.has_run_out());
        assert!(answered(2, Directive::Drain));
        assert!(!clock.has_run_out());
    }
}

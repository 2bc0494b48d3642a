//! The heartbeat of the session: a task with its own thread, runtime and connection that renews all
//! leases, so that no other work can delay a renewal. It does not write to the log, because the log
//! may be on a disk that blocks; the receiver of its results writes to the log instead.

use std::{sync::Arc, time::Duration};

use shared::{connect::Connector, ids::SessionId};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    lease_clock::LeaseClock,
    observe::progress::Progress,
    session::{
        coordinator_client::{CoordinatorClient, Directive, Renewed, Session},
        error::WorkerError,
    },
    slots::{Held, runtime},
};

/// Longest time that one call waits for its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Delay before each try of one renewal; at most a third of the renewal interval.
const RETRY_DELAYS: [Duration; TRIES as usize] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Number of tries of one renewal.
pub(crate) const TRIES: u32 = 3;

/// The session and the leases to renew. The worker's loop keeps it up to date.
#[derive(Debug, Clone, Default)]
pub(crate) struct RenewalState {
    pub(crate) session: Option<Session>,
    pub(crate) held: Vec<Held>,
}

/// The result of one call that renews leases.
#[derive(Debug)]
pub(crate) struct RenewalResult {
    /// The session that was to be renewed. It may have ended since.
    pub(crate) session: SessionId,
    /// The answer, or why there was none. After a failure the next try may follow.
    pub(crate) renewed: Result<Renewed, String>,
}

/// Handle of the renewal task.
#[derive(Debug)]
pub(crate) struct Renewals {
    /// The session and leases to renew; without a session at first.
    pub(crate) renewable: watch::Sender<RenewalState>,
    /// The results of the calls.
    pub(crate) beats: mpsc::Receiver<RenewalResult>,
    /// Stops the task when it is dropped.
    pub(crate) stop: DropGuard,
}

/// Starts the renewal task on a thread of the given set.
///
/// # Errors
/// [`WorkerError`]. Leases expire without renewals, so the worker cannot run.
pub(crate) fn start(
    set: &mut JoinSet<()>,
    connector: Connector,
    clock: Arc<LeaseClock>,
    progress: Progress,
) -> Result<Renewals, WorkerError> {
    let (beats, results) = mpsc::channel(8);
    let (renewable, to_renew) = watch::channel(RenewalState::default());
    let stop = CancellationToken::new();
    let stop_guard = stop.clone().drop_guard();
    let ticker = Ticker {
        connector,
        client: None,
        clock,
        progress,
        renewable: to_renew,
        beats,
    };
    let started = runtime::start(set, "renewal", move |runtime| {
        runtime.block_on(stop.run_until_cancelled_owned(ticker.run()));
    })?;
    started.map_err(WorkerError::Renewal)?;
    Ok(Renewals {
        renewable,
        beats: results,
        stop: stop_guard,
    })
}

/// The state of the renewal task.
struct Ticker {
    connector: Connector,
    /// The connection that the last call used. It belongs to this thread's runtime.
    client: Option<CoordinatorClient>,
    clock: Arc<LeaseClock>,
    progress: Progress,
    renewable: watch::Receiver<RenewalState>,
    beats: mpsc::Sender<RenewalResult>,
}

impl Ticker {
    async fn run(mut self) {
        while self
            .renewable
            .wait_for(|renewable| renewable.session.is_some())
            .await
            .is_ok()
        {
            // The registration has just renewed the leases.
            let mut due = Instant::now();
            while let Some(session) = self.session() {
                // A fixed rate with jitter: a slow answer must not delay the next renewal.
                due = (due + jittered(session.renew)).max(Instant::now());
                sleep_until(due).await;
                self.renew().await;
            }
        }
    }

    fn session(&self) -> Option<Session> {
        self.renewable.borrow().session
    }

    /// One renewal: calls up to [`TRIES`] times until there is an answer.
    async fn renew(&mut self) {
        for delay in RETRY_DELAYS {
            let Some(session) = self.session() else {
                return;
            };
            sleep(delay.min(session.renew / 3)).await;
            let RenewalState {
                session: Some(session),
                held,
            } = self.renewable.borrow().clone()
            else {
                return;
            };
            let limit = CALL_TIMEOUT.min(session.renew);
            let received = self.progress.received_bytes();
            let client = self.client.get_or_insert_with(|| {
                CoordinatorClient::new(&self.connector, Arc::clone(&self.clock))
            });
            let renewed = match client.renew(session.id, &held, received, limit).await {
                Ok(renewed) if is_current(&self.clock, &renewed, session.ttl) => Ok(renewed),
                Ok(_) => Err("a coordinator of the past answered".to_owned()),
                Err(error) => {
                    // If the remote host is gone, TCP would keep the connection for longer than
                    // leases live. A new connection avoids that.
                    self.client = None;
                    Err(error.to_string())
                }
            };
            let is_renewed = renewed.is_ok();
            if !is_renewed {
                self.progress.counters.missed_renewals.inc();
            }
            let result = RenewalResult {
                session: session.id,
                renewed,
            };
            // If the queue is full, the worker receives the next answer instead, and a failure is
            // only counted.
            self.beats.try_send(result).ok();
            if is_renewed {
                return;
            }
        }
    }
}

/// Whether the current coordinator answered. An answer from a coordinator that does not know the
/// session does not renew its leases: they may already belong to another worker, and only a
/// registration can confirm them.
fn is_current(clock: &LeaseClock, renewed: &Renewed, ttl: Duration) -> bool {
    match renewed.directive {
        Directive::Reregister => clock.heard_of(renewed.epoch),
        _ => clock.answered(renewed.epoch, renewed.sent, ttl),
    }
}

/// The interval with up to ±10 % of jitter, so that workers that started together do not stay
/// synchronised.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn an_answer_for_an_unknown_session_renews_nothing_but_invalidates_older_epochs() {
        let time = Arc::new(AtomicU64::new(1000));
        let now = Arc::clone(&time);
        let clock = LeaseClock::new(move || Duration::from_secs(now.load(Ordering::Relaxed)));
        let answered = |epoch, directive| {
            let renewed = Renewed {
                epoch,
                drop: Vec::new(),
                directive,
                sent: clock.now(),
            };
            is_current(&clock, &renewed, Duration::from_secs(30))
        };
        assert!(answered(1, Directive::Continue));
        time.store(1025, Ordering::Relaxed);
        assert!(clock.has_run_out());
        assert!(answered(2, Directive::Reregister));
        assert!(
            clock.has_run_out(),
            "the leases may belong to another worker"
        );
        assert!(!answered(1, Directive::Continue), "a later epoch is known");
        assert!(clock.has_run_out());
        assert!(answered(2, Directive::Drain));
        assert!(!clock.has_run_out());
    }
}

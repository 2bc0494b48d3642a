//! The stream of observations and budgets between the origin limiter and the coordinator.
//! Observations are sent when they change, and at least once a second or at the coordinator's longer
//! interval, so that it can tell which worker is silent. Each received budget is applied. The stream
//! never blocks transfers: only its own task waits.

use std::{convert::Infallible, sync::Arc, time::Duration};

use shared::{backoff::Backoff, ids::SessionId};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    origin::limiter::OriginLimiter,
    session::{
        coordinator_client::{CoordinatorClient, NoBudget},
        heartbeat::RenewalState,
        live_reports::{self, LiveReports},
    },
};

/// Delay between two streams.
const REOPEN_BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(250),
    cap: Duration::from_secs(5),
};
/// A stream that delivers no budget within this time is abandoned.
const FIRST_BUDGET_TIMEOUT: Duration = Duration::from_secs(8);
/// Minimum average interval between observations; a burst of [`BURST`] is permitted.
const INTERVAL: Duration = Duration::from_millis(10);
const BURST: u32 = 8;

/// Exchanges observations and budgets with the coordinator, through all sessions.
pub(crate) async fn exchange_budgets(
    client: CoordinatorClient,
    limiter: Arc<OriginLimiter>,
    mut sessions: watch::Receiver<RenewalState>,
    mut live: LiveReports,
) {
    let session = |renewable: &RenewalState| renewable.session.map(|session| session.id);
    let mut last = None;
    loop {
        let Ok(Some(id)) = sessions
            .wait_for(|is| session(is).is_some())
            .await
            .map(|is| session(&is))
        else {
            return;
        };
        if last.replace(id) != Some(id) {
            limiter.close();
        }
        let exchange = Exchange {
            client: client.clone(),
            limiter: Arc::clone(&limiter),
            session: id,
            live: &mut live,
            retry: 1,
        };
        tokio::select! {
            () = exchange.keep_open() => {}
            gone = sessions.wait_for(|is| session(is) != Some(id)) => if gone.is_err() { return },
        }
    }
}

/// The exchange during one session.
struct Exchange<'live> {
    client: CoordinatorClient,
    limiter: Arc<OriginLimiter>,
    session: SessionId,
    live: &'live mut LiveReports,
    /// Number of the next retry, from which its delay follows; 0 after a stream with a budget.
    retry: u32,
}

impl Exchange<'_> {
    /// Opens one stream after another until the session ends.
    async fn keep_open(mut self) {
        loop {
            let Err(error) = self.follow().await;
            // A status that ends a stream with budgets says nothing about the next stream.
            if matches!(error, NoBudget::Never) && self.retry > 0 {
                tracing::info!(
                    "the coordinator has no budget for the origin: every slot may ask it"
                );
                self.limiter.allow_all_slots();
                return std::future::pending().await;
            }
            tracing::debug!("the stream for the pace ended, opening another: {error}");
            sleep(REOPEN_BACKOFF.delay(self.retry, rand::random())).await;
            self.retry += 1;
        }
    }

    /// Runs one stream: sends observations and applies budgets until it breaks.
    async fn follow(&mut self) -> Result<Infallible, NoBudget> {
        let opened = async {
            let (observations, mut budgets, sent) = self
                .client
                .open_budget_stream(self.session, &self.limiter, self.live)
                .await?;
            let first = budgets.next().await?;
            Ok((observations, budgets, sent, first))
        };
        let (observations, mut budgets, mut sent, mut budget) =
            timeout(FIRST_BUDGET_TIMEOUT, opened)
                .await
                .unwrap_or_else(|_| Err(NoBudget::Now("no budget came in time".to_owned())))?;
        self.retry = 0;
        let mut last = Instant::now();
        let mut last_sent = last;
        let mut is_due = false;
        // The time at which all sent observations would have been sent at the average interval.
        let mut sent_until = last;
        self.limiter.apply_budget(&budget);
        loop {
            tokio::select! {
                next = budgets.next() => {
                    budget = next?;
                    self.limiter.apply_budget(&budget);
                }
                () = report_due_after(&self.limiter, sent_until, INTERVAL * BURST), if !is_due => is_due = true,
                () = sleep_until(last + budget.observe_every), if !is_due => {
                    last = Instant::now();
                    is_due = last_sent.elapsed() >= live_reports::INTERVAL
                        || !self.limiter.observation().is_unchanged_since(&sent);
                }
                newest = observations.send(&self.limiter, self.live), if is_due => {
                    sent = newest?;
                    last = Instant::now();
                    last_sent = last;
                    is_due = false;
                    sent_until = sent_until.max(last) + INTERVAL;
                }
            }
        }
    }
}

/// Waits for a change to report, but not until earlier than `ahead` before `time`.
async fn report_due_after(limiter: &OriginLimiter, time: Instant, ahead: Duration) {
    let earliest = time.saturating_duration_since(Instant::now());
    sleep(earliest.saturating_sub(ahead)).await;
    limiter.report_due().await;
}

//! The link of the gate with the coordinator: observations go out when there is something to hear, and each budget that comes
//! is kept to. It is in nobody's way: what waits here is only the link itself.

use std::{convert::Infallible, sync::Arc, time::Duration};

use shared::{backoff::Backoff, ids::SessionId};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::origin::limiter::{Budget, Gate, Observation};
use crate::session::{
    coordinator_client::{Budgets, CoordinatorClient, NoBudget, Observations},
    heartbeat::Renewable,
};

/// Between two streams.
const REOPEN: Backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(5) };
/// A stream on which no budget comes within this is given up.
const FIRST_BUDGET: Duration = Duration::from_secs(8);
/// However much there is to hear, it is told in one observation for each such time, but for the first [`AT_ONCE`].
const PAUSE: Duration = Duration::from_millis(10);
const AT_ONCE: u32 = 8;

/// Keeps the gate and the coordinator told of each other, through all sessions.
pub(crate) async fn keep_told(client: CoordinatorClient, gate: Arc<Gate>, mut sessions: watch::Receiver<Renewable>) {
    let session = |renewable: &Renewable| renewable.session.map(|session| session.id);
    let mut last = None;
    loop {
        let Ok(Some(id)) = sessions.wait_for(|is| session(is).is_some()).await.map(|is| session(&is)) else { return };
        if last.replace(id) != Some(id) {
            gate.close();
        }
        let link = Link { client: client.clone(), gate: Arc::clone(&gate), session: id };
        tokio::select! {
            () = link.keep_open() => {}
            gone = sessions.wait_for(|is| session(is) != Some(id)) => if gone.is_err() { return },
        }
    }
}

struct Link {
    client: CoordinatorClient,
    gate: Arc<Gate>,
    session: SessionId,
}

/// A stream ended.
enum Ended {
    /// After some budgets, or before the first one.
    Lost { was_open: bool, why: String },
    /// The coordinator has no budgets.
    NoBudget,
}

impl Link {
    /// Opens one stream after the other, for as long as the session lasts.
    async fn keep_open(mut self) {
        let mut lost = 0;
        loop {
            match self.follow().await {
                Ended::NoBudget => {
                    tracing::info!("the coordinator has no budget for the origin: every slot may ask it");
                    self.gate.open_to_all();
                    return std::future::pending().await;
                }
                Ended::Lost { was_open, why } => {
                    lost = if was_open { 0 } else { lost + 1 };
                    tracing::debug!("the stream for the pace ended, opening another: {why}");
                }
            }
            sleep(REOPEN.delay(lost, rand::random())).await;
        }
    }

    /// One stream, from its first observation to its end.
    async fn follow(&mut self) -> Ended {
        let told = self.gate.tell();
        let opened = async {
            let (observations, mut budgets) = self.client.pace(self.session, &told, self.gate.first_trouble()).await?;
            let first = budgets.next().await?;
            Ok((observations, budgets, first))
        };
        match timeout(FIRST_BUDGET, opened).await {
            Ok(Ok((observations, budgets, first))) => {
                let Err(error) = self.exchange(observations, budgets, first, told).await;
                Ended::Lost { was_open: true, why: error.to_string() }
            }
            Ok(Err(NoBudget::Never)) => Ended::NoBudget,
            Ok(Err(NoBudget::Now(why))) => Ended::Lost { was_open: false, why },
            Err(_) => Ended::Lost { was_open: false, why: "no budget came in time".to_owned() },
        }
    }

    /// Tells and is told, until the stream breaks, for whatever reason.
    async fn exchange(
        &self,
        observations: Observations,
        mut budgets: Budgets,
        mut budget: Budget,
        mut told: Observation,
    ) -> Result<Infallible, NoBudget> {
        let (mut last, mut is_due) = (Instant::now(), false);
        // When all that was told would have been told at the slower pace.
        let mut even = last;
        self.gate.keep_to(&budget);
        loop {
            tokio::select! {
                next = budgets.next() => {
                    budget = next?;
                    self.gate.keep_to(&budget);
                }
                () = self.news_after(even, PAUSE * AT_ONCE), if !is_due => is_due = true,
                () = sleep_until(last + budget.observe_every), if !is_due => {
                    (last, is_due) = (Instant::now(), !self.gate.observation().is_no_news_after(&told));
                }
                room = observations.room(), if is_due => {
                    told = self.gate.tell();
                    room?.send(&told, self.gate.first_trouble());
                    (last, is_due) = (Instant::now(), false);
                    even = even.max(last) + PAUSE;
                }
            }
        }
    }

    /// News, but none earlier than so long before a time.
    async fn news_after(&self, time: Instant, ahead: Duration) {
        sleep(time.saturating_duration_since(Instant::now()).saturating_sub(ahead)).await;
        self.gate.news().await;
    }
}

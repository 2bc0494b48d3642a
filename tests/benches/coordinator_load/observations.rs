//! The observations that workers send beside their renewals, at the interval that the coordinator
//! wants, with the progress of all their leases.

use std::time::Duration;

use futures_util::stream;
use proto::{Budget, Held, Observation};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    dial::Client,
    worker::{LoadError, call},
};

/// Bytes that each lease has received more at each observation.
const STEP: u64 = 1 << 20;

/// One worker's stream of observations.
pub(crate) struct Observations {
    pub(crate) client: Client,
    pub(crate) session: u64,
    pub(crate) held: Vec<Held>,
}

impl Observations {
    /// Sends observations until this time. Returns how many.
    pub(crate) async fn send_until(mut self, end: Instant) -> Result<u64, LoadError> {
        let (sender, mut receiver) = mpsc::channel(1);
        let gone = || LoadError::Misbehaved("a stream of budgets ended".to_owned());
        sender.send(self.next(0)).await.map_err(|_| gone())?;
        let opened = self
            .client
            .pace(stream::poll_fn(move |context| receiver.poll_recv(context)));
        let mut budgets = call("Pace", opened).await?;
        let first = call("Pace", async {
            budgets.message().await.map(tonic::Response::new)
        });
        let mut budget = first.await?.ok_or_else(gone)?;
        let mut sent = 1;
        let mut last = Instant::now();
        loop {
            let due = last + interval(&budget);
            if due >= end {
                sleep_until(end).await;
                return Ok(sent);
            }
            tokio::select! {
                next = budgets.message() => budget = next.ok().flatten().ok_or_else(gone)?,
                () = sleep_until(due) => {
                    let observation = self.next(budget.version);
                    sender.send(observation).await.map_err(|_| gone())?;
                    sent += 1;
                    last = Instant::now();
                }
            }
        }
    }

    fn next(&mut self, budget_version: u64) -> Observation {
        for held in &mut self.held {
            held.bytes += STEP;
            held.length = u64::from(u32::MAX);
        }
        Observation {
            session_id: self.session,
            budget_version,
            wanted: 1,
            received_bytes: self.held.iter().map(|held| held.bytes).sum(),
            transfers: self.held.clone(),
            disk_free: u64::from(u32::MAX),
            ..Default::default()
        }
    }
}

fn interval(budget: &Budget) -> Duration {
    Duration::from_millis(budget.observe_ms.max(1))
}

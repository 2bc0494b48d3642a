//! Simulated transfers: the bytes of a worker's classes move, observations on the budget stream
//! report them, and complete classes are reported and replaced. Renewals go on beside that.

use std::time::Duration;

use proto::{
    Budget, Directive, Failure, FailureKind, Held, Observation, Outcome, Refusal, RenewRequest,
    Suspect, outcome::Kind,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tonic::{Streaming, codegen::tokio_stream::wrappers::ReceiverStream};

use super::{LoadError, Worker, call};
use crate::dial::Client;

/// Mean rate of one transfer, in bytes per millisecond: 3000 of them fill a line of 10 Gbit/s.
const BYTES_PER_MILLISECOND: u64 = 416;
/// Lengths of tars in bytes.
const SHORTEST: u64 = 20_000_000;
const LONGEST: u64 = 110_000_000;
/// Free disk space of a worker at its start, in bytes.
const DISK: u64 = 2 << 40;
/// Of this many turns in which classes complete, their classes fail in one.
const TURNS_PER_FAILURE: u32 = 50;
/// Interval of renewals. Workers renew every 10 s; more samples make the 99th percentile steadier.
pub(crate) const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);
/// Observations that wait to be sent.
const QUEUE: usize = 4;

/// One renewal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    pub(crate) due: Instant,
    pub(crate) latency: Duration,
}

/// The values that a renewal and an observation have in common.
#[derive(Debug, Clone, Default)]
struct Progress {
    held: Vec<Held>,
    received: u64,
}

/// The side that only renews.
struct Renewals {
    client: Client,
    session: u64,
    progress: watch::Receiver<Progress>,
}

/// The side that transfers.
struct Transfers<'worker> {
    worker: &'worker mut Worker,
    received: u64,
    requests: u64,
    budget: Budget,
}

impl Worker {
    /// Downloads and renews until `end`, with the first renewal at `first`.
    ///
    /// # Errors
    /// A call or the budget stream fails, or the session is unknown.
    pub(crate) async fn download(
        mut self,
        first: Instant,
        end: Instant,
    ) -> Result<(Self, Vec<Renewal>), LoadError> {
        let (published, progress) = watch::channel(Progress {
            held: self.held.clone(),
            received: 0,
        });
        let renewals = Renewals {
            client: self.client.clone(),
            session: self.session,
            progress,
        };
        let transfers = Transfers {
            worker: &mut self,
            received: 0,
            requests: 0,
            budget: Budget::default(),
        };
        let (renewals, ()) =
            tokio::try_join!(renewals.run(first, end), transfers.run(published, end))?;
        Ok((self, renewals))
    }
}

impl Renewals {
    async fn run(mut self, first: Instant, end: Instant) -> Result<Vec<Renewal>, LoadError> {
        let mut renewals = Vec::new();
        let mut due = first;
        while due < end {
            let is_late = Instant::now() > due;
            sleep_until(due).await;
            // A renewal that waited for the one before counts from the time at which it was due,
            // another one not: the clock of the runtime wakes tasks up to 1 ms late.
            let from = if is_late { due } else { Instant::now() };
            let Progress { held, received } = self.progress.borrow().clone();
            let request = RenewRequest {
                session_id: self.session,
                held,
                received_bytes: received,
            };
            let reply = call("Renew", self.client.renew(request)).await?;
            if reply.directive() == Directive::Reregister {
                return Err(LoadError::Misbehaved(
                    "a session was forgotten although it was renewed".to_owned(),
                ));
            }
            let latency = from.elapsed();
            renewals.push(Renewal { due, latency });
            due += RENEWAL_INTERVAL;
        }
        Ok(renewals)
    }
}

impl Transfers<'_> {
    async fn run(
        mut self,
        progress: watch::Sender<Progress>,
        end: Instant,
    ) -> Result<(), LoadError> {
        for held in &mut self.worker.held {
            // The workers' first classes do not end at the same time.
            begin(held);
            held.bytes = rand::random_range(0..held.length);
        }
        let (observations, queue) = mpsc::channel(QUEUE);
        send(&observations, self.observation()).await?;
        let queue = ReceiverStream::new(queue);
        let mut budgets = call("Pace", self.worker.client.pace(queue)).await?;
        self.budget = next_budget(&mut budgets).await?;
        let mut last = Instant::now();
        // Observations of the workers are spread over the interval.
        let mut due = last + self.interval().mul_f64(rand::random());
        while last < end {
            tokio::select! {
                budget = next_budget(&mut budgets) => self.budget = budget?,
                () = sleep_until(due.min(end)) => {
                    let now = Instant::now();
                    self.advance(now - last);
                    self.settle_complete().await?;
                    last = now;
                    due = now + self.interval();
                }
            }
            progress.send_replace(Progress {
                held: self.worker.held.clone(),
                received: self.received,
            });
            send(&observations, self.observation()).await?;
        }
        Ok(())
    }

    /// Interval of observations, as the budget sets it.
    fn interval(&self) -> Duration {
        Duration::from_millis(self.budget.observe_ms.max(1))
    }

    /// Number of transfers under way: the budget's connections, one for each class.
    fn open(&self) -> usize {
        let connections = usize::try_from(self.budget.connections).unwrap_or(usize::MAX);
        connections.min(self.worker.held.len())
    }

    /// Receives the bytes of this time.
    fn advance(&mut self, time: Duration) {
        let open = self.open();
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        for held in &mut self.worker.held[..open] {
            if held.length == 0 {
                begin(held);
                self.requests += 1;
            }
            let mean = time.saturating_mul(BYTES_PER_MILLISECOND);
            let received = (mean / 2 + rand::random_range(0..=mean)).min(held.length - held.bytes);
            held.bytes += received;
            self.received += received;
        }
    }

    /// Reports the complete classes and acquires as many others.
    async fn settle_complete(&mut self) -> Result<(), LoadError> {
        let worker = &mut *self.worker;
        let (complete, moving): (Vec<Held>, Vec<Held>) = worker
            .held
            .drain(..)
            .partition(|held| held.length > 0 && held.bytes == held.length);
        let count = u32::try_from(complete.len()).unwrap_or(u32::MAX);
        if complete.is_empty() {
            worker.held = moving;
            return Ok(());
        }
        worker.held = complete;
        if rand::random_range(0..TURNS_PER_FAILURE) == 0 {
            worker.send_report(&missing()).await?;
        } else {
            worker.report().await?;
        }
        worker.held = moving;
        worker.acquire(count).await?;
        Ok(())
    }

    fn observation(&self) -> Observation {
        let open = u32::try_from(self.open()).unwrap_or(u32::MAX);
        Observation {
            session_id: self.worker.session,
            budget_version: self.budget.version,
            open,
            flowing: open,
            wanted: u32::try_from(self.worker.held.len()).unwrap_or(u32::MAX),
            received_bytes: self.received,
            requests: self.requests,
            transfers: self.worker.held.clone(),
            disk_free: DISK.saturating_sub(self.received),
            ..Default::default()
        }
    }
}

/// Begins the transfer of a class, whose length follows from its id.
fn begin(held: &mut Held) {
    let number: u64 = held.wnid[1..].parse().unwrap_or_default();
    held.length = SHORTEST + number.wrapping_mul(7_919_003) % (LONGEST - SHORTEST);
}

/// The result of a class that the origin does not have.
fn missing() -> Outcome {
    Outcome {
        kind: Some(Kind::Failure(Failure {
            kind: FailureKind::HttpError.into(),
            message: "404 Not Found".to_owned(),
            suspect: Suspect::Class.into(),
            refusal: Refusal::Status.into(),
            refusal_status: 404,
            ..Default::default()
        })),
    }
}

async fn send(
    observations: &mpsc::Sender<Observation>,
    observation: Observation,
) -> Result<(), LoadError> {
    let sent = observations.send(observation).await;
    sent.map_err(|_| LoadError::Misbehaved("the coordinator closed a budget stream".to_owned()))
}

async fn next_budget(budgets: &mut Streaming<Budget>) -> Result<Budget, LoadError> {
    match budgets.message().await {
        Ok(Some(budget)) => Ok(budget),
        Ok(None) => Err(LoadError::Misbehaved(
            "the coordinator ended a budget stream".to_owned(),
        )),
        Err(status) => Err(LoadError::Unanswered {
            call: "Pace",
            why: status.to_string(),
        }),
    }
}

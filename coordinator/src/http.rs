//! The coordinator's HTTP port: health, readiness and metrics. It is read-only.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use shared::{
    http::{self, Address, HttpError, Seen},
    metrics::{Metrics, Source},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    dispatcher::DispatcherHandle,
    fleet::{Phase, in_words},
    ledger::Commits,
};

mod metrics;

/// State that can be observed once the job has begun.
#[derive(Debug)]
pub(crate) struct AtWork {
    pub(crate) handle: DispatcherHandle,
    pub(crate) epoch: u32,
    pub(crate) commits: Commits,
    /// Further sources of metrics: the worker in this process, the server credentials.
    pub(crate) others: Vec<Arc<dyn Source>>,
}

/// Everything that can be observed, from start to end.
#[derive(Debug)]
struct CoordinatorState {
    at_work: OnceLock<AtWork>,
    /// Cancelled when a shutdown is requested, or at the end.
    stopping: [CancellationToken; 2],
}

/// What the HTTP port serves.
#[derive(Debug)]
pub(crate) struct Outside {
    coordinator: Arc<CoordinatorState>,
    metrics: Metrics,
}

impl Outside {
    /// A coordinator that is starting, and stops when one of the tokens is cancelled.
    fn new(stopping: [CancellationToken; 2]) -> Self {
        let coordinator = Arc::new(CoordinatorState { at_work: OnceLock::new(), stopping });
        Self { metrics: Metrics::new("coordinator", crate::version::VERSION, Arc::clone(&coordinator)), coordinator }
    }

    /// Binds the address, and answers from now on as long as the tasks live.
    pub(crate) fn open(
        address: Address,
        stopping: [CancellationToken; 2],
        tasks: &mut JoinSet<()>,
    ) -> Result<(Arc<Self>, SocketAddr), HttpError> {
        let (listener, address) = http::listen(address)?;
        let outside = Arc::new(Self::new(stopping));
        tasks.spawn(http::serve(listener, "coordinator", Arc::clone(&outside)));
        Ok((outside, address))
    }

    /// The job has begun.
    pub(crate) fn at_work(&self, at_work: AtWork) {
        self.coordinator.at_work.get_or_init(|| at_work);
    }
}

impl CoordinatorState {
    fn readiness(&self) -> Result<(), &'static str> {
        if self.stopping.iter().any(CancellationToken::is_cancelled) {
            return Err("stopping");
        }
        let at_work = self.at_work.get().ok_or("starting")?;
        if at_work.handle.phase() == Phase::Recovering { Err("recovering") } else { Ok(()) }
    }
}

impl Seen for Outside {
    async fn is_alive(&self) -> bool {
        match self.coordinator.at_work.get() {
            Some(at_work) => at_work.handle.answers().await,
            None => true,
        }
    }

    fn readiness(&self) -> Result<(), &'static str> {
        self.coordinator.readiness()
    }

    fn now(&self) -> String {
        self.coordinator.at_work.get().map(|at_work| in_words(&at_work.handle.pace())).unwrap_or_default()
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_starting_coordinator_is_alive_and_not_ready() {
        let [drain, close] = [CancellationToken::new(), CancellationToken::new()];
        let outside = Outside::new([drain, close.clone()]);
        assert!(outside.is_alive().await);
        assert_eq!(outside.readiness(), Err("starting"));
        let text = outside.metrics().text().unwrap();
        assert!(text.contains("\nimagenet_ready 0\n") && !text.contains("imagenet_classes"), "{text}");
        close.cancel();
        assert_eq!(outside.readiness(), Err("stopping"));
    }
}

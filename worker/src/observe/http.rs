//! What is seen of the worker over HTTP: health, readiness and metrics.

use std::{net::SocketAddr, sync::Arc};

use shared::{
    http::{self, Address, HttpError, Seen},
    metrics::Metrics,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::observe::counters::Tally;

#[derive(Debug)]
struct Outside {
    tally: Arc<Tally>,
    metrics: Metrics,
    stopping: CancellationToken,
}

/// Takes the address and answers, as long as the tasks live.
///
/// # Errors
/// [`HttpError`], one sentence that names the flag.
pub fn open(
    address: SocketAddr,
    tally: Arc<Tally>,
    stopping: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr, HttpError> {
    let (listener, address) = http::listen(Address { address, or_any_port: false })?;
    let metrics = Metrics::new("worker", crate::version::VERSION, Arc::clone(&tally));
    tasks.spawn(http::serve(listener, "worker", Arc::new(Outside { tally, metrics, stopping })));
    Ok(address)
}

impl Seen for Outside {
    /// Who can answer this lives: a worker waits for disks and networks elsewhere.
    async fn is_alive(&self) -> bool {
        true
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.stopping.is_cancelled() {
            return Err("stopping");
        }
        self.tally.is_registered().then_some(()).ok_or("the coordinator does not answer")
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_while_the_coordinator_knows_it() {
        let (tally, stopping) = (Arc::<Tally>::default(), CancellationToken::new());
        let metrics = Metrics::new("worker", crate::version::VERSION, Arc::clone(&tally));
        let outside = Outside { tally: Arc::clone(&tally), metrics, stopping: stopping.clone() };
        assert_eq!(outside.readiness(), Err("the coordinator does not answer"));
        tally.set_registered(true);
        assert_eq!(outside.readiness(), Ok(()));
        stopping.cancel();
        assert_eq!(outside.readiness(), Err("stopping"));
    }
}

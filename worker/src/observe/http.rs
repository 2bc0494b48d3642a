//! The worker's HTTP endpoints: health, readiness and metrics.

use std::{net::SocketAddr, sync::Arc};

use shared::{
    http::{self, Address, ListenError, ProgramStatus},
    metrics::Metrics,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::observe::counters::WorkerCounters;

/// The state that the endpoints report.
#[derive(Debug)]
struct WorkerEndpoints {
    counters: Arc<WorkerCounters>,
    metrics: Metrics,
    stopping: CancellationToken,
}

/// Listens on the address and serves requests in a task of `tasks`.
///
/// # Errors
/// [`ListenError`]: one sentence that names the flag.
pub fn open(
    address: SocketAddr,
    counters: Arc<WorkerCounters>,
    stopping: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr, ListenError> {
    let (listener, address) = http::listen(Address {
        address,
        or_any_port: false,
    })?;
    let metrics = Metrics::new("worker", crate::version::VERSION, Arc::clone(&counters));
    tasks.spawn(http::serve(
        listener,
        "worker",
        Arc::new(WorkerEndpoints {
            counters,
            metrics,
            stopping,
        }),
    ));
    Ok(address)
}

impl ProgramStatus for WorkerEndpoints {
    /// A worker that answers is alive: this task does not wait for disks or networks.
    async fn is_alive(&self) -> bool {
        true
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.stopping.is_cancelled() {
            return Err("stopping");
        }
        self.counters
            .is_registered()
            .then_some(())
            .ok_or("the coordinator does not answer")
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
        let counters = Arc::<WorkerCounters>::default();
        let stopping = CancellationToken::new();
        let metrics = Metrics::new("worker", crate::version::VERSION, Arc::clone(&counters));
        let endpoints = WorkerEndpoints {
            counters: Arc::clone(&counters),
            metrics,
            stopping: stopping.clone(),
        };
        assert_eq!(
            endpoints.readiness(),
            Err("the coordinator does not answer")
        );
        counters.set_registered(true);
        assert_eq!(endpoints.readiness(), Ok(()));
        stopping.cancel();
        assert_eq!(endpoints.readiness(), Err("stopping"));
    }
}

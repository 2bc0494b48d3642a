//! The coordinator's HTTP port: health, readiness and metrics for each client, and, where `access`
//! permits it, the page (`assets`) and its data (`api`).

use std::sync::{Arc, OnceLock};

use shared::{
    http::{self, Address, HostName, ListenError, ProgramStatus, Site, TlsSource},
    metrics::{Metrics, MetricsSource},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::ServerCredentials, dashboard::Dashboard, dispatcher::DispatcherHandle, fleet::Phase,
    ledger::Commits, version::VERSION,
};

mod access;
mod api;
mod assets;
mod metrics;
mod reach;

/// State that can be observed once the job has begun.
#[derive(Debug)]
pub(crate) struct RunningJob {
    pub(crate) handle: DispatcherHandle,
    pub(crate) dashboard: Dashboard,
    pub(crate) epoch: u32,
    pub(crate) commits: Commits,
    /// Further sources of metrics: the worker in this process, the server credentials.
    pub(crate) others: Vec<Arc<dyn MetricsSource>>,
}

/// Everything that can be observed, from start to end.
#[derive(Debug)]
struct CoordinatorState {
    running_job: OnceLock<RunningJob>,
    /// Cancelled when a shutdown is requested, or at the end.
    stopping: [CancellationToken; 2],
}

/// Where the HTTP port is, and who may look at the job there.
pub(crate) struct HttpSettings {
    pub(crate) address: Address,
    /// `--http-tls`.
    pub(crate) tls: Option<TlsSource>,
    /// `--http-host`.
    pub(crate) proxies: Vec<HostName>,
    pub(crate) credentials: Arc<ServerCredentials>,
}

/// What the HTTP port serves.
#[derive(Debug)]
pub(crate) struct HttpEndpoint {
    coordinator: Arc<CoordinatorState>,
    metrics: Metrics,
}

impl HttpEndpoint {
    /// A coordinator that is starting, and stops when one of the tokens is cancelled.
    fn new(stopping: [CancellationToken; 2]) -> Self {
        let coordinator = Arc::new(CoordinatorState {
            running_job: OnceLock::new(),
            stopping,
        });
        Self {
            metrics: Metrics::new("coordinator", VERSION, Arc::clone(&coordinator)),
            coordinator,
        }
    }

    /// Binds the address, and answers from now on as long as the tasks live. Also returns the line
    /// for people with the address.
    pub(crate) fn open(
        settings: HttpSettings,
        stopping: [CancellationToken; 2],
        tasks: &mut JoinSet<()>,
    ) -> Result<(Arc<Self>, String), ListenError> {
        let HttpSettings {
            address,
            tls,
            proxies,
            credentials,
        } = settings;
        let (listener, address) = http::listen(address)?;
        let line = reach::announcement(address, tls.is_some(), &credentials);
        let endpoint = Arc::new(Self::new(stopping));
        let port = api::PortState {
            coordinator: Arc::clone(&endpoint.coordinator),
            credentials,
            address,
        };
        let site = Site {
            router: http::probes(Arc::clone(&endpoint)).merge(api::routes(port)),
            tls,
            proxies,
            other_host_remedy: reach::PROXY_REMEDY,
        };
        tasks.spawn(http::serve_site(listener, site));
        Ok((endpoint, line))
    }

    /// The job has begun.
    pub(crate) fn running_job(&self, running_job: RunningJob) {
        self.coordinator.running_job.get_or_init(|| running_job);
    }
}

impl CoordinatorState {
    fn readiness(&self) -> Result<(), &'static str> {
        if self.stopping.iter().any(CancellationToken::is_cancelled) {
            return Err("stopping");
        }
        let running_job = self.running_job.get().ok_or("starting")?;
        if running_job.handle.phase() == Phase::Recovering {
            Err("recovering")
        } else {
            Ok(())
        }
    }
}

impl ProgramStatus for HttpEndpoint {
    async fn is_alive(&self) -> bool {
        match self.coordinator.running_job.get() {
            Some(job) => job.handle.answers().await,
            None => true,
        }
    }

    fn readiness(&self) -> Result<(), &'static str> {
        self.coordinator.readiness()
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
        let outside = HttpEndpoint::new([drain, close.clone()]);
        assert!(outside.is_alive().await);
        assert_eq!(outside.readiness(), Err("starting"));
        let text = outside.metrics().text().unwrap();
        assert!(
            text.contains("\nimagenet_ready 0\n") && !text.contains("imagenet_classes"),
            "{text}"
        );
        close.cancel();
        assert_eq!(outside.readiness(), Err("stopping"));
    }
}

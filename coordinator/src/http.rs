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
    fn is_stopping(&self) -> bool {
        self.stopping.iter().any(CancellationToken::is_cancelled)
    }

    fn readiness(&self) -> Result<(), &'static str> {
        if self.is_stopping() {
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
    use ::http::{Request, StatusCode};
    use axum::body::{Body, to_bytes};
    use shared::http::{Peer, Source};
    use tower::ServiceExt as _;

    use super::*;
    use crate::auth::ServerCredentialFiles;

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

    #[tokio::test]
    async fn a_coordinator_that_stops_takes_no_retry() {
        let close = CancellationToken::new();
        let endpoint = HttpEndpoint::new([CancellationToken::new(), close.clone()]);
        let address = ([127, 0, 0, 1], 80).into();
        let router = api::routes(api::PortState {
            coordinator: Arc::clone(&endpoint.coordinator),
            credentials: Arc::new(ServerCredentialFiles::default().open().unwrap()),
            address,
        });
        close.cancel();
        let peer = Peer {
            address,
            has_tls: false,
        };
        let request = Request::post("/api/v1/retry")
            .header("content-type", "application/json")
            .extension(Source::ThisMachine)
            .extension(peer)
            .body(Body::from(r#"{"wnids":[]}"#));
        let answer = router.oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = to_bytes(answer.into_body(), 1000).await.unwrap();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains("at its end"), "{body}");
    }
}

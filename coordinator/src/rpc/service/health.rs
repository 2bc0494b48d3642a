//! The standard health service, for probes that speak gRPC: whether the coordinator leases. It is asked without a credential,
//! and says nothing else.

use proto::coordinator_server::SERVICE_NAME;
use shared::shutdown::Shutdown;
use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};

use crate::fleet::Phase;

/// The program as a whole, and the service that workers need.
const NAMES: [&str; 2] = ["", SERVICE_NAME];

/// The service, and who keeps it up to date. Nothing is healthy yet.
pub(super) async fn health() -> (Reporter, HealthServer<impl Health>) {
    let (reporter, service) = health_reporter();
    let reporter = Reporter(reporter);
    reporter.tell(ServingStatus::NotServing).await;
    (reporter, service)
}

pub(super) struct Reporter(HealthReporter);

impl Reporter {
    async fn tell(&self, status: ServingStatus) {
        for name in NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// Tells the truth until the end. Then whoever watches is let go, so that nobody waits for them.
    pub(super) async fn follow(mut self, mut phase: watch::Receiver<Phase>, shutdown: Shutdown) {
        let serve_until_told = async {
            // The dispatcher may be gone before: then there is nothing to serve.
            if phase.wait_for(|phase| *phase != Phase::Recovering).await.is_ok() {
                self.tell(ServingStatus::Serving).await;
                std::future::pending::<()>().await;
            }
            shutdown.abort.cancelled().await;
        };
        tokio::select! {
            () = serve_until_told => {}
            () = shutdown.drain.cancelled() => {}
            () = shutdown.abort.cancelled() => {}
        }
        self.tell(ServingStatus::NotServing).await;
        shutdown.abort.cancelled().await;
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
    }
}

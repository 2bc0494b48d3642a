//! The standard health service, for probes that speak gRPC: whether the coordinator leases. It is asked without a credential,
//! and says nothing else.

use proto::coordinator_server::SERVICE_NAME;
use shared::shutdown::Shutdown;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};

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
    pub(super) async fn follow(mut self, shutdown: Shutdown) {
        self.tell(ServingStatus::Serving).await;
        tokio::select! {
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

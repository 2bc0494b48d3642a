//! The standard gRPC health service, for probes: whether the coordinator grants leases. It requires
//! no credential and reveals nothing else.

use proto::coordinator_server::SERVICE_NAME;
use shared::shutdown::Shutdown;
use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};

use crate::fleet::Phase;

/// The names that are reported: the program as a whole, and the service for workers.
const NAMES: [&str; 2] = ["", SERVICE_NAME];

/// The service and its reporter. The initial status is `NOT_SERVING`.
pub(super) async fn health() -> (HealthUpdater, HealthServer<impl Health>) {
    let (reporter, service) = health_reporter();
    let reporter = HealthUpdater(reporter);
    reporter.set_status(ServingStatus::NotServing).await;
    (reporter, service)
}

/// Updates the status of the health service.
pub(super) struct HealthUpdater(HealthReporter);

impl HealthUpdater {
    async fn set_status(&self, status: ServingStatus) {
        for name in NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// Reports the phase until the shutdown. Then ends the streams of watchers, so that the server
    /// can stop.
    pub(super) async fn follow(mut self, mut phase: watch::Receiver<Phase>, shutdown: Shutdown) {
        let serve_until_aborted = async {
            // The dispatcher may end first; then there is nothing to serve.
            if phase
                .wait_for(|phase| *phase != Phase::Recovering)
                .await
                .is_ok()
            {
                self.set_status(ServingStatus::Serving).await;
                std::future::pending::<()>().await;
            }
            shutdown.abort.cancelled().await;
        };
        tokio::select! {
            () = serve_until_aborted => {}
            () = shutdown.drain.cancelled() => {}
            () = shutdown.abort.cancelled() => {}
        }
        self.set_status(ServingStatus::NotServing).await;
        shutdown.abort.cancelled().await;
        for name in NAMES {
            self.0.clear_service_status(name).await;
        }
    }
}

//! The standard health service on the workers' port, in the view of `grpc_health_probe` and
//! Kubernetes.

use std::{net::SocketAddr, time::Duration};

use tests::{
    cluster::Job,
    http::Scrape,
    running::Signal,
    wait::{wait_for, wait_until},
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Code, Status, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{origin, wnids};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// One probe: a connection, a request, an answer.
pub(crate) async fn check(address: SocketAddr, service: &str) -> Result<ServingStatus, Status> {
    let asked = async {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).expect("the URL is valid");
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = HealthClient::new(channel);
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        Ok(client.check(request).await?.into_inner().status())
    };
    timeout(PROBE_TIMEOUT, asked)
        .await
        .map_err(|_| Status::deadline_exceeded("no answer"))?
}

#[test]
fn the_health_service_on_the_workers_port_reports_whether_the_coordinator_leases() {
    let runtime = Runtime::new().expect("a runtime");
    let wnids = wnids(1);
    let origin = origin(&wnids);
    origin.limit_rate(1000);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let coordinator = job.start_coordinator();
    let ask = |service: &str| runtime.block_on(check(coordinator.address, service));
    for service in ["", "imagenet.v1.Coordinator"] {
        wait_for("the service is serving", TIMEOUT, || {
            matches!(ask(service), Ok(ServingStatus::Serving))
        });
    }
    assert_eq!(
        ask("imagenet.v1.Secret")
            .expect_err("the service is unknown")
            .code(),
        Code::NotFound
    );

    // A stopped worker: the coordinator waits a moment for it at its end, and the test observes
    // that state.
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let http = coordinator.http;
    wait_for("the worker is registered", TIMEOUT, || {
        Scrape::of(http).is_some_and(|now| now.sum("imagenet_workers{") > 0.5)
    });
    worker.signal(Signal::STOP);
    coordinator.running.signal(Signal::TERM);
    let not_serving = |service| {
        wait_until(TIMEOUT, || {
            Some(ask(service)).filter(|now| !matches!(now, Ok(ServingStatus::Serving)))
        })
    };
    let status = not_serving("imagenet.v1.Coordinator").expect("the service is not serving");
    assert!(
        matches!(status, Ok(ServingStatus::NotServing)),
        "{status:?}"
    );
    assert_eq!(coordinator.running.wait().code, Some(143));
    worker.kill();
}

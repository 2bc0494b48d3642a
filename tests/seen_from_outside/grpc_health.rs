//! The standard health service on the workers' port, as `grpc_health_probe` and Kubernetes ask it.

use std::{net::SocketAddr, time::Duration};

use tests::{
    cluster::Job,
    http::Scrape,
    running::Signal,
    wait::{wait_for, wait_until},
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Code, Status, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{origin, wnids};

const SOON: Duration = Duration::from_secs(20);
/// As a probe has it.
const PATIENCE: Duration = Duration::from_secs(10);

/// One probe: a connection, a question, an answer.
pub(crate) async fn check(address: SocketAddr, service: &str) -> Result<ServingStatus, Status> {
    let asked = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is a URL");
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = HealthClient::new(channel);
        let request = HealthCheckRequest { service: service.to_owned() };
        Ok(client.check(request).await?.into_inner().status())
    };
    timeout(PATIENCE, asked).await.map_err(|_| Status::deadline_exceeded("no answer"))?
}

#[test]
fn the_workers_port_says_whether_it_leases() {
    let runtime = Runtime::new().expect("a runtime");
    let wnids = wnids(1);
    let origin = origin(&wnids);
    origin.limit_rate(1000);
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin);
    let coordinator = job.start_coordinator();
    let ask = |service: &str| runtime.block_on(check(coordinator.address, service));
    for service in ["", "imagenet.v1.Coordinator"] {
        wait_for("it serves", SOON, || matches!(ask(service), Ok(ServingStatus::Serving)));
    }
    assert_eq!(ask("imagenet.v1.Secret").expect_err("there is no such service").code(), Code::NotFound);

    // A worker that hears nothing: the coordinator gives it a moment, which can be looked at.
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    let http = coordinator.http;
    wait_for("it is registered", SOON, || Scrape::of(http).is_some_and(|now| now.value("imagenet_workers") > 0.5));
    worker.signal(Signal::STOP);
    coordinator.running.signal(Signal::TERM);
    let not_serving =
        |service| wait_until(SOON, || Some(ask(service)).filter(|now| !matches!(now, Ok(ServingStatus::Serving))));
    let said = not_serving("imagenet.v1.Coordinator").expect("it says that it stops");
    assert!(matches!(said, Ok(ServingStatus::NotServing)), "{said:?}");
    assert_eq!(coordinator.running.wait().code, Some(143));
    worker.kill();
}

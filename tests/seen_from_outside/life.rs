//! Probes from the first lease to the end of the process.

use std::time::Duration;

use tests::{
    cluster::Job,
    http::{Scrape, get},
    running::Signal,
    wait::wait_for,
};
use tokio::runtime::Runtime;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{grpc_health::check, origin, wnids};

const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_coordinator_is_ready_while_it_leases_and_reports_that_it_stops() {
    let wnids = wnids(2);
    let origin = origin(&wnids);
    origin.limit_rate(1000);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    let coordinator = job.start_coordinator();
    let http = coordinator.http;
    let ok = Some((200, "ok\n".to_owned()));
    wait_for("the coordinator is ready", TIMEOUT, || {
        get(http, "/readyz") == ok
    });
    assert_eq!(get(http, "/healthz"), ok);
    let (status, page) = get(http, "/").expect("the coordinator answers");
    assert_eq!(status, 200);
    assert!(page.contains("<title>ImageNet download</title>"), "{page}");
    assert_eq!(get(http, "/n00000001").map(|(status, _)| status), Some(404));

    // A stopped worker: the coordinator waits a moment for it at its end, and the test observes
    // that state.
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    wait_for("the worker is registered", TIMEOUT, || {
        Scrape::of(http).is_some_and(|now| now.sum("imagenet_workers{") > 0.5)
    });
    worker.signal(Signal::STOP);
    coordinator.running.signal(Signal::TERM);
    wait_for("`/readyz` reports that it stops", TIMEOUT, || {
        get(http, "/readyz") == Some((503, "stopping\n".to_owned()))
    });
    assert_eq!(get(http, "/healthz"), ok, "a stopping program is alive");
    let finished = coordinator.running.wait();
    assert_eq!(finished.code, Some(143), "{}", finished.stderr);
    assert_eq!(get(http, "/healthz"), None);
    worker.kill();
}

#[test]
fn a_coordinator_that_waits_for_its_predecessors_workers_is_alive_and_not_ready() {
    let wnids = wnids(2);
    let origin = origin(&wnids);
    origin.limit_rate(1000);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--lease-ttl", "3s"]);
    let first = job.start_coordinator();
    let worker = job.start_worker("w1", &first, job.target_path());
    let leases = |now: Scrape| now.value("imagenet_classes{state=\"leased\"}") > 0.5;
    wait_for("the coordinator leases", TIMEOUT, || {
        Scrape::of(first.http).is_some_and(leases)
    });
    worker.signal(Signal::STOP);
    first.running.kill();

    let second = job.start_coordinator();
    let http = second.http;
    wait_for("`/readyz` reports the cause", TIMEOUT, || {
        get(http, "/readyz") == Some((503, "recovering\n".to_owned()))
    });
    assert_eq!(get(http, "/healthz"), Some((200, "ok\n".to_owned())));
    let recovering = Scrape::of(http).expect("the coordinator answers");
    assert!(
        recovering.value("imagenet_phase{phase=\"recovering\"}") > 0.5,
        "{}",
        recovering.text
    );
    assert!(
        recovering.value("imagenet_ready") < 0.5
            && recovering.value("imagenet_coordinator_epoch") > 1.5
    );
    let runtime = Runtime::new().expect("a runtime");
    let probe = || runtime.block_on(check(second.address, "imagenet.v1.Coordinator"));
    assert!(matches!(probe(), Ok(ServingStatus::NotServing)));
    wait_for("the window ends", TIMEOUT, || {
        get(http, "/readyz") == Some((200, "ok\n".to_owned()))
    });
    wait_for(
        "the health service on the workers' port agrees",
        TIMEOUT,
        || matches!(probe(), Ok(ServingStatus::Serving)),
    );
    second.running.kill();
    worker.kill();
}

//! Probes from the first lease to the last farewell.

use std::time::Duration;

use tests::{
    cluster::Job,
    http::{Scrape, get},
    running::Signal,
    wait::wait_for,
};

use crate::{origin, wnids};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_coordinator_is_ready_while_it_leases_and_says_that_it_stops() {
    let wnids = wnids(2);
    let origin = origin(&wnids);
    origin.limit_rate(1000);
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin);
    let coordinator = job.start_coordinator();
    let (http, ok) = (coordinator.http, Some((200, "ok\n".to_owned())));
    wait_for("it is ready", SOON, || get(http, "/readyz") == ok);
    assert_eq!(get(http, "/healthz"), ok);
    let (status, page) = get(http, "/").expect("it answers");
    assert_eq!(status, 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(page.contains(path), "{page}");
    }
    assert_eq!(get(http, "/n00000001").map(|(status, _)| status), Some(404));

    // A worker that hears nothing: the coordinator gives it a moment, which can be looked at.
    let worker = job.start_worker("w1", &coordinator, job.target_path());
    wait_for("it is registered", SOON, || Scrape::of(http).is_some_and(|now| now.value("imagenet_workers") > 0.5));
    worker.signal(Signal::STOP);
    coordinator.running.signal(Signal::TERM);
    wait_for("it says that it stops", SOON, || get(http, "/readyz") == Some((503, "stopping\n".to_owned())));
    assert_eq!(get(http, "/healthz"), ok, "what stops is not dead");
    let finished = coordinator.running.wait();
    assert_eq!(finished.code, Some(143), "{}", finished.stderr);
    assert_eq!(get(http, "/healthz"), None);
    worker.kill();
}

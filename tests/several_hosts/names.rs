//! Names that do not resolve, that change, or that have several addresses.

use tests::{hosts::Network, wait::wait_for};
use tokio::time::Instant;

use crate::{Cluster, TIMEOUT};

#[test]
fn a_coordinator_whose_name_is_unknown_and_then_moves_is_found() {
    let Some((_network, [first, origin, worker, second])) =
        Network::of(["first", "origin", "worker", "second"])
    else {
        return;
    };
    let mut cluster = Cluster::new(4, [&first, &origin], "coordinator.test");
    cluster.origin.limit_rate(200_000);
    let running = cluster.start_coordinator(&first);
    worker.know("");
    let mut working = cluster.start_worker_with_address("coordinator.test", &worker, "1");
    working.wait_until("it logs that there is no answer", |worker| {
        worker.stderr().contains("no answer").then_some(())
    });
    worker.know(&format!("{} coordinator.test\n", first.address));
    let class = cluster.tars[0].0.clone();
    working.wait_until("its class is in progress", |_| {
        (!cluster.origin.gets(&class).is_empty()).then_some(())
    });

    running.kill();
    worker.know(&format!("{} coordinator.test\n", second.address));
    let running = cluster.start_coordinator(&second);
    let moved = Instant::now();
    let next = cluster.tars[1].0.clone();
    wait_for(
        "it has found the coordinator on the other host",
        TIMEOUT,
        || !cluster.origin.gets(&next).is_empty(),
    );
    println!(
        "a coordinator that moved was found after {:.1?}",
        moved.elapsed()
    );
    cluster.assert_done(running, [working], &[&worker]);
    assert_eq!(cluster.origin.gets(&class).len(), 1);
}

#[test]
fn an_unreachable_address_of_the_origin_costs_little_time() {
    // The resolver sorts addresses by their common prefix with the host's own (RFC 6724): 10.77.0.2
    // precedes 10.77.0.1 for 10.77.0.3.
    let Some((_network, [origin, dead, worker, coordinator])) =
        Network::of(["origin", "dead", "worker", "coordinator"])
    else {
        return;
    };
    let mut cluster = Cluster::new(4, [&coordinator, &origin], &coordinator.address.to_string());
    dead.set_link_down(true);
    worker.know(&format!(
        "{} origin.test\n{} origin.test\n",
        dead.address, origin.address
    ));
    let url = format!("http://origin.test:{}", cluster.origin.address().port());
    let job = std::mem::take(&mut cluster.job);
    // A connection to the unreachable address would be given up after two minutes.
    cluster.job = job.url(&url).deadline(TIMEOUT);
    let running = cluster.start_coordinator(&coordinator);
    let began = Instant::now();
    let working = cluster.start_worker(&worker, "2");
    cluster.assert_done(running, [working], &[&worker]);
    println!(
        "four classes of an origin with an unreachable address: {:.1?}",
        began.elapsed()
    );
}

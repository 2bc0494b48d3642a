//! Networks with high latency or low bandwidth, and a coordinator that moves.

use std::time::Duration;

use tests::{cluster::Table, fleet::fixed_address, wait::wait_for};
use tokio::time::Instant;

use crate::{ProxiedFleet, SHORT_LEASE, TIMEOUT};

/// A round trip of half a second, with the shortest lease.
#[test]
fn high_latency_costs_no_lease_and_no_throughput() {
    let proxied = ProxiedFleet::with(12, 250_000, &SHORT_LEASE);
    proxied
        .proxy
        .delay(Duration::from_millis(150), Duration::from_millis(100));
    let began = Instant::now();
    let workers = ["far", "farther"].map(|name| proxied.worker(name, 2));
    proxied.assert_nothing_lost_or_repeated(workers);
    println!(
        "twelve classes of two seconds each, four at a time, with high latency: {:.1?}",
        began.elapsed()
    );
}

/// Ten classes with 8 KB/s for reports, leases and heartbeats.
#[test]
fn low_bandwidth_is_sufficient_for_leases() {
    let proxied = ProxiedFleet::with(10, 250_000, &SHORT_LEASE);
    proxied.proxy.limit_rate(8000);
    let workers = ["far", "farther"].map(|name| proxied.worker(name, 2));
    proxied.assert_nothing_lost_or_repeated(workers);
}

#[test]
fn a_coordinator_that_moves_is_found_through_its_name() {
    let proxied = ProxiedFleet::with(3, 150_000, &SHORT_LEASE);
    let mut worker = proxied.worker("far", 1);
    let first = proxied.fleet.tars[0].0.clone();
    worker.wait_until("a class is in progress", |_| {
        (proxied.fleet.gets(&first) > 0).then_some(())
    });
    // Stopped, and restarted at another address behind the same name.
    proxied.proxy.refuse(true);
    proxied.proxy.cut();
    let ProxiedFleet {
        fleet,
        proxy,
        coordinator,
    } = proxied;
    coordinator.kill();
    wait_for("the class is complete", TIMEOUT, || {
        fleet.job.class_folder(&first).exists()
    });
    let elsewhere = fixed_address();
    let coordinator = fleet.job.start_coordinator_at(elsewhere);
    proxy.forward_to(elsewhere);
    proxy.refuse(false);
    fleet.assert_done(coordinator, [worker], Table::of(3, 0, 0));
    fleet.assert_no_repeated_request();
}

//! Partitions in one direction or both; no connection ends.

use std::time::Duration;

use tests::{
    chaos_proxy::Direction,
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

use crate::{ProxiedFleet, SHORT_LEASE, TIMEOUT};

#[test]
fn a_partition_shorter_than_the_lease_has_no_effect() {
    let proxied = ProxiedFleet::with(8, 250_000, &SHORT_LEASE);
    let mut worker = proxied.worker("far", 2);
    worker.wait_until("two classes are in progress", |_| {
        (proxied.fleet.origin.bytes_sent() > 100_000).then_some(())
    });
    proxied.proxy.partition(true);
    let healed = Instant::now() + Duration::from_secs(4);
    wait_until(TIMEOUT, || (Instant::now() > healed).then_some(()));
    proxied.proxy.partition(false);
    proxied.assert_nothing_lost_or_repeated([worker]);
}

/// Takes 15 s: the shortest lease and the margin after it.
#[test]
fn a_partition_longer_than_the_lease_costs_the_downloads_in_progress_and_counts_nothing_twice() {
    let proxied = ProxiedFleet::with(3, 20_000, &SHORT_LEASE);
    let mut far = proxied.worker("far", 1);
    let first = &proxied.fleet.tars[0].0.clone();
    far.wait_until("its class is in progress", |_| {
        (proxied.fleet.gets(first) > 0).then_some(())
    });
    proxied.proxy.partition(true);
    let cut_off = Instant::now();
    // It has one slot more than it needs, for the class of the other worker.
    let near = proxied.fleet.start_worker("near", 3);
    proxied.fleet.wait_for_gets(first, 2, TIMEOUT);
    println!(
        "the class of a partitioned worker was in progress on another one after {:.1?}",
        cut_off.elapsed()
    );
    proxied.fleet.origin.limit_rate(0);
    proxied.proxy.partition(false);
    let table = tests::cluster::Table::of(3, 0, 0);
    proxied
        .fleet
        .assert_done(proxied.coordinator, [far, near], table);
    assert!(
        proxied.fleet.gets(first) <= 3,
        "{:#?}",
        proxied.fleet.origin.gets(first)
    );
}

/// Heartbeats arrive and their answers do not: the worker's leases stay valid, and it acquires no
/// new ones.
#[test]
fn a_worker_without_answers_keeps_its_leases_and_acquires_no_new_ones() {
    let proxied = ProxiedFleet::with(2, 30_000, &SHORT_LEASE);
    let mut far = proxied.worker("far", 1);
    let [first, second] = [0, 1].map(|index: usize| proxied.fleet.tars[index].0.clone());
    far.wait_until("its class is in progress", |_| {
        (proxied.fleet.gets(&first) > 0).then_some(())
    });
    proxied.proxy.block(Direction::ToClient, true);
    let deaf = Instant::now();
    // Much longer than its lease, and shorter than its download.
    wait_until(TIMEOUT, || {
        (deaf.elapsed() > Duration::from_secs(14)).then_some(())
    });
    assert_eq!(
        (proxied.fleet.gets(&first), proxied.fleet.gets(&second)),
        (1, 0)
    );
    proxied.wait_for_class(&first);
    proxied.proxy.block(Direction::ToClient, false);
    proxied.assert_nothing_lost_or_repeated([far]);
}

/// The peer's host has lost power: neither a call nor a lease waits for it as long as TCP would.
#[test]
fn connections_that_are_half_open_are_replaced_before_a_lease_is_lost() {
    let proxied = ProxiedFleet::with(2, 18_000, &["--lease-ttl", "9s"]);
    let mut far = proxied.worker("far", 2);
    far.wait_until("two classes are in progress", |_| {
        proxied
            .fleet
            .tars
            .iter()
            .all(|(wnid, _)| proxied.fleet.gets(wnid) > 0)
            .then_some(())
    });
    // This worker would take over lost leases.
    let near = proxied.fleet.start_worker("near", 2);
    // One connection for calls and one for heartbeats.
    wait_for("the worker has renewed its leases", TIMEOUT, || {
        proxied.proxy.open_connections() == 2
    });
    let before = proxied.proxy.connections();
    proxied.proxy.freeze();
    let frozen = Instant::now();
    wait_for("the worker renews over a new connection", TIMEOUT, || {
        proxied.proxy.connections() > before
    });
    println!(
        "a half-open connection was replaced after {:.1?}",
        frozen.elapsed()
    );
    proxied.assert_nothing_lost_or_repeated([far, near]);
}

/// The call has a deadline as well: a listener that accepts and never answers does not block the
/// worker.
#[test]
fn calls_to_a_coordinator_that_does_not_answer_time_out_and_are_retried() {
    let proxied = ProxiedFleet::with(2, 0, &SHORT_LEASE);
    proxied.proxy.partition(true);
    let mut worker = proxied.worker("far", 1);
    worker.wait_until("it logs that the call has timed out", |worker| {
        worker.stderr().contains("no answer for 8s").then_some(())
    });
    proxied.proxy.partition(false);
    proxied.assert_nothing_lost_or_repeated([worker]);
}

#[test]
fn a_flapping_link_costs_no_throughput_and_no_attempt() {
    let proxied = ProxiedFleet::with(24, 250_000, &["--lease-ttl", "3s", "--retries", "0"]);
    proxied
        .proxy
        .flap(Duration::from_secs(1), Duration::from_secs(1));
    let workers = ["far", "farther"].map(|name| proxied.worker(name, 2));
    proxied.assert_nothing_lost_or_repeated(workers);
}

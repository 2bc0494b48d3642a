//! Nothing gets through for a while, in one direction or both, and no connection ends.

use std::time::Duration;

use tests::{
    chaos_proxy::Way,
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

use crate::{LONG, Line, SHORT_LEASE};

#[test]
fn a_partition_that_is_shorter_than_the_lease_is_not_seen() {
    let line = Line::with(8, 250_000, &SHORT_LEASE);
    let mut worker = line.worker("far", 2);
    worker.wait_until("two classes are under way", |_| (line.fleet.origin.bytes_sent() > 100_000).then_some(()));
    line.proxy.partition(true);
    let healed = Instant::now() + Duration::from_secs(4);
    wait_until(LONG, || (Instant::now() > healed).then_some(()));
    line.proxy.partition(false);
    line.assert_done_without_a_trace([worker]);
}

/// Takes a quarter of a minute: the shortest lease and the margin behind it.
#[test]
fn a_partition_that_is_longer_than_the_lease_costs_what_was_under_way_and_counts_nothing_twice() {
    let line = Line::with(3, 20_000, &SHORT_LEASE);
    let mut far = line.worker("far", 1);
    let first = &line.fleet.tars[0].0.clone();
    far.wait_until("its class is under way", |_| (line.fleet.gets(first) > 0).then_some(()));
    line.proxy.partition(true);
    let cut_off = Instant::now();
    // It could take two, so that there is a slot for the class of the other.
    let near = line.fleet.start_worker("near", 3);
    line.fleet.wait_for_gets(first, 2, LONG);
    let took = cut_off.elapsed();
    println!("the class of a worker that was cut off was under way elsewhere after {took:.1?}");
    assert!(took < Duration::from_secs(15), "the lease, and twelve seconds: {took:?}");
    line.fleet.origin.limit_rate(0);
    line.proxy.partition(false);
    let table = tests::cluster::Table::of(3, 0, 0);
    line.fleet.assert_done(line.coordinator, [far, near], table);
    assert!(line.fleet.gets(first) <= 3, "{:#?}", line.fleet.origin.gets(first));
}

/// Renewals arrive, and their answers do not: the worker's leases live, and it takes nothing new.
#[test]
fn a_worker_that_hears_nothing_keeps_what_it_has_and_takes_nothing_new() {
    let line = Line::with(2, 30_000, &SHORT_LEASE);
    let mut far = line.worker("far", 1);
    let [first, second] = [0, 1].map(|index: usize| line.fleet.tars[index].0.clone());
    far.wait_until("its class is under way", |_| (line.fleet.gets(&first) > 0).then_some(()));
    line.proxy.darken(Way::ToClient, true);
    let deaf = Instant::now();
    // Much longer than its lease, and shorter than its download.
    wait_until(LONG, || (deaf.elapsed() > Duration::from_secs(14)).then_some(()));
    assert_eq!((line.fleet.gets(&first), line.fleet.gets(&second)), (1, 0));
    line.wait_for_class(&first);
    line.proxy.darken(Way::ToClient, false);
    line.assert_done_without_a_trace([far]);
}

/// The host at the other end is pulled: neither a call nor a lease waits for it as long as TCP would.
#[test]
fn connections_that_are_half_open_are_replaced_before_a_lease_is_lost() {
    let line = Line::with(2, 18_000, &["--lease-ttl", "9s"]);
    let mut far = line.worker("far", 2);
    far.wait_until("two classes are under way", |_| {
        line.fleet.tars.iter().all(|(wnid, _)| line.fleet.gets(wnid) > 0).then_some(())
    });
    // It would take them over.
    let near = line.fleet.start_worker("near", 2);
    // One for the calls and one for the renewals.
    wait_for("it has renewed its leases", LONG, || line.proxy.open_connections() == 2);
    let before = line.proxy.connections();
    line.proxy.freeze();
    let frozen = Instant::now();
    wait_for("it renews over a new connection", LONG, || line.proxy.connections() > before);
    println!("a half-open connection was given up after {:.1?}", frozen.elapsed());
    assert!(frozen.elapsed() < Duration::from_secs(10), "{:?}", frozen.elapsed());
    line.assert_done_without_a_trace([far, near]);
}

/// Connecting has a deadline, too: the connection is taken and nobody ever speaks on it.
#[test]
fn a_coordinator_that_takes_connections_and_says_nothing_is_given_up_and_found_again() {
    let line = Line::with(2, 0, &SHORT_LEASE);
    line.proxy.partition(true);
    let started = Instant::now();
    let mut worker = line.worker("far", 1);
    worker.wait_until("it says that there is no answer", |worker| worker.stderr().contains("no answer").then_some(()));
    println!("the first call was given up after {:.1?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    line.proxy.partition(false);
    line.assert_done_without_a_trace([worker]);
}

#[test]
fn a_link_that_comes_and_goes_slows_nothing_down_and_burns_no_attempt() {
    let line = Line::with(24, 250_000, &["--lease-ttl", "3s", "--retries", "0"]);
    line.proxy.flap(Duration::from_secs(1), Duration::from_secs(1));
    let workers = ["far", "farther"].map(|name| line.worker(name, 2));
    line.assert_done_without_a_trace(workers);
}

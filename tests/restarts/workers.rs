//! Workers that are killed: what they held goes on elsewhere or with their successor, and what they had published is theirs.

use tests::{
    chaos_proxy::{ChaosProxy, Way},
    cluster::Table,
    fleet::Fleet,
};
use tokio::time::Instant;

use crate::{LONG, MOMENT, SHORT_LEASE, TAKEN_OVER, fleet, wait_for_class, wait_for_result, wnid};

/// Takes a quarter of a minute: the shortest lease and the margin behind it.
#[test]
fn the_class_of_a_dead_worker_is_soon_under_way_elsewhere() {
    let fleet = fleet(1, 100_000);
    let class = wnid(1);
    let coordinator = fleet.start_coordinator();
    let dead = fleet.start_worker("dead", 1);
    fleet.wait_for_gets(&class, 1, LONG);
    let heir = fleet.start_worker("heir", 1);
    dead.kill();
    let killed = Instant::now();
    fleet.wait_for_gets(&class, 2, LONG);
    let took = killed.elapsed();
    println!("the class of a dead worker was under way elsewhere after {took:.1?}, with a lease of 3 s");
    assert!(took <= TAKEN_OVER, "{took:?}");
    fleet.assert_done(coordinator, [heir], Table::of(1, 0, 0));
}

/// Although its lease would live for minutes.
#[test]
fn a_worker_that_is_started_again_has_its_classes_back_in_a_moment() {
    let fleet = Fleet::new(2, 25, 15_000..25_000, &["--lease-ttl", "5m"]);
    fleet.origin.limit_rate(100_000);
    let [first, second] = [1, 2].map(wnid);
    let coordinator = fleet.start_coordinator();
    let killed = fleet.start_worker("phoenix", 2);
    for class in [&first, &second] {
        fleet.wait_for_gets(class, 1, LONG);
    }
    killed.kill();
    let again = Instant::now();
    let worker = fleet.start_worker("phoenix", 2);
    for class in [&first, &second] {
        fleet.wait_for_gets(class, 2, LONG);
    }
    let took = again.elapsed();
    println!("a worker that was started again had its classes back after {took:.2?}");
    assert!(took < MOMENT, "{took:?}");
    fleet.assert_done(coordinator, [worker], Table::of(2, 0, 0));
}

/// The report did not arrive, or its answer did not: the class is there, and is counted once.
#[test]
fn a_class_whose_worker_died_before_it_was_told_that_the_result_has_arrived_is_not_downloaded_again() {
    for lost in [Way::ToServer, Way::ToClient] {
        let fleet = Fleet::new(2, 10, 15_000..25_000, &SHORT_LEASE);
        fleet.origin.limit_rate(200_000);
        let class = wnid(1);
        let proxy = ChaosProxy::start(fleet.address());
        let coordinator = fleet.start_coordinator();
        let worker = fleet.start_worker_at(&proxy.url(), "worker", 1);
        fleet.wait_for_gets(&class, 1, LONG);
        proxy.darken(lost, true);
        wait_for_class(&fleet, &class);
        if lost == Way::ToClient {
            wait_for_result(&fleet, &class);
        }
        worker.kill();
        proxy.cut();
        proxy.darken(lost, false);
        let successor = fleet.start_worker("worker", 1);
        crate::assert_done_without_a_trace(&fleet, coordinator, [successor]);
    }
}

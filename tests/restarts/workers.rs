//! Workers that are killed: their leases go to other workers or back to the restarted worker, and
//! their published classes count.

use tests::{
    chaos_proxy::{ChaosProxy, Direction},
    cluster::Table,
    fleet::Fleet,
};
use tokio::time::Instant;

use crate::{
    MAX_TAKEOVER_TIME, SHORT_LEASE, TIMEOUT, fleet, wait_for_class, wait_for_result, wnid,
};

/// Takes 15 s: the shortest lease and the margin after it.
#[test]
fn the_class_of_a_dead_worker_is_soon_in_progress_on_another() {
    let fleet = fleet(1, 100_000);
    let class = wnid(1);
    let coordinator = fleet.start_coordinator();
    let dead = fleet.start_worker("dead", 1);
    fleet.wait_for_gets(&class, 1, TIMEOUT);
    let heir = fleet.start_worker("heir", 1);
    dead.kill();
    let killed = Instant::now();
    fleet.wait_for_gets(&class, 2, TIMEOUT);
    let took = killed.elapsed();
    println!(
        "the class of a dead worker was in progress on another one after {took:.1?}, with a lease \
         of 3 s"
    );
    assert!(took <= MAX_TAKEOVER_TIME, "{took:?}");
    fleet.assert_done(coordinator, [heir], Table::of(1, 0, 0));
}

/// Its leases would be valid for longer than the test waits.
#[test]
fn a_restarted_worker_soon_has_its_classes_again() {
    let fleet = Fleet::new(2, 25, 15_000..25_000, &["--lease-ttl", "5m"]);
    fleet.origin.limit_rate(100_000);
    let [first, second] = [1, 2].map(wnid);
    let coordinator = fleet.start_coordinator();
    let killed = fleet.start_worker("phoenix", 2);
    for class in [&first, &second] {
        fleet.wait_for_gets(class, 1, TIMEOUT);
    }
    killed.kill();
    let again = Instant::now();
    let worker = fleet.start_worker("phoenix", 2);
    for class in [&first, &second] {
        fleet.wait_for_gets(class, 2, TIMEOUT);
    }
    println!(
        "a restarted worker had its classes again after {:.2?}",
        again.elapsed()
    );
    fleet.assert_done(coordinator, [worker], Table::of(2, 0, 0));
}

/// The report is lost, or its answer: the class is complete, and is counted once.
#[test]
fn a_class_whose_worker_died_before_the_acknowledgement_is_not_downloaded_again() {
    for lost in [Direction::ToServer, Direction::ToClient] {
        let fleet = Fleet::new(2, 10, 15_000..25_000, &SHORT_LEASE);
        fleet.origin.limit_rate(200_000);
        let class = wnid(1);
        let proxy = ChaosProxy::start(fleet.address());
        let coordinator = fleet.start_coordinator();
        let worker = fleet.start_worker_at(&proxy.url(), "worker", 1);
        fleet.wait_for_gets(&class, 1, TIMEOUT);
        proxy.block(lost, true);
        wait_for_class(&fleet, &class);
        if lost == Direction::ToClient {
            wait_for_result(&fleet, &class);
        }
        worker.kill();
        proxy.cut();
        proxy.block(lost, false);
        let successor = fleet.start_worker("worker", 1);
        crate::assert_nothing_lost_or_repeated(&fleet, coordinator, [successor]);
    }
}

//! Several workers on one storage: who is idle fetches parts for who is not.

use std::time::Duration;

use tests::{cluster::Table, fleet::Fleet, origin::Origin, running::Running, wait::wait_for};

use super::{LARGE, extra, large};

/// One large class, at a few megabytes a second for each connection.
fn fleet(tar: &[u8], args: &[&str]) -> Fleet {
    let fleet = Fleet::of(vec![(LARGE.to_owned(), tar.to_vec())], args);
    fleet.origin.limit_rate(1_500_000);
    fleet
}

/// A holder with one slot, which the class has, and a worker with four that has nothing.
fn holder_and_idle(fleet: &Fleet) -> (Running, Running, Running) {
    let coordinator = fleet.start_coordinator();
    let holder = fleet.start_worker("holder", 1);
    fleet.wait_for_gets(LARGE, 1, Duration::from_secs(20));
    (coordinator, holder, fleet.start_worker("idle", 4))
}

/// Waits until parts come, and so many bytes of the class have come.
fn wait_for_parts(origin: &Origin, bytes: u64) {
    wait_for("parts come", Duration::from_secs(30), || {
        let gets = origin.gets(LARGE);
        gets.len() >= 4 && gets.iter().map(|get| get.sent).sum::<u64>() > bytes
    });
}

#[test]
fn an_idle_worker_fetches_parts_of_the_class_of_another() {
    let tar = large(1);
    let fleet = fleet(&tar, &[]);
    let (coordinator, holder, idle) = holder_and_idle(&fleet);
    fleet.assert_done(coordinator, [holder, idle], Table::of(1, 0, 0));
    let gets = fleet.origin.gets(LARGE);
    assert!(fleet.origin.most_transfers() >= 4, "the holder has one slot: {gets:#?}");
    assert!(gets[1..].iter().all(|get| get.if_range.is_some() && get.status == 206), "{gets:#?}");
    assert!(extra(&gets, &tar) <= tar.len() as u64 * 3 / 100, "{} bytes too many: {gets:#?}", extra(&gets, &tar));
}

#[test]
fn a_worker_that_is_killed_with_parts_of_another_costs_only_those() {
    let tar = large(1);
    let fleet = fleet(&tar, &[]);
    let (coordinator, holder, idle) = holder_and_idle(&fleet);
    wait_for_parts(&fleet.origin, 12_000_000);
    idle.kill();
    fleet.assert_done(coordinator, [holder], Table::of(1, 0, 0));
    let gets = fleet.origin.gets(LARGE);
    assert!(extra(&gets, &tar) <= 4 << 20, "{} bytes came twice: {gets:#?}", extra(&gets, &tar));
}

/// What the idle worker has fetched for the holder it goes on from itself.
#[test]
fn a_holder_that_is_killed_leaves_the_parts_to_who_takes_over() {
    let tar = large(1);
    let fleet = fleet(&tar, &["--lease-ttl", "3s"]);
    let (coordinator, holder, idle) = holder_and_idle(&fleet);
    wait_for_parts(&fleet.origin, 12_000_000);
    holder.kill();
    fleet.assert_done(coordinator, [idle], Table::of(1, 0, 0));
    let gets = fleet.origin.gets(LARGE);
    assert!(extra(&gets, &tar) <= 8 << 20, "{} bytes came twice: {gets:#?}", extra(&gets, &tar));
}

//! A line that is late or narrow.

use std::time::Duration;

use tests::{cluster::Table, fleet::lasting_address, wait::wait_for};
use tokio::time::Instant;

use crate::{LONG, Line, SHORT_LEASE};

/// Half a second there and back, with the shortest lease.
#[test]
fn a_late_line_costs_no_lease_and_no_throughput() {
    let line = Line::with(12, 250_000, &SHORT_LEASE);
    line.proxy.delay(Duration::from_millis(150), Duration::from_millis(100));
    let began = Instant::now();
    let workers = ["far", "farther"].map(|name| line.worker(name, 2));
    line.assert_done_without_a_trace(workers);
    println!("twelve classes of two seconds each, four at a time, on a late line: {:.1?}", began.elapsed());
}

/// Ten classes in eight kilobytes a second for reports, leases and renewals.
#[test]
fn a_narrow_line_is_wide_enough_for_leases() {
    let line = Line::with(10, 250_000, &SHORT_LEASE);
    line.proxy.limit_rate(8000);
    let workers = ["far", "farther"].map(|name| line.worker(name, 2));
    line.assert_done_without_a_trace(workers);
}

#[test]
fn a_coordinator_that_moves_is_found_where_the_name_leads() {
    let line = Line::with(3, 150_000, &SHORT_LEASE);
    let mut worker = line.worker("far", 1);
    let first = line.fleet.tars[0].0.clone();
    worker.wait_until("a class is under way", |_| (line.fleet.gets(&first) > 0).then_some(()));
    // Away, and back at another address behind the same one.
    line.proxy.refuse(true);
    line.proxy.cut();
    let Line { fleet, proxy, coordinator } = line;
    coordinator.kill();
    wait_for("the class is there", LONG, || fleet.job.class_folder(&first).exists());
    let elsewhere = lasting_address();
    let coordinator = fleet.job.start_coordinator_at(elsewhere);
    proxy.lead_to(elsewhere);
    proxy.refuse(false);
    fleet.assert_done(coordinator, [worker], Table::of(3, 0, 0));
    fleet.assert_nothing_came_twice();
}

//! A coordinator or a worker that ends and is started again with the same command, at the instants that matter.

mod coordinators;
mod other_commands;
mod staying;
mod workers;

use std::time::Duration;

use tests::{
    cluster::Table,
    fleet::Fleet,
    running::Running,
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

/// The shortest lease; a silent worker's classes go to others after this and ten seconds more.
const SHORT_LEASE: [&str; 2] = ["--lease-ttl", "3s"];
/// What a dead worker held is under way elsewhere after this.
const TAKEN_OVER: Duration = Duration::from_secs(3 + 12);
const LONG: Duration = Duration::from_secs(40);
const MOMENT: Duration = Duration::from_secs(1);

/// Classes of about half a megabyte each; the origin sends each of them at this rate.
fn fleet(classes: u64, bytes_per_second: u64) -> Fleet {
    let fleet = Fleet::new(classes, 25, 15_000..25_000, &SHORT_LEASE);
    fleet.origin.limit_rate(bytes_per_second);
    fleet
}

fn wnid(number: u64) -> String {
    format!("n{number:08}")
}

/// Waits until a class is there.
#[track_caller]
fn wait_for_class(fleet: &Fleet, wnid: &str) {
    wait_for(&format!("{wnid} is there"), LONG, || fleet.job.class_folder(wnid).exists());
}

/// Waits until a class is settled, and says how long that took.
#[track_caller]
fn wait_for_result(fleet: &Fleet, wnid: &str) -> Duration {
    let began = Instant::now();
    wait_for(&format!("{wnid} is settled"), LONG, || fleet.settled().contains_key(wnid));
    began.elapsed()
}

/// Lets time go by while nothing is expected to happen.
fn let_pass(span: Duration) {
    let began = Instant::now();
    wait_until(LONG, || (began.elapsed() > span).then_some(()));
}

/// Everything was downloaded once and counted once, as a success of this run.
#[track_caller]
fn assert_done_without_a_trace(fleet: &Fleet, coordinator: Running, workers: impl IntoIterator<Item = Running>) {
    fleet.assert_done(coordinator, workers, Table::of(fleet.tars.len() as u64, 0, 0));
    fleet.assert_nothing_came_twice();
}

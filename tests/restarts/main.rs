//! A coordinator or a worker that ends at a critical moment and is restarted with the same command.

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

/// The shortest lease; the classes of a silent worker are reassigned ten seconds after its end.
const SHORT_LEASE: [&str; 2] = ["--lease-ttl", "3s"];
/// The classes of a dead worker are in progress on another one after this time.
const MAX_TAKEOVER_TIME: Duration = Duration::from_secs(3 + 12);
const TIMEOUT: Duration = Duration::from_secs(40);

/// Classes of about half a megabyte each; the origin sends each at this rate.
fn fleet(classes: u64, bytes_per_second: u64) -> Fleet {
    let fleet = Fleet::new(classes, 25, 15_000..25_000, &SHORT_LEASE);
    fleet.origin.limit_rate(bytes_per_second);
    fleet
}

fn wnid(number: u64) -> String {
    format!("n{number:08}")
}

/// Waits until a class is complete.
#[track_caller]
fn wait_for_class(fleet: &Fleet, wnid: &str) {
    wait_for(&format!("{wnid} is complete"), TIMEOUT, || {
        fleet.job.class_folder(wnid).exists()
    });
}

/// Waits until a class is settled, and returns how long that took.
#[track_caller]
fn wait_for_result(fleet: &Fleet, wnid: &str) -> Duration {
    let began = Instant::now();
    wait_for(&format!("{wnid} is settled"), TIMEOUT, || {
        fleet.settled().contains_key(wnid)
    });
    began.elapsed()
}

/// Waits for a fixed time in which nothing is expected to happen.
fn let_pass(span: Duration) {
    let began = Instant::now();
    wait_until(TIMEOUT, || (began.elapsed() > span).then_some(()));
}

/// Panics unless every class was downloaded once and counted once, as a success of this run.
#[track_caller]
fn assert_nothing_lost_or_repeated(
    fleet: &Fleet,
    coordinator: Running,
    workers: impl IntoIterator<Item = Running>,
) {
    fleet.assert_done(
        coordinator,
        workers,
        Table::of(fleet.tars.len() as u64, 0, 0),
    );
    fleet.assert_no_repeated_request();
}

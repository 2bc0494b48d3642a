//! A bad network between workers and their coordinator: the origin is well, and nothing that was downloaded is lost for it.

mod bad_lines;
mod lost_answers;
mod partitions;

use std::{net::TcpStream, time::Duration};

use tests::{chaos_proxy::ChaosProxy, cluster::Table, fleet::Fleet, running::Running, wait::wait_for};

/// The shortest lease; a silent worker's classes go to others after this and ten seconds more.
const SHORT_LEASE: [&str; 2] = ["--lease-ttl", "3s"];
const LONG: Duration = Duration::from_secs(40);

/// A fleet whose workers reach the coordinator through a line that the test rules.
struct Line {
    fleet: Fleet,
    proxy: ChaosProxy,
    coordinator: Running,
}

impl Line {
    /// Classes of about half a megabyte each; the origin sends each of them at this rate.
    fn with(classes: u64, bytes_per_second: u64, args: &[&str]) -> Self {
        let fleet = Fleet::new(classes, 25, 15_000..25_000, args);
        fleet.origin.limit_rate(bytes_per_second);
        Self::to(fleet)
    }

    fn to(fleet: Fleet) -> Self {
        let proxy = ChaosProxy::start(fleet.address());
        let coordinator = fleet.start_coordinator();
        // Else the first word of a worker that is sooner there would be lost, which it tells.
        wait_for("the coordinator listens", LONG, || TcpStream::connect(fleet.address()).is_ok());
        Self { fleet, proxy, coordinator }
    }

    /// A worker at the end of the line.
    fn worker(&self, name: &str, slots: u32) -> Running {
        self.fleet.start_worker_at(&self.proxy.url(), name, slots)
    }

    /// Waits until a class is there.
    #[track_caller]
    fn wait_for_class(&self, wnid: &str) {
        wait_for(&format!("{wnid} is there"), LONG, || self.fleet.job.class_folder(wnid).exists());
    }

    /// Everything was downloaded once and counted once.
    #[track_caller]
    fn assert_done_without_a_trace(self, workers: impl IntoIterator<Item = Running>) {
        let table = Table::of(self.fleet.tars.len() as u64, 0, 0);
        self.fleet.assert_done(self.coordinator, workers, table);
        self.fleet.assert_nothing_came_twice();
    }
}

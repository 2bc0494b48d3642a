//! A faulty network between workers and coordinator: the origin works, and no finished download is
//! lost.

mod bad_lines;
mod lost_answers;
mod partitions;

use std::{net::TcpStream, time::Duration};

use tests::{
    chaos_proxy::ChaosProxy, cluster::Table, fleet::Fleet, running::Running, wait::wait_for,
};

/// The shortest lease; the classes of a silent worker are reassigned ten seconds after its end.
const SHORT_LEASE: [&str; 2] = ["--lease-ttl", "3s"];
const TIMEOUT: Duration = Duration::from_secs(40);

/// A fleet whose workers reach the coordinator through a proxy that the test controls.
struct ProxiedFleet {
    fleet: Fleet,
    proxy: ChaosProxy,
    coordinator: Running,
}

impl ProxiedFleet {
    /// Classes of about half a megabyte each; the origin sends each at this rate.
    fn with(classes: u64, bytes_per_second: u64, args: &[&str]) -> Self {
        let fleet = Fleet::new(classes, 25, 15_000..25_000, args);
        fleet.origin.limit_rate(bytes_per_second);
        Self::to(fleet)
    }

    fn to(fleet: Fleet) -> Self {
        let proxy = ChaosProxy::start(fleet.address());
        let coordinator = fleet.start_coordinator();
        // Otherwise a worker that starts earlier would lose its first call and log that.
        wait_for("the coordinator listens", TIMEOUT, || {
            TcpStream::connect(fleet.address()).is_ok()
        });
        Self {
            fleet,
            proxy,
            coordinator,
        }
    }

    /// Starts a worker that connects through the proxy.
    fn worker(&self, name: &str, slots: u32) -> Running {
        self.fleet.start_worker_at(&self.proxy.url(), name, slots)
    }

    /// Waits until a class is complete.
    #[track_caller]
    fn wait_for_class(&self, wnid: &str) {
        wait_for(&format!("{wnid} is complete"), TIMEOUT, || {
            self.fleet.job.class_folder(wnid).exists()
        });
    }

    /// Panics unless every class was downloaded once and counted once.
    #[track_caller]
    fn assert_nothing_lost_or_repeated(self, workers: impl IntoIterator<Item = Running>) {
        let table = Table::of(self.fleet.tars.len() as u64, 0, 0);
        self.fleet.assert_done(self.coordinator, workers, table);
        self.fleet.assert_no_repeated_request();
    }
}

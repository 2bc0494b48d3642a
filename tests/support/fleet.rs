//! A cluster on loopback: a coordinator that can be restarted at the same address, its workers, and
//! read access to its ledger.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
    running::Running,
    wait::wait_for,
};

/// Below the ephemeral ports. Otherwise a client that connects while there is no listener could be
/// given that port as its own source port, and TCP would connect it to itself (simultaneous open).
const PORTS: Range<u16> = 20_000..32_000;

/// Classes and their results in the last run: outcome, failure kind, message.
pub type Settled = BTreeMap<String, (String, Option<String>, Option<String>)>;

/// A job with its origin and the fixed address of its coordinator.
#[derive(Debug)]
pub struct Fleet {
    /// The source of the tars.
    pub origin: Origin,
    /// The tar of each class, in list order.
    pub tars: Vec<(String, Vec<u8>)>,
    /// The job; all workers write into its target.
    pub job: Job,
    address: SocketAddr,
}

impl Fleet {
    /// Classes `n00000001`, `n00000002` and so on with `files` images each, and the coordinator's
    /// arguments.
    pub fn new(classes: u64, files: usize, sizes: Range<usize>, args: &[&str]) -> Self {
        let wnids = (1..=classes).map(|number| (number, format!("n{number:08}")));
        let tars =
            wnids.map(|(number, wnid)| (wnid.clone(), images(&wnid, files, sizes.clone(), number)));
        Self::of(tars.collect(), args)
    }

    /// These classes, and the coordinator's arguments.
    pub fn of(tars: Vec<(String, Vec<u8>)>, args: &[&str]) -> Self {
        let origin = Origin::start();
        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        let args = ["--delete-tar"].iter().chain(args).copied();
        let job = Job::new()
            .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
            .origin(&origin)
            .args(args);
        Self {
            origin,
            tars,
            job,
            address: fixed_address(),
        }
    }

    /// Replaces the default deadline of three minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.job = self.job.deadline(deadline);
        self
    }

    /// The address of the coordinator.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL by which workers reach the coordinator.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts or restarts the coordinator.
    pub fn start_coordinator(&self) -> Running {
        self.job.start_coordinator_at(self.address)
    }

    /// Starts a worker that writes into the job's target.
    pub fn start_worker(&self, name: &str, slots: u32) -> Running {
        self.start_worker_at(&self.url(), name, slots)
    }

    /// Starts a worker that connects to another URL, for example that of a proxy.
    pub fn start_worker_at(&self, url: &str, name: &str, slots: u32) -> Running {
        self.start_worker_in(self.job.target_path(), url, name, slots)
    }

    /// Starts a worker with another URL and another target.
    pub fn start_worker_in(&self, target: &Path, url: &str, name: &str, slots: u32) -> Running {
        self.job.start_worker_at(url, name, slots, target)
    }

    /// The results of the last run in the ledger; empty if there is none yet.
    pub fn settled(&self) -> Settled {
        read_settled(&self.job.target_path().join(".imagenet_downloader.ledger"))
            .unwrap_or_default()
    }

    /// Number of GET requests for a class.
    pub fn gets(&self, wnid: &str) -> usize {
        self.origin.gets(wnid).len()
    }

    /// Waits until a class has `count` GET requests.
    #[track_caller]
    pub fn wait_for_gets(&self, wnid: &str, count: usize, deadline: Duration) {
        let what = format!("{wnid} is requested {count} times");
        wait_for(&what, deadline, || self.gets(wnid) >= count);
    }

    /// Waits for all processes to end; panics unless they exit with 0, the table matches and every
    /// class is correct.
    #[track_caller]
    pub fn assert_done(
        &self,
        coordinator: Running,
        workers: impl IntoIterator<Item = Running>,
        table: Table,
    ) {
        for worker in workers {
            let finished = worker.wait();
            assert_eq!(finished.code, Some(0), "a worker: {}", finished.stderr);
        }
        self.job.assert_ended(&coordinator.wait(), 0, table);
        for (wnid, tar) in &self.tars {
            assert_class_is(tar, &self.job.class_folder(wnid));
        }
    }

    /// Panics unless every class was requested exactly once.
    #[track_caller]
    pub fn assert_no_repeated_request(&self) {
        for (wnid, _) in &self.tars {
            let gets = self.origin.gets(wnid);
            assert_eq!(gets.len(), 1, "{wnid}: {gets:#?}");
        }
    }
}

/// A free port on loopback that the system does not assign to other sockets.
pub fn fixed_address() -> SocketAddr {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::random_range(PORTS)).take(1000);
    let port = ports.find(free).expect("one of a thousand ports is free");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn read_settled(ledger: &Path) -> rusqlite::Result<Settled> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(ledger, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let select =
        "SELECT wnid, outcome, kind, message FROM result WHERE run = (SELECT max(id) FROM run)";
    let mut statement = connection.prepare(select)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)))
    })?;
    rows.collect()
}

//! One coordinator and its workers on separate hosts, with certificates and tokens, as in a real
//! cluster. The hosts are network namespaces; where these are not possible, each test prints that
//! it is skipped.

mod names;
mod together;

use std::{path::PathBuf, time::Duration};

use tests::{
    archives::{difference, images},
    cluster::{Job, Table},
    folders::{assert_no_partial, classes},
    hosts::Host,
    origin::Origin,
    running::Running,
};

const TIMEOUT: Duration = Duration::from_secs(40);
const PORT: u16 = 50051;

/// A job whose coordinator and origin are on separate hosts.
struct Cluster {
    job: Job,
    origin: Origin,
    tars: Vec<(String, Vec<u8>)>,
    coordinator: Host,
    lease: &'static str,
}

impl Cluster {
    /// `classes` classes of about half a megabyte; `reached` are the names or addresses of the
    /// coordinator.
    fn new(classes: u64, [coordinator, origin]: [&Host; 2], reached: &str) -> Self {
        let tars: Vec<_> = (1..=classes)
            .map(|number| {
                (
                    format!("n{number:08}"),
                    images(&format!("n{number:08}"), 25, 15_000..25_000, number),
                )
            })
            .collect();
        let served = origin
            .on(|| Origin::listen(&format!("{}:0", origin.address)))
            .expect("a free port on that host");
        for (wnid, tar) in &tars {
            served.class(wnid, tar.clone());
        }
        let job = Job::new()
            .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
            .origin(&served);
        let cluster = Self {
            job,
            origin: served,
            tars,
            coordinator: coordinator.clone(),
            lease: "3s",
        };
        let folder = cluster.file("");
        let made = cluster
            .job
            .start_with(["init", "--dir", &folder, "--advertise", reached])
            .wait();
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        cluster
    }

    /// The path of a file that `coordinator init` created.
    fn file(&self, name: &str) -> String {
        self.job
            .folder()
            .join("trust")
            .join(name)
            .to_str()
            .expect("a plain path")
            .to_owned()
    }

    /// Starts the coordinator on a host, or restarts it on another one.
    fn start_coordinator(&mut self, host: &Host) -> Running {
        let files = [
            ("--tls-cert", "server.pem"),
            ("--tls-key", "server.key"),
            ("--token-file", "tokens"),
        ];
        let files = files
            .map(|(flag, name)| [flag.to_owned(), self.file(name)])
            .concat();
        let always = ["--delete-tar", "--lease-ttl", self.lease];
        let args: Vec<&str> = files.iter().map(String::as_str).chain(always).collect();
        let job = std::mem::take(&mut self.job);
        self.job = job.args(args).under(host.command());
        self.job.start_coordinator_at((host.address, PORT).into())
    }

    fn disk(&self, host: &Host) -> PathBuf {
        self.job.folder().join(&host.name)
    }

    /// Starts a worker on a host; it writes to a disk of that host.
    fn start_worker(&self, host: &Host, slots: &str) -> Running {
        self.start_worker_with_address(&self.coordinator.address.to_string(), host, slots)
    }

    fn start_worker_with_address(&self, coordinator: &str, host: &Host, slots: &str) -> Running {
        let url = format!("https://{coordinator}:{PORT}");
        let disk = self.disk(host);
        let token = self.file("worker.token");
        let disk = disk.to_str().expect("a plain path");
        let args = [
            "--connect",
            &url,
            "--token-file",
            &token,
            "--name",
            &host.name,
            "--target",
            disk,
        ];
        host.start_worker(
            &self.job,
            args.into_iter()
                .chain(["--workers", slots, "--allow-private-origin"]),
        )
    }

    /// Panics unless all processes succeed, the counts are right, and each class is complete on one
    /// of the hosts.
    #[track_caller]
    fn assert_done(
        &self,
        coordinator: Running,
        workers: impl IntoIterator<Item = Running>,
        hosts: &[&Host],
    ) {
        for worker in workers {
            let finished = worker.wait();
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        }
        self.job.assert_ended(
            &coordinator.wait(),
            0,
            Table::of(self.tars.len() as u64, 0, 0),
        );
        for (wnid, tar) in &self.tars {
            let there = hosts
                .iter()
                .any(|host| difference(tar, &self.disk(host).join(wnid)).is_none());
            assert!(there, "{wnid} is on no host");
        }
        for host in hosts {
            assert_no_partial(&self.disk(host));
        }
    }

    /// The number of complete classes on a host.
    fn classes_of(&self, host: &Host) -> usize {
        classes(&self.disk(host)).len()
    }
}

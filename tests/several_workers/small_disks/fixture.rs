//! Workers with one small disk each, and a job with a class that fits on none of them.

use std::{path::PathBuf, time::Duration};

use tests::{
    archives::{difference, images},
    cluster::{Job, Table},
    folders::assert_no_partial,
    mounts::{self, Mount},
    origin::Origin,
    running::Running,
};

/// The class that fits on no disk. It is the first in the list.
pub(super) const HOSTILE: &str = "n99999999";

/// Ordinary classes of 0.5 MB, a job with them, and one small disk for each worker.
pub(super) struct Fixture {
    pub(super) origin: Origin,
    pub(super) tars: Vec<(String, Vec<u8>)>,
    pub(super) job: Job,
    pub(super) disks: Vec<Mount>,
}

/// Prepares the fixture. Without the right to mount a file system it prints that the test is
/// skipped and returns `None`.
pub(super) fn fixture(classes: u64, disks: &[&str]) -> Option<Fixture> {
    fixture_after(&[], classes, disks)
}

/// As [`fixture`], with the classes `first` at the start of the list.
pub(super) fn fixture_after(first: &[&str], classes: u64, disks: &[&str]) -> Option<Fixture> {
    let disks: Option<Vec<Mount>> = disks.iter().map(|size| Mount::memory(size)).collect();
    let Some(disks) = disks else {
        mounts::skipped();
        return None;
    };
    let origin = Origin::start();
    let wnids = (1..=classes).map(|number| (number, format!("n{number:08}")));
    let tars: Vec<_> = wnids
        .map(|(number, wnid)| (wnid.clone(), images(&wnid, 10, 45_000..55_000, number)))
        .collect();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    let listed = first
        .iter()
        .copied()
        .chain([HOSTILE])
        .chain(tars.iter().map(|(wnid, _)| wnid.as_str()));
    let job = Job::new()
        .classes(listed)
        .origin(&origin)
        .args(["--delete-tar"])
        .deadline(Duration::from_mins(2));
    Some(Fixture {
        origin,
        tars,
        job,
        disks,
    })
}

impl Fixture {
    pub(super) fn targets(&self) -> Vec<PathBuf> {
        let targets: Vec<PathBuf> = self
            .disks
            .iter()
            .map(|disk| disk.path().join("images"))
            .collect();
        for target in &targets {
            std::fs::create_dir_all(target).expect("the disk is ours");
        }
        targets
    }

    /// Whether a class is on any disk. Panics if a copy of it is incomplete.
    pub(super) fn is_complete(&self, wnid: &str, tar: &[u8]) -> bool {
        let folders = self.targets().into_iter().map(|target| target.join(wnid));
        let found: Vec<PathBuf> = folders.filter(|folder| folder.exists()).collect();
        for folder in &found {
            assert_eq!(difference(tar, folder), None, "{wnid}");
        }
        !found.is_empty()
    }

    /// Runs the job and panics unless all ordinary classes are complete, each worker ends without
    /// an error, and only the hostile class has failed, after at most `requests` requests. Returns
    /// its line of the failure log.
    #[track_caller]
    pub(super) fn run(&self, requests: usize) -> String {
        let coordinator = self.job.start_coordinator();
        let targets = self.targets();
        let workers: Vec<Running> = (1..)
            .zip(&targets)
            .map(|(number, target)| {
                self.job
                    .start_worker(&format!("w{number}"), &coordinator, target)
            })
            .collect();
        for worker in workers {
            let finished = worker.wait();
            assert_eq!(
                finished.code,
                Some(0),
                "a worker ended with an error: {}",
                finished.stderr
            );
        }
        self.job.assert_ended(
            &coordinator.running.wait(),
            1,
            Table::of(self.tars.len() as u64, 0, 1),
        );
        for (wnid, tar) in &self.tars {
            assert!(self.is_complete(wnid, tar), "{wnid} is on no disk");
        }
        for target in &targets {
            assert_no_partial(target);
        }
        let sent_requests = self.origin.gets(HOSTILE).len();
        assert!(
            (1..=requests).contains(&sent_requests),
            "{sent_requests} requests for the class that does not fit"
        );
        assert_eq!(self.job.failures().len(), 1, "{:#?}", self.job.failures());
        self.job.failure_of(HOSTILE)
    }
}

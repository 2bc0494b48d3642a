//! Dataset loaders interpret each folder in the target as a class, so every folder there is always
//! a complete class, and a finished job leaves nothing beside the target.

mod names;
mod places;
mod replaced;
mod shared_targets;

use std::{collections::BTreeSet, ffi::OsString, fs, path::Path, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{
    archives::images,
    cluster::{Job, Table},
    folders::staging,
    loader::LoaderView,
    origin::Origin,
    running::Signal,
    wait::wait_until,
};

/// Classes with their tars, served by an origin.
struct Served {
    origin: Origin,
    tars: Vec<(String, Vec<u8>)>,
}

impl Served {
    /// `classes` classes of about a megabyte each.
    fn new(classes: u64) -> Self {
        let origin = Origin::start();
        let tars = (1..=classes).map(|n| {
            (
                format!("n{n:08}"),
                images(&format!("n{n:08}"), 25, 30_000..50_000, n),
            )
        });
        let tars: Vec<_> = tars.collect();
        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        Self { origin, tars }
    }

    fn job(&self) -> Job {
        let job = Job::new()
            .classes(self.tars.iter().map(|(wnid, _)| wnid.as_str()))
            .origin(&self.origin);
        job.args(["--workers", "2", "--delete-tar"])
    }

    fn view(&self, target: &Path) -> LoaderView {
        LoaderView::of(target, &self.tars)
    }

    /// Panics unless the job is done, each class is complete, and there are no new entries beside
    /// the target.
    #[track_caller]
    fn assert_finished(&self, job: &Job, beside: &BTreeSet<OsString>) {
        job.assert_all_there(&job.run(), self.tars.len() as u64);
        let mut view = self.view(job.target_path());
        view.assert_only_complete_classes();
        assert_eq!(view.classes(), self.tars.len());
        assert_eq!(
            names(parent(job.target_path())),
            *beside,
            "something is left beside the target"
        );
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("the path has a parent")
}

/// The names in a folder.
fn names(folder: &Path) -> BTreeSet<OsString> {
    fs::read_dir(folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("the folder can be listed").file_name())
        .collect()
}

#[test]
fn at_every_instant_of_a_job_with_kills_each_folder_is_a_complete_class() {
    let seed = rand::random::<u64>();
    println!("SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let served = Served::new(6);
    let job = served.job();
    let beside = names(job.folder());
    let mut view = served.view(job.target_path());
    served.origin.limit_rate(4_000_000);
    let ends = [
        &[Signal::KILL][..],
        &[Signal::TERM],
        &[Signal::INT, Signal::INT],
        &[Signal::KILL],
        &[Signal::KILL],
    ];
    let mut staged = 0;
    for signals in ends {
        let mut running = job.start();
        let instant = Duration::from_millis(random.random_range(150..700));
        let ended = wait_until(instant, || {
            view.assert_only_complete_classes();
            (!running.is_running()).then_some(())
        });
        if ended.is_none() {
            for signal in signals {
                running.signal(*signal);
            }
        }
        running.wait();
        view.assert_only_complete_classes();
        staged += usize::from(staging(job.target_path()).is_dir());
    }
    assert!(staged > 0, "no job was interrupted");
    served.origin.limit_rate(0);
    served.assert_finished(&job, &beside);
    view.assert_only_complete_classes();
    assert_eq!(view.classes(), 6);
}

#[test]
fn staging_of_an_earlier_version_in_the_target_is_resumed_and_removed() {
    let served = Served::new(1);
    let (wnid, tar) = &served.tars[0];
    let job = served.job();
    let beside = names(job.folder());
    served.origin.limit_rate(tar.len() as u64);
    let mut running = job.start();
    let half = tar.len() as u64 / 2;
    running.wait_until("half of the tar was sent", |_| {
        (served.origin.bytes_sent() > half).then_some(())
    });
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
    fs::rename(
        staging(job.target_path()),
        job.target_path().join(".partial"),
    )
    .unwrap();

    served.origin.limit_rate(0);
    served.origin.forget_requests();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    let starts: Vec<u64> = served
        .origin
        .gets(wnid)
        .iter()
        .map(tests::request_log::Request::start)
        .collect();
    assert!(
        matches!(starts[..], [start] if start > 0),
        "the class was not resumed: {starts:?}"
    );
    served.assert_finished(&job, &beside);
}

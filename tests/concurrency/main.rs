//! The concurrency controller: one budget for all workers, found without configuration, that
//! protects the origin without slowing the job.

mod breaking_origins;
mod ceilings;
mod one_refusal;
mod waiting;

use std::ops::Range;

use tests::{
    archives::{assert_class_is, images},
    cluster::{Coordinator, Job, Table},
    origin::Origin,
    running::Running,
};

/// A job and its origin.
struct Fixture {
    origin: Origin,
    job: Job,
    tars: Vec<(String, Vec<u8>)>,
}

impl Fixture {
    /// `classes` classes of five images each, and the coordinator's arguments.
    fn new(classes: u64, sizes: Range<usize>, args: &[&str]) -> Self {
        let wnids = (1..=classes).map(|number| (format!("n{number:08}"), number));
        let tars: Vec<_> = wnids
            .map(|(wnid, seed)| (wnid.clone(), images(&wnid, 5, sizes.clone(), seed)))
            .collect();
        let origin = Origin::start();
        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        let args = ["--delete-tar", "--durability", "process"]
            .iter()
            .chain(args)
            .copied();
        let job = Job::new()
            .classes(tars.iter().map(|(wnid, _)| wnid.as_str()))
            .origin(&origin)
            .args(args);
        Self { origin, job, tars }
    }

    /// Starts worker processes with `slots` slots each, on one storage.
    fn start_workers(&self, coordinator: &Coordinator, workers: u32, slots: u32) -> Vec<Running> {
        let connect = format!("http://{}", coordinator.address);
        let start = |number: u32| {
            let name = format!("worker{number}");
            self.job
                .start_worker_at(&connect, &name, slots, self.job.target_path())
        };
        (1..=workers).map(start).collect()
    }

    /// Waits for the end of all processes; panics unless every class is complete.
    #[track_caller]
    fn finish(&self, coordinator: Coordinator, workers: Vec<Running>) {
        for worker in workers {
            let finished = worker.wait();
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        }
        self.job.assert_ended(
            &coordinator.running.wait(),
            0,
            Table::of(self.tars.len() as u64, 0, 0),
        );
        self.assert_all_whole();
    }

    /// Runs the job in one process; panics unless every class is complete.
    #[track_caller]
    fn finish_in_one_process(&self) {
        self.job
            .assert_ended(&self.job.run(), 0, Table::of(self.tars.len() as u64, 0, 0));
        self.assert_all_whole();
    }

    #[track_caller]
    fn assert_all_whole(&self) {
        for (wnid, tar) in &self.tars {
            assert_class_is(tar, &self.job.class_folder(wnid));
        }
    }
}

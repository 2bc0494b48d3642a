//! SIGKILL at random instants: whatever stands under a final name is complete, and the same command finishes the job.
//!
//! `KILLS` is the number of kills in all (60; 200 in `.ci/run`), `SEED` chooses the instants; each failure names it.

use std::{path::Path, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{
    archives::{MANIFEST, assert_class_is, difference, images},
    cluster::{Job, Table},
    folders::{classes, tars},
    origin::Origin,
    wait::wait_until,
};
use tokio::time::Instant;

/// A job is killed so often before it may finish.
const KILLS_PER_JOB: u64 = 4;

/// A job of about a second that is killed again and again.
struct Victim {
    seed: u64,
    random: SmallRng,
    origin: Origin,
    tars: Vec<(String, Vec<u8>)>,
    /// How long it takes undisturbed.
    longest: Duration,
    jobs: u64,
    killed: u64,
    /// Complete folders that were seen after kills.
    checked: usize,
    /// Requests that went on at a checkpoint, by jobs that keep the tars and by those that do not.
    resumed: [usize; 2],
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Victim {
    fn new(tars: Vec<(String, Vec<u8>)>, bytes_per_second: u64) -> Self {
        let seed = number_from("SEED").unwrap_or_else(rand::random);
        let origin = Origin::start();
        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        origin.limit_rate(bytes_per_second);
        let random = SmallRng::seed_from_u64(seed);
        let (longest, jobs, killed, checked) = (Duration::ZERO, 0, 0, 0);
        let mut victim = Self { seed, random, origin, tars, longest, jobs, killed, checked, resumed: [0; 2] };
        let undisturbed = Instant::now();
        let (job, deletes) = victim.job();
        job.assert_ended(&job.run(), 0, Table::of(victim.tars.len() as u64, 0, 0));
        victim.longest = undisturbed.elapsed();
        victim.assert_finished(&job, deletes);
        victim
    }

    /// The next job, and whether it deletes the tars: every second one does.
    fn job(&mut self) -> (Job, bool) {
        let deletes = self.jobs.is_multiple_of(2);
        let mut args = vec!["--workers", "2"];
        if deletes {
            args.push("--delete-tar");
        }
        if self.random.random() {
            args.extend(["--durability", "process"]);
        }
        let wnids = self.tars.iter().map(|(wnid, _)| wnid.as_str());
        (Job::new().classes(wnids).origin(&self.origin).args(args), deletes)
    }

    /// Kills and finishes jobs; says what was seen.
    fn suffer(&mut self, kills: u64) -> String {
        while self.killed < kills {
            self.jobs += 1;
            self.origin.forget_requests();
            let (job, deletes) = self.job();
            for _ in 0..KILLS_PER_JOB.min(kills - self.killed) {
                let instant = self.longest.mul_f64(self.random.random());
                let mut running = job.start();
                // Waiting for the end of the program up to that instant; usually it is still there then.
                if wait_until(instant, || (!running.is_running()).then_some(())).is_some() {
                    break;
                }
                running.kill();
                self.killed += 1;
                let when = format!("SEED={}, kill {} of job {} after {instant:?}", self.seed, self.killed, self.jobs);
                self.checked += self.assert_complete(job.target_path(), &when);
            }
            // A kill after the last report leaves a finished run, so the counts may be either.
            job.assert_all_there(&job.run(), self.tars.len() as u64);
            self.assert_finished(&job, deletes);
            let resumed = self.origin.all_requests().iter().filter(|request| request.status == 206).count();
            self.resumed[usize::from(deletes)] += resumed;
        }
        let Self { seed, killed, jobs, checked, resumed, .. } = self;
        format!(
            "SEED={seed}: {killed} kills in {jobs} jobs; {checked} visible folders, all complete; {resumed:?} requests \
             went on at checkpoints"
        )
    }

    /// Every folder under a final name is the whole class with its proof, and every tar under a final name is whole.
    fn assert_complete(&self, target: &Path, when: &str) -> usize {
        let visible = classes(target);
        for (wnid, tar) in &self.tars {
            let folder = target.join(wnid);
            if visible.contains(wnid) {
                assert_eq!(difference(tar, &folder), None, "{when}: {wnid}");
                assert!(folder.join(MANIFEST).is_file(), "{when}: {wnid} has no proof");
            }
            if let Ok(found) = std::fs::read(target.join(format!("{wnid}.tar"))) {
                assert!(found == *tar, "{when}: {wnid}.tar is not whole");
            }
        }
        visible.len()
    }

    /// All classes are there, with all tars or with none.
    fn assert_finished(&self, job: &Job, deletes: bool) {
        let when = format!("SEED={}, job {} finished", self.seed, self.jobs);
        assert_eq!(self.assert_complete(job.target_path(), &when), self.tars.len(), "{when}");
        let expected = if deletes { 0 } else { self.tars.len() };
        assert_eq!(tars(job.target_path()).len(), expected, "{when}");
    }
}

#[test]
fn killed_at_any_instant_nothing_visible_is_incomplete_and_the_next_run_finishes() {
    let tars = (1..=4).map(|n| (format!("n{n:08}"), images(&format!("n{n:08}"), 25, 5000..35_000, n)));
    let kills = number_from("KILLS").unwrap_or(60) * 3 / 5;
    println!("{}", Victim::new(tars.collect(), 1_000_000).suffer(kills));
}

/// Nine megabytes a class, where a checkpoint is written every four.
#[test]
fn killed_beyond_a_checkpoint_a_class_goes_on_there_and_its_kept_tar_is_the_origins() {
    let tars = (1..=2).map(|n| (format!("n{n:08}"), images(&format!("n{n:08}"), 180, 40_000..60_000, n)));
    let kills = number_from("KILLS").unwrap_or(60) * 2 / 5;
    let mut victim = Victim::new(tars.collect(), 9_000_000);
    println!("{}", victim.suffer(kills));
    let both = victim.resumed.iter().all(|resumed| *resumed > 0);
    assert!(both || kills < 40, "with and without kept tars: {:?} requests went on", victim.resumed);
}

#[test]
fn a_killed_class_goes_on_at_its_checkpoint() {
    let origin = Origin::start();
    let tar = images("n00000001", 400, 40_000..60_000, 1);
    origin.class("n00000001", tar.clone());
    origin.limit_rate(4_000_000);
    let job =
        Job::new().classes(["n00000001"]).origin(&origin).args(["--delete-tar"]).deadline(Duration::from_secs(30));
    // No slot is free to fetch parts of it.
    let job = job.args(["--workers", "1"]);
    let mut running = job.start();
    running.wait_until("twelve megabytes are under way", |_| (origin.bytes_sent() > 12_000_000).then_some(()));
    running.kill();
    origin.limit_rate(0);
    origin.forget_requests();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder("n00000001"));
    let gets = origin.gets("n00000001");
    assert!(gets.len() == 1 && gets[0].start() > 4_000_000, "{gets:#?}");
}

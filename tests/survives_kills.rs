//! SIGKILL at random times: every folder and tar with a final name is complete, and the same
//! command finishes the job.
//!
//! `KILLS` is the total number of kills (60; 200 in `.ci/run`), `SEED` determines their times; each
//! failure message contains it.

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

/// Number of kills of a job before it may finish.
const KILLS_PER_JOB: u64 = 4;

/// A job of about a second that is killed repeatedly.
struct RepeatedJob {
    seed: u64,
    random: SmallRng,
    origin: Origin,
    tars: Vec<(String, Vec<u8>)>,
    /// Its duration without kills.
    longest: Duration,
    jobs: u64,
    killed: u64,
    /// Number of complete folders found after kills.
    checked: usize,
    /// Number of requests that resumed at a journal entry, for jobs that keep the tars and for
    /// those that do not.
    resumed: [usize; 2],
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl RepeatedJob {
    fn new(tars: Vec<(String, Vec<u8>)>, bytes_per_second: u64) -> Self {
        let seed = number_from("SEED").unwrap_or_else(rand::random);
        let origin = Origin::start();
        for (wnid, tar) in &tars {
            origin.class(wnid, tar.clone());
        }
        origin.limit_rate(bytes_per_second);
        let random = SmallRng::seed_from_u64(seed);
        let longest = Duration::ZERO;
        let jobs = 0;
        let killed = 0;
        let checked = 0;
        let mut repeated = Self {
            seed,
            random,
            origin,
            tars,
            longest,
            jobs,
            killed,
            checked,
            resumed: [0; 2],
        };
        let undisturbed = Instant::now();
        let (job, deletes) = repeated.job();
        job.assert_ended(&job.run(), 0, Table::of(repeated.tars.len() as u64, 0, 0));
        repeated.longest = undisturbed.elapsed();
        repeated.assert_finished(&job, deletes);
        repeated
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
        (
            Job::new().classes(wnids).origin(&self.origin).args(args),
            deletes,
        )
    }

    /// Kills and finishes jobs; returns a summary.
    fn run_with_kills(&mut self, kills: u64) -> String {
        while self.killed < kills {
            self.jobs += 1;
            self.origin.forget_requests();
            let (job, deletes) = self.job();
            for _ in 0..KILLS_PER_JOB.min(kills - self.killed) {
                let instant = self.longest.mul_f64(self.random.random());
                let mut running = job.start();
                // The wait ends early if the program ends first; usually it is still running.
                if wait_until(instant, || (!running.is_running()).then_some(())).is_some() {
                    break;
                }
                running.kill();
                self.killed += 1;
                let when = format!(
                    "SEED={}, kill {} of job {} after {instant:?}",
                    self.seed, self.killed, self.jobs
                );
                self.checked += self.assert_complete(job.target_path(), &when);
            }
            // A kill after the last report leaves a finished run, so each class counts as success
            // or as skipped.
            job.assert_all_there(&job.run(), self.tars.len() as u64);
            self.assert_finished(&job, deletes);
            let resumed = self
                .origin
                .all_requests()
                .iter()
                .filter(|request| request.status == 206)
                .count();
            self.resumed[usize::from(deletes)] += resumed;
        }
        let Self {
            seed,
            killed,
            jobs,
            checked,
            resumed,
            ..
        } = self;
        format!(
            "SEED={seed}: {killed} kills in {jobs} jobs; {checked} visible folders, all complete; \
             {resumed:?} requests \
             resumed at journal entries"
        )
    }

    /// Panics unless every folder with a final name is complete with its manifest, and every tar
    /// with a final name is complete; returns the number of folders.
    fn assert_complete(&self, target: &Path, when: &str) -> usize {
        let visible = classes(target);
        for (wnid, tar) in &self.tars {
            let folder = target.join(wnid);
            if visible.contains(wnid) {
                assert_eq!(difference(tar, &folder), None, "{when}: {wnid}");
                assert!(
                    folder.join(MANIFEST).is_file(),
                    "{when}: {wnid} has no manifest"
                );
            }
            if let Ok(found) = std::fs::read(target.join(format!("{wnid}.tar"))) {
                assert!(found == *tar, "{when}: {wnid}.tar is not complete");
            }
        }
        visible.len()
    }

    /// Panics unless all classes are complete, with all tars or with none.
    fn assert_finished(&self, job: &Job, deletes: bool) {
        let when = format!("SEED={}, job {} finished", self.seed, self.jobs);
        assert_eq!(
            self.assert_complete(job.target_path(), &when),
            self.tars.len(),
            "{when}"
        );
        let expected = if deletes { 0 } else { self.tars.len() };
        assert_eq!(tars(job.target_path()).len(), expected, "{when}");
    }
}

#[test]
fn killed_at_any_instant_nothing_visible_is_incomplete_and_the_next_run_finishes() {
    let tars = (1..=4).map(|n| {
        (
            format!("n{n:08}"),
            images(&format!("n{n:08}"), 25, 5000..35_000, n),
        )
    });
    let kills = number_from("KILLS").unwrap_or(60) * 3 / 5;
    println!(
        "{}",
        RepeatedJob::new(tars.collect(), 1_000_000).run_with_kills(kills)
    );
}

/// Classes of 9 MB; a journal entry is written every 4 MB.
#[test]
fn a_class_killed_after_a_journal_entry_resumes_there_and_its_kept_tar_equals_the_origins() {
    let tars = (1..=2).map(|n| {
        (
            format!("n{n:08}"),
            images(&format!("n{n:08}"), 180, 40_000..60_000, n),
        )
    });
    let kills = number_from("KILLS").unwrap_or(60) * 2 / 5;
    let mut repeated = RepeatedJob::new(tars.collect(), 9_000_000);
    println!("{}", repeated.run_with_kills(kills));
    let both = repeated.resumed.iter().all(|resumed| *resumed > 0);
    assert!(
        both || kills < 40,
        "resumed requests with and without kept tars: {:?}",
        repeated.resumed
    );
}

#[test]
fn a_killed_class_resumes_at_its_journal() {
    let origin = Origin::start();
    let tar = images("n00000001", 400, 40_000..60_000, 1);
    origin.class("n00000001", tar.clone());
    origin.limit_rate(4_000_000);
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .args(["--delete-tar"])
        .deadline(Duration::from_secs(30));
    // One slot, so that no slot is free to fetch parts of the class.
    let job = job.args(["--workers", "1"]);
    let mut running = job.start();
    running.wait_until("twelve megabytes were sent", |_| {
        (origin.bytes_sent() > 12_000_000).then_some(())
    });
    running.kill();
    origin.limit_rate(0);
    origin.forget_requests();
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder("n00000001"));
    let gets = origin.gets("n00000001");
    assert!(gets.len() == 1 && gets[0].start() > 4_000_000, "{gets:#?}");
}

//! SIGKILL at random instants: whatever stands under a final name is complete, and the same command finishes the job.
//!
//! `KILLS` is the number of kills (200), `SEED` chooses the instants; both are printed.

use std::{path::Path, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{
    archives::{MANIFEST, assert_class_is, difference, images},
    cluster::{Job, Table},
    folders::classes,
    origin::Origin,
    wait::wait_until,
};
use tokio::time::Instant;

/// A job is killed so often before it may finish.
const KILLS_PER_JOB: u64 = 4;
/// The origin's pace on each connection: a job of four classes on two connections takes about a second.
const BYTES_PER_SECOND: u64 = 1_000_000;

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    (1..=4).map(|n| (format!("n{n:08}"), images(&format!("n{n:08}"), 25, 5000..35_000, n))).collect()
}

fn job_with(origin: &Origin, tars: &[(String, Vec<u8>)], random: &mut SmallRng) -> Job {
    let mut args = vec!["--workers", "2"];
    if random.random() {
        args.push("--delete-tar");
    }
    if random.random() {
        args.extend(["--durability", "process"]);
    }
    Job::new().classes(tars.iter().map(|(wnid, _)| wnid.as_str())).origin(origin).args(args)
}

/// Every folder under a final name is the whole class with its proof, and every tar under a final name is whole.
fn assert_complete(target: &Path, tars: &[(String, Vec<u8>)], when: &str) -> usize {
    let visible = classes(target);
    for (wnid, tar) in tars {
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

#[test]
fn killed_at_any_instant_nothing_visible_is_incomplete_and_the_next_run_finishes() {
    let kills = number_from("KILLS").unwrap_or(200);
    let seed = number_from("SEED").unwrap_or_else(rand::random);
    println!("KILLS={kills} SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let tars = corpus();
    let origin = Origin::start();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    origin.limit_rate(BYTES_PER_SECOND);
    let undisturbed = Instant::now();
    let job = job_with(&origin, &tars, &mut random);
    job.assert_ended(&job.run(), 0, Table::of(4, 0, 0));
    let longest = undisturbed.elapsed();

    let (mut killed, mut jobs, mut checked) = (0, 0, 0);
    while killed < kills {
        let job = job_with(&origin, &tars, &mut random);
        jobs += 1;
        for _ in 0..KILLS_PER_JOB.min(kills - killed) {
            let instant = longest.mul_f64(random.random());
            let mut running = job.start();
            // Waiting for the end of the program up to that instant; usually it is still there then.
            if wait_until(instant, || (!running.is_running()).then_some(())).is_some() {
                break;
            }
            running.kill();
            killed += 1;
            let when = format!("SEED={seed}, kill {killed} of job {jobs} after {instant:?}");
            checked += assert_complete(job.target_path(), &tars, &when);
        }
        // A kill after the last report leaves a finished run, so the counts may be either.
        job.assert_all_there(&job.run(), 4);
        assert_eq!(assert_complete(job.target_path(), &tars, &format!("SEED={seed}, job {jobs} finished")), 4);
    }
    println!("{killed} kills in {jobs} jobs; {checked} visible folders, all complete");
}

#[test]
fn a_killed_class_goes_on_at_its_checkpoint() {
    let origin = Origin::start();
    let tar = images("n00000001", 400, 40_000..60_000, 1);
    origin.class("n00000001", tar.clone());
    origin.limit_rate(4_000_000);
    let job =
        Job::new().classes(["n00000001"]).origin(&origin).args(["--delete-tar"]).deadline(Duration::from_secs(30));
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

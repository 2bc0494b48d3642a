//! SIGKILL at random times, to a coordinator and to its workers: nothing is lost, nothing is
//! counted twice, and the result equals that of an undisturbed run.
//!
//! `KILLS` is the number of kills of the coordinator, and that of kills of workers (60 each; 200 in
//! `.ci/run`). `SEED` determines times and processes; each failure message contains it.

use std::{collections::HashMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use tests::{
    archives::{MANIFEST, difference, images},
    cluster::{Job, Table},
    fleet::{Fleet, Settled},
    folders::{Snapshot, SnapshotEntry, classes, snapshot},
    running::Running,
    wait::wait_until,
};
use tokio::time::Instant;

const CLASSES: u64 = 600;
/// Names of the workers. The coordinator is process 0, the workers follow.
const WORKERS: [&str; 3] = ["left", "middle", "right"];
const SLOTS: u32 = 2;
/// Bytes per second per class: while the job is ahead of the kills, and while it is behind.
const SLOW_AND_FAST: [u64; 2] = [30_000, 600_000];
/// Maximum time between two kills.
const MAX_KILL_INTERVAL: Duration = Duration::from_millis(600);
/// Maximum kills of one worker during one run of a coordinator: it rejects a name that changes
/// owners more often within a minute, because two running workers may share it.
const KILLS_OF_ONE_NAME: u32 = 3;
/// Kills come in groups of this many of each kind, in random order within a group: even over the
/// border of two groups at least one name stays usable.
const KILLS_IN_A_ROW: u64 = 4;
/// Percentage of settled classes at the last kill.
const DONE_BY_THE_LAST_KILL: u64 = 95;

/// One job, its processes, and observations of it.
struct Cluster {
    fleet: Fleet,
    processes: [Option<Running>; 4],
    /// Kills of each process since the last start of the coordinator.
    kills: [u32; 4],
    settled: Settled,
    /// The complete classes, and the latest time since which they are.
    visible: HashMap<String, Instant>,
}

impl Cluster {
    fn start(tars: &[(String, Vec<u8>)]) -> Self {
        let fleet = Fleet::of(
            tars.to_vec(),
            &["--lease-ttl", "3s", "--durability", "process"],
        );
        let fleet = fleet.deadline(Duration::from_mins(6));
        let settled = Settled::new();
        let visible = HashMap::new();
        let mut cluster = Self {
            fleet,
            processes: Default::default(),
            kills: [0; 4],
            settled,
            visible,
        };
        for process in 0..cluster.processes.len() {
            cluster.start_again(process);
        }
        cluster
    }

    /// Uses the same command each time.
    fn start_again(&mut self, process: usize) {
        let running = match process.checked_sub(1) {
            None => self.fleet.start_coordinator(),
            Some(worker) => self.fleet.start_worker(WORKERS[worker], SLOTS),
        };
        self.processes[process] = Some(running);
    }

    /// A random worker whose name has not changed owners too often.
    fn worker(&self, random: &mut SmallRng) -> usize {
        let may_be_killed = |worker: &usize| self.kills[*worker] < KILLS_OF_ONE_NAME;
        let workers: Vec<usize> = (1..=WORKERS.len()).filter(may_be_killed).collect();
        workers[random.random_range(0..workers.len())]
    }

    fn kill(&mut self, process: usize) {
        match process {
            0 => self.kills = [0; 4],
            worker => self.kills[worker] += 1,
        }
        self.processes[process]
            .take()
            .expect("the process was started")
            .kill();
    }

    /// Waits for a time; false if a process has ended before.
    fn survives_until(&mut self, instant: Duration) -> bool {
        let mut ended = || {
            self.processes
                .iter_mut()
                .flatten()
                .any(|process| !process.is_running())
                .then_some(())
        };
        wait_until(instant, &mut ended).is_none()
    }

    /// Panics unless every settled class stays settled and exists, and every visible class is
    /// complete and stays visible.
    fn check(&mut self, when: &str) {
        let settled = self.fleet.settled();
        for (wnid, outcome) in &self.settled {
            assert_eq!(
                settled.get(wnid),
                Some(outcome),
                "{when}: the acknowledged result of {wnid}"
            );
        }
        let target = self.fleet.job.target_path();
        let found = classes(target);
        for wnid in settled.keys() {
            assert!(
                found.contains(wnid),
                "{when}: {wnid} is settled and not in the target; {:?}",
                settled[wnid]
            );
        }
        for wnid in self.visible.keys() {
            assert!(found.contains(wnid), "{when}: {wnid} has vanished");
        }
        for wnid in found {
            self.visible.entry(wnid).or_insert_with_key(|wnid| {
                let folder = target.join(wnid);
                let (_, tar) = self
                    .fleet
                    .tars
                    .iter()
                    .find(|(of, _)| of == wnid)
                    .expect("the class is in the list");
                assert_eq!(difference(tar, &folder), None, "{when}: {wnid}");
                assert!(
                    folder.join(MANIFEST).is_file(),
                    "{when}: {wnid} has no manifest"
                );
                Instant::now()
            });
        }
        self.settled = settled;
    }

    /// Slows the origin once more classes are settled than the share of kills that are done.
    fn keep_pace_with(&self, kills: u64, of: u64) {
        let due = self.fleet.tars.len() as u64 * kills * DONE_BY_THE_LAST_KILL / (of * 100);
        self.fleet
            .origin
            .limit_rate(SLOW_AND_FAST[usize::from((self.settled.len() as u64) < due)]);
    }

    /// Lets the job finish, checks it, and returns the resulting tree.
    fn finish(&mut self, when: &str) -> Snapshot {
        self.fleet.origin.limit_rate(0);
        let [coordinator, workers @ ..] = std::mem::take(&mut self.processes);
        let table = Table::of(self.fleet.tars.len() as u64, 0, 0);
        self.fleet.assert_done(
            coordinator.expect("the coordinator was started"),
            workers.into_iter().flatten(),
            table,
        );
        self.check(when);
        for (wnid, seen) in &self.visible {
            let late = self
                .fleet
                .origin
                .gets(wnid)
                .into_iter()
                .find(|get| get.at > *seen);
            assert!(
                late.is_none(),
                "{when}: {wnid} was requested again although it was complete: {late:#?}"
            );
        }
        tree(&self.fleet.job)
    }
}

/// The target without logs and ledger; the manifests without the fields that differ between runs.
fn tree(job: &Job) -> Snapshot {
    let mut tree = snapshot(job.target_path());
    tree.retain(|path, _| path.to_string_lossy().starts_with('n'));
    for (path, thing) in &mut tree {
        if let SnapshotEntry::File(_, bytes) = thing
            && path.ends_with(MANIFEST)
        {
            let mut manifest: serde_json::Value =
                serde_json::from_slice(bytes).expect("a manifest is JSON");
            // The origins of two runs have different ports.
            for of_the_run in ["run", "url", "digest"] {
                assert!(
                    !manifest[of_the_run].take().is_null(),
                    "{of_the_run} is in each manifest"
                );
            }
            *bytes = manifest.to_string().into_bytes();
        }
    }
    tree
}

#[track_caller]
fn assert_same(found: &Snapshot, undisturbed: &Snapshot, when: &str) {
    for (path, thing) in undisturbed {
        assert!(
            found.get(path) == Some(thing),
            "{when}: {} is not as in an undisturbed run",
            path.display()
        );
    }
    assert_eq!(
        found.len(),
        undisturbed.len(),
        "{when}: there are more entries than after an undisturbed run"
    );
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn killed_at_any_instant_a_cluster_loses_nothing_and_counts_nothing_twice() {
    let seed = number_from("SEED").unwrap_or_else(rand::random);
    let each = number_from("KILLS").unwrap_or(60);
    let mut random = SmallRng::seed_from_u64(seed);
    let class = |number| {
        (
            format!("n{number:08}"),
            images(&format!("n{number:08}"), 6, 3000..7000, number),
        )
    };
    let tars: Vec<_> = (1..=CLASSES).map(class).collect();
    let mut undisturbed = Cluster::start(&tars);
    let expected = undisturbed.finish("undisturbed");
    let bytes = undisturbed.fleet.origin.bytes_sent();

    let mut killed = [0; 2];
    let mut turns = Vec::new();
    let mut jobs = 0;
    let mut sent = 0;
    let began = Instant::now();
    while killed != [each; 2] {
        jobs += 1;
        let mut cluster = Cluster::start(&tars);
        while killed != [each; 2] {
            let pause = MAX_KILL_INTERVAL.mul_f64(random.random());
            if turns.is_empty() {
                turns = [0, 1]
                    .map(|kind| vec![kind; (each - killed[kind]).min(KILLS_IN_A_ROW) as usize])
                    .concat();
                turns.shuffle(&mut random);
            }
            let process = if turns.pop() == Some(0) {
                0
            } else {
                cluster.worker(&mut random)
            };
            if !cluster.survives_until(pause) {
                break;
            }
            cluster.kill(process);
            killed[process.min(1)] += 1;
            let when = format!(
                "SEED={seed}, job {jobs}, after kills {killed:?}, the last one of process {process}"
            );
            cluster.check(&when);
            cluster.keep_pace_with(killed[0] + killed[1], 2 * each);
            cluster.start_again(process);
        }
        let when = format!("SEED={seed}, job {jobs}, after kills {killed:?}");
        assert_same(&cluster.finish(&when), &expected, &when);
        sent += cluster.fleet.origin.bytes_sent();
    }
    let [coordinator, workers] = killed;
    let took = began.elapsed();
    let twice = 100 * sent.saturating_sub(jobs * bytes) / (jobs * bytes);
    println!(
        "SEED={seed}: {coordinator} kills of the coordinator and {workers} of workers over {jobs} \
         job(s) of {CLASSES} \
         classes in {took:.0?}; nothing lost, nothing counted twice, the same tree; {twice} % of \
         the bytes came twice"
    );
}

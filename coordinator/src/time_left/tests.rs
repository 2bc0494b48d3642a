//! The estimate over a simulated job with the real lease table, and single rules of it.

use std::collections::BTreeMap;

use shared::{
    Wnid,
    outcome::{Failure, FailureKind, Outcome, Published},
};

use super::*;
use crate::lease_table::{Lease, LeaseTable, ReportedLease, WorkerInfo};

const TTL: Duration = Duration::from_secs(30);
const SESSION: SessionId = SessionId(1);
/// Steps of the simulation per second.
const STEPS: u64 = 4;
const SLOTS: usize = 8;

fn wnid(number: u64) -> Wnid {
    format!("n{number:08}").parse().unwrap()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A pseudorandom generator with the same sequence in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A coordinator and its only worker.
struct Simulation {
    table: LeaseTable,
    time_left: TimeLeft,
    session: SessionId,
    received: u64,
    leases: Vec<Lease>,
}

impl Simulation {
    fn start(job: &Job, epoch: u32, now: Instant) -> Self {
        let wnids: Vec<Wnid> = job.lengths.keys().copied().collect();
        let mut table = LeaseTable::new(&wnids, job.invalid, epoch, TTL);
        job.settled
            .iter()
            .for_each(|(wnid, outcome)| table.restore(*wnid, outcome));
        let worker_info = WorkerInfo {
            worker: "w".to_owned(),
            instance: vec![1],
            slots: 100,
            ..WorkerInfo::default()
        };
        let session = table.register(&worker_info, &[], now).unwrap().session;
        Self {
            table,
            time_left: TimeLeft::new(now),
            session,
            received: 0,
            leases: Vec::new(),
        }
    }

    /// The classes that the worker names. The length of a class is known once bytes of it have
    /// arrived.
    fn held(&self, job: &Job) -> Vec<ReportedLease> {
        let named = |lease: &Lease| {
            let position = job.positions.get(&lease.wnid).copied();
            ReportedLease {
                lease: *lease,
                bytes: position.unwrap_or_default(),
                length: position.map_or(0, |_| job.lengths[&lease.wnid]),
                is_local: false,
            }
        };
        self.leases.iter().map(named).collect()
    }

    fn renew(&mut self, job: &Job, now: Instant) {
        self.table
            .renew(self.session, &self.held(job), self.received, now)
            .unwrap();
        self.time_left.renewed(self.session, self.received);
    }

    fn report(&mut self, lease: Lease, outcome: &Outcome, now: Instant) {
        let position = self.table.position_in_tar(self.session, lease.wnid);
        self.table.report(self.session, lease, outcome, now, 0.5);
        if let Outcome::Success(published) = outcome {
            self.time_left
                .completed(self.session, published.bytes - position);
        }
        self.leases.retain(|held| held.wnid != lease.wnid);
    }
}

/// The state on disks: the tars of the origin, the received bytes of each, and the ledger.
struct Job {
    /// Length of each tar. 0: the origin does not have the class.
    lengths: BTreeMap<Wnid, u64>,
    invalid: u64,
    positions: BTreeMap<Wnid, u64>,
    settled: BTreeMap<Wnid, Outcome>,
}

impl Job {
    /// Tars of 1 to 9 MB in random order; every tenth is missing, and `invalid` rows are invalid.
    fn of(classes: u64, invalid: u64) -> Self {
        let mut random = Random(classes);
        let length = |number| {
            if number % 10 == 7 {
                0
            } else {
                1_000_000 + random.below(8_000_000)
            }
        };
        let lengths = (1..=classes)
            .map(wnid)
            .zip((1..=classes).map(length))
            .collect();
        Self {
            lengths,
            invalid,
            positions: BTreeMap::new(),
            settled: BTreeMap::new(),
        }
    }

    /// Tars of 0.5 to 8 MB, most of them short; every tenth is missing.
    fn skewed(classes: u64, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut length = |number| {
            let part = random.below(1000);
            if number % 10 == 7 {
                0
            } else {
                500_000 + 7_500 * part * part / 1000
            }
        };
        let lengths = (1..=classes)
            .map(|number| (wnid(number), length(number)))
            .collect();
        Self {
            lengths,
            invalid: 0,
            positions: BTreeMap::new(),
            settled: BTreeMap::new(),
        }
    }

    fn bytes(&self) -> u64 {
        self.lengths.values().sum()
    }

    /// One step in which all slots together receive `bytes` bytes.
    fn step(&mut self, simulation: &mut Simulation, bytes: u64, now: Instant) {
        let free = SLOTS - simulation.leases.len();
        if free > 0 {
            simulation
                .table
                .learn_lengths(simulation.session, &simulation.held(self));
            simulation.leases.extend(
                simulation
                    .table
                    .acquire(simulation.session, free, now)
                    .unwrap()
                    .leases,
            );
        }
        let leases = simulation.leases.clone();
        // The last classes share the rate too.
        let share = bytes / (leases.len() as u64).max(1);
        for lease in leases {
            let length = self.lengths[&lease.wnid];
            let position = self.positions.entry(lease.wnid).or_default();
            let more = share.min(length - *position);
            *position += more;
            simulation.received += more;
            if *position == length {
                let missing = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
                let published = Published {
                    files: 1,
                    bytes: length,
                };
                let outcome = if length == 0 {
                    Outcome::Failed(missing)
                } else {
                    Outcome::Success(published)
                };
                simulation.report(lease, &outcome, now);
                self.settled.insert(lease.wnid, outcome);
            }
        }
    }
}

/// Runs a job at about `rate` bytes per second. Returns the times at which an estimate was due,
/// each with the estimate, and the duration of the job. At a quarter of the time the coordinator is
/// killed; at half of it no bytes arrive for eight seconds.
fn simulate(mut job: Job, rate: u64) -> (Vec<(Duration, Option<Duration>)>, Duration) {
    let begin = Instant::now();
    let expected = job.bytes() / rate;
    let mut simulation = Simulation::start(&job, 1, begin);
    let mut random = Random(rate);
    let mut estimates = Vec::new();
    for step in 1.. {
        let now = begin + Duration::from_millis(step * 1000 / STEPS);
        let second = step / STEPS;
        if step == expected / 4 * STEPS {
            simulation = Simulation::start(&job, 2, now);
        }
        let stands = (expected / 2..expected / 2 + 8).contains(&second);
        // Up to a fifth more or less, drawn in each step.
        let bytes = if stands {
            0
        } else {
            rate / STEPS * (80 + random.below(41)) / 100
        };
        job.step(&mut simulation, bytes, now);
        if step % (10 * STEPS) == 0 {
            simulation.renew(&job, now);
        }
        if step % STEPS == 0 {
            simulation
                .time_left
                .received(simulation.session, simulation.received);
            estimates.push((
                now - begin,
                simulation
                    .time_left
                    .tick(simulation.table.remaining_bytes(), now),
            ));
        }
        if simulation.table.status().is_done() {
            return (estimates, now - begin);
        }
    }
    unreachable!("a job ends")
}

/// The number of estimates after the first tenth of a job that are within 25 % of the truth, and
/// the number of all estimates after it.
fn right_of_all(job: Job, rate: u64) -> (usize, usize) {
    let (estimates, took) = simulate(job, rate);
    let counted = estimates
        .iter()
        .filter(|(at, _)| *at > took / 10 && *at < took);
    let is_right = |(at, left): &&(Duration, Option<Duration>)| {
        let truth = took.saturating_sub(*at);
        left.is_some_and(|left| left.abs_diff(truth) <= truth / 4)
    };
    (counted.clone().filter(is_right).count(), counted.count())
}

/// The requirement of issue 15: within 25 % for 80 % of the time after the first tenth.
#[test]
fn the_estimate_is_near_the_truth_over_a_kill_and_a_stall() {
    for (classes, rate) in [(60, 2_000_000), (100, 3_000_000), (300, 5_000_000)] {
        let (right, all) = right_of_all(Job::of(classes, classes / 3), rate);
        assert!(
            right * 100 >= all * 80,
            "{classes} classes: {right} of {all}"
        );
    }
}

/// With few classes of very different lengths a single job may miss the requirement, because the
/// lengths of classes without received bytes are unknown. Therefore this test is about many jobs
/// together.
#[test]
fn the_estimate_is_near_the_truth_where_most_classes_are_short() {
    for (classes, rate, percent) in [(90, 2_000_000, 80), (300, 6_000_000, 88)] {
        let jobs = (1..=60).map(|seed| right_of_all(Job::skewed(classes, seed), rate));
        let (right, all) = jobs.fold((0, 0), |sum, job| (sum.0 + job.0, sum.1 + job.1));
        assert!(
            right * 100 >= all * percent,
            "{classes} classes: {right} of {all}, {} %",
            right * 100 / all
        );
    }
}

#[test]
fn there_is_no_estimate_while_most_lengths_are_unknown_and_requests_for_leases_supply_lengths() {
    let now = Instant::now();
    let wnids: Vec<Wnid> = (1..=20).map(wnid).collect();
    let mut table = LeaseTable::new(&wnids, 0, 1, TTL);
    let worker_info = WorkerInfo {
        worker: "w".to_owned(),
        instance: vec![1],
        slots: 8,
        ..WorkerInfo::default()
    };
    let session = table.register(&worker_info, &[], now).unwrap().session;
    let leases = table.acquire(session, 8, now).unwrap().leases;
    table.report(
        session,
        leases[0],
        &Outcome::Success(Published {
            files: 1,
            bytes: 1000,
        }),
        now,
        0.5,
    );
    assert_eq!(
        table.remaining_bytes(),
        None,
        "the first one to end is the shortest one"
    );
    let held = |lease: &Lease, length| ReportedLease {
        lease: *lease,
        bytes: 900,
        length,
        is_local: false,
    };
    let of_another_lease = Lease {
        token: leases[0].token,
        ..leases[1]
    };
    table.learn_lengths(session, &[held(&of_another_lease, 7)]);
    table.learn_lengths(SessionId(99), &[held(&leases[1], 7)]);
    assert_eq!(table.remaining_bytes(), None);
    // No byte of one class has arrived.
    let named: Vec<ReportedLease> = leases[1..7]
        .iter()
        .map(|lease| held(lease, 8000))
        .chain([held(&leases[7], 0)])
        .collect();
    table.learn_lengths(session, &named);
    assert_eq!(
        table.remaining_bytes(),
        Some(6 * 8000 + 13 * (6 * 8000 + 1000) / 7)
    );
    assert_eq!(
        table.position_in_tar(session, wnid(2)),
        0,
        "positions change with renewals"
    );
    // Values from a heartbeat stay.
    table.learn_lengths(session, &[held(&leases[1], 1)]);
    assert_eq!(
        table.remaining_bytes(),
        Some(6 * 8000 + 13 * (6 * 8000 + 1000) / 7)
    );
}

#[test]
fn there_is_no_estimate_during_an_outage_and_one_outage_does_not_change_it() {
    let begin = Instant::now();
    let mut estimate = TimeLeft::new(begin);
    let mut estimates = Vec::new();
    let mut received = 0;
    let mut remaining = 100_000;
    for second in 0..50 {
        if !(20..40).contains(&second) {
            received += 1000;
            remaining -= 1000;
        }
        estimate.renewed(SESSION, received);
        estimates.push(estimate.tick(Some(remaining), begin + seconds(second)));
    }
    assert_eq!(estimates[1], None, "too early");
    assert_eq!(estimates[19], Some(seconds(80)));
    assert_eq!(estimates[23], Some(seconds(80)), "a short pause");
    assert!(
        estimates[24..40].iter().all(Option::is_none),
        "{estimates:?}"
    );
    assert_eq!(estimates[40], Some(seconds(79)));
}

#[test]
fn repeated_pauses_count() {
    let begin = Instant::now();
    let mut estimate = TimeLeft::new(begin);
    let mut last = None;
    // Bytes for ten seconds, then none for ten.
    let mut received = 0;
    for second in 0..=400 {
        if second % 20 < 10 {
            received += 1000;
        }
        estimate.renewed(SESSION, received);
        let left = estimate.tick(Some(100_000), begin + seconds(second));
        last = left.or(last);
    }
    let left = last.unwrap();
    assert!(left > seconds(170) && left < seconds(230), "{left:?}");
}

#[test]
fn bytes_received_before_the_session_of_a_worker_are_no_progress() {
    let begin = Instant::now();
    let mut estimate = TimeLeft::new(begin);
    let mut left = None;
    for second in 0..10 {
        estimate.renewed(SESSION, 1_000_000_000 + second * 1000);
        left = estimate.tick(Some(50_000), begin + seconds(second));
    }
    assert_eq!(left, Some(seconds(50)));
    estimate.ended(SESSION);
    estimate.renewed(SessionId(2), 1_000_009_000);
    estimate.renewed(SessionId(2), 1_000_010_000);
    assert_eq!(
        estimate.tick(Some(49_000), begin + seconds(10)),
        Some(seconds(49)),
        "the same process registers again"
    );
}

#[test]
fn bytes_between_two_renewals_are_not_counted_as_remaining() {
    let begin = Instant::now();
    let mut estimate = TimeLeft::new(begin);
    estimate.renewed(SESSION, 0);
    for second in 1..=9 {
        estimate.received(SESSION, second * 1000);
        let left = estimate.tick(Some(100_000), begin + seconds(second));
        assert!(
            second < 4 || left == Some(seconds(100 - second)),
            "{second}: {left:?}"
        );
    }
    // Of the 9,000 bytes, 4,000 were of a class that is settled now, so the table no longer counts
    // them.
    estimate.completed(SESSION, 4000);
    assert_eq!(
        estimate.tick(Some(96_000), begin + seconds(9)),
        Some(seconds(91))
    );
}

#[test]
fn classes_of_unknown_length_count_with_the_mean_of_the_others() {
    let now = Instant::now();
    let mut table = LeaseTable::new(&[1, 2, 3, 4, 5].map(wnid), 7, 1, TTL);
    assert_eq!(table.remaining_bytes(), None, "no length is known");
    table.restore(
        wnid(1),
        &Outcome::Skipped(Published {
            files: 1,
            bytes: 1000,
        }),
    );
    assert_eq!(
        table.remaining_bytes(),
        Some(4000),
        "invalid rows are no evidence"
    );
    let worker_info = WorkerInfo {
        worker: "w".to_owned(),
        instance: vec![1],
        slots: 9,
        ..WorkerInfo::default()
    };
    let session = table.register(&worker_info, &[], now).unwrap().session;
    let leases = table.acquire(session, 1, now).unwrap().leases;
    assert_eq!(table.remaining_bytes(), Some(4000));
    table
        .renew(
            session,
            &[ReportedLease {
                lease: leases[0],
                bytes: 500,
                length: 3000,
                is_local: false,
            }],
            500,
            now,
        )
        .unwrap();
    assert_eq!(table.remaining_bytes(), Some(2500 + 3 * 2000));
    assert_eq!(table.position_in_tar(session, wnid(2)), 500);
    table.restore(
        wnid(3),
        &Outcome::Failed(Failure::new(FailureKind::HttpError, "404 Client Error")),
    );
    assert_eq!(
        table.remaining_bytes(),
        Some(2500 + 2 * 4000 / 3),
        "other classes may be missing too"
    );
}

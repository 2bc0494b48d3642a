//! Invented fleets for tests, and the sizes of their messages.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use shared::{Wnid, job::JobStatus};

use super::super::{
    composing::Facts,
    history::{Mark, Point, PointLevels},
    list::List,
    runs::runs,
    snapshot::{FailureGroup, Snapshot, Update},
};
use crate::{
    concurrency::ConcurrencyStatus,
    fleet::{
        CHANGES, Fleet, JobList, LimitChanges, LiveView, Phase, TransferStep, TransferView,
        Transfers, WaitsFor, WorkerState, WorkerView,
    },
};

/// Numbers that look random and are the same in each run (`SplitMix64`).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// Sorted ids as far apart as those of ImageNet: 21,843 between n01440764 and n15300051.
pub(super) fn list(classes: usize, invalid_rows: u64) -> List {
    let mut numbers = Numbers(1);
    let mut number = 1_440_764;
    let mut wnid = || -> Wnid {
        number += 1 + numbers.next(1267);
        format!("n{number:08}").parse().unwrap()
    };
    List::of(JobList {
        wnids: (0..classes).map(|_| wnid()).collect(),
        invalid_rows,
    })
}

pub(super) fn worker(place: u64, state: WorkerState, rate: u64) -> WorkerView {
    WorkerView {
        name: format!("node-{place:04}.cluster.example"),
        state,
        slots: 10,
        leased: 10,
        success: 1234 + rate % 10,
        skipped: 3,
        failed: place % 3,
        received_bytes: 1_234_567_890_123 + rate,
        silent: Duration::ZERO,
        storage: String::new(),
        build: "0.1.0 (0123456789ab)".to_owned(),
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_760_000_000 + place),
        bytes_per_second: rate,
        disk_free: Some(1_000_000_000_000 - rate),
        waits_for: Some(WaitsFor::Limit(3)),
        host: format!("rack-{:02}", place % 40),
    }
}

/// A fleet in which every figure differs from second to second.
pub(super) struct BusyFleet {
    pub(super) list: List,
    letters: Vec<u8>,
    workers: u64,
    numbers: Numbers,
    second: u64,
    history: PointLevels,
    marks: Vec<Mark>,
    groups: Arc<[FailureGroup]>,
}

impl BusyFleet {
    pub(super) fn new(classes: usize, workers: u64, invalid_rows: u64) -> Self {
        Self {
            list: list(classes, invalid_rows),
            letters: vec![b'w'; classes],
            workers,
            numbers: Numbers(2),
            second: 1_760_000_000,
            history: PointLevels::default(),
            marks: Vec::new(),
            groups: Arc::default(),
        }
    }

    /// The same fleet after some seconds, with all else that is bounded at its bound.
    fn with_most(mut self, seconds: u32) -> Self {
        for _ in 0..seconds {
            self.add_second();
        }
        let change = |place: usize| Mark {
            at_ms: self.second * 1000 + place as u64,
            limit: 800,
            why: "the origin broke 800 connections together: none for 1.1 s, then at most 560"
                .to_owned(),
        };
        self.marks = (0..CHANGES).map(change).collect();
        let group = |place: u32| FailureGroup {
            kind: "HTTPError".to_owned(),
            message: format!("{} Client Error: Not Found", 400 + place),
            count: 100,
            classes: (0..20).map(|class| format!("n{class:08}")).collect(),
            worker: Some("node-0001.cluster.example".to_owned()),
            retryable: false,
        };
        self.groups = (0..20).map(group).collect();
        self
    }

    /// The same fleet after four minutes in which the states of all classes have changed at random.
    fn with_steps(mut self) -> Self {
        for _ in 0..240 {
            self.step(1_000);
        }
        self
    }

    /// The same fleet with the states of a job that goes through its list: one in 100 settled
    /// classes has failed, 10,000 of the next 12,000 are leased, and the others wait.
    fn in_list_order(mut self) -> Self {
        for (row, letter) in self.letters.iter_mut().enumerate() {
            *letter = match row {
                0..8_000 if self.numbers.next(100) == 0 => b'f',
                8_000..20_000 if self.numbers.next(6) > 0 => b'r',
                0..20_000 => b's',
                _ => b'w',
            };
        }
        self
    }

    fn add_second(&mut self) {
        self.second += 1;
        let numbers = &mut self.numbers;
        self.history.add(Point {
            at: self.second,
            bytes_per_second: 400_000_000 + numbers.next(100_000_000),
            limit: Some(800 + u32::try_from(numbers.next(9)).unwrap()),
            open: Some(790 + u32::try_from(numbers.next(9)).unwrap()),
            settled: self.second - 1_760_000_000,
        });
    }

    /// A second later: `changes` classes have another state.
    pub(super) fn step(&mut self, changes: usize) {
        self.add_second();
        for _ in 0..changes {
            let row = self.numbers.next(self.letters.len() as u64);
            let letter = b"wdrskf"[usize::try_from(self.numbers.next(6)).unwrap()];
            self.letters[usize::try_from(row).unwrap()] = letter;
        }
    }

    fn count(&self, wanted: &[u8]) -> u64 {
        let letters = self.letters.iter();
        letters.filter(|letter| wanted.contains(letter)).count() as u64
    }

    pub(super) fn view(&mut self) -> LiveView {
        let job = JobStatus {
            total: self.letters.len() as u64 + self.list.invalid_rows,
            success: self.count(b"s"),
            skipped: self.count(b"k"),
            failed: self.count(b"f") + self.list.invalid_rows,
            leased: self.count(b"r"),
            pending: self.count(b"wd"),
            workers: u32::try_from(self.workers).unwrap(),
            received_bytes: self.second * 400_000_000,
            time_left: Some(Duration::from_secs(self.numbers.next(100_000))),
        };
        let worker_of = |place, numbers: &mut Numbers| {
            let states = WorkerState::ALL.iter().copied();
            let state = states
                .cycle()
                .nth(usize::try_from(numbers.next(5)).unwrap());
            let is_odd = numbers.next(50) == 0;
            let state = state.filter(|_| is_odd).unwrap_or(WorkerState::Active);
            worker(place, state, 400_000 + numbers.next(100_000))
        };
        let workers = (0..self.workers)
            .map(|place| worker_of(place, &mut self.numbers))
            .collect();
        let transfer = |place: usize, numbers: &mut Numbers| TransferView {
            wnid: self.list.wnids[place % self.list.wnids.len()],
            worker: format!("node-{place:04}.cluster.example"),
            bytes: numbers.next(200_000_000),
            length: 200_000_000,
            step: TransferStep::Download,
            attempt: 1,
        };
        let transfers = (0..usize::try_from(self.workers.min(40)).unwrap())
            .map(|place| transfer(place, &mut self.numbers))
            .collect();
        LiveView {
            fleet: Fleet {
                job,
                phase: Phase::Running,
                origin: ConcurrencyStatus {
                    open: 790,
                    limit: 800,
                    wanted: 10_000,
                    bytes_per_second: 400_000_000 + self.numbers.next(100_000_000),
                    requests: self.second,
                    ..ConcurrencyStatus::default()
                },
                workers,
            },
            letters: String::from_utf8(self.letters.clone()).unwrap(),
            transfers: Transfers {
                total: 10_000,
                first: transfers,
            },
            recovery: None,
            first_failure: None,
            outage: None,
            ceiling: None,
        }
    }

    /// The snapshot of this second.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let view = self.view();
        let facts = Facts {
            run_id: &"0123456789abcdef0123456789abcdef".into(),
            epoch: 7,
            seq: self.second,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(self.second),
            started: SystemTime::UNIX_EPOCH,
            ended: None,
            time_left_range: view.fleet.job.time_left.map(|left| (left / 2, left * 2)),
            is_stopping: false,
            groups: &self.groups,
            changes: &LimitChanges::default(),
            points: self.history.points(),
            marks: self.marks.clone(),
            list: &self.list,
            command: &"coordinator retry --target /data/imagenet".into(),
        };
        Snapshot::of(&view, facts)
    }
}

/// ImageNet on 1,000 workers: a young job, and one after ten days with all that is bounded at its
/// bound. 700 classes have another state in the next second.
#[test]
fn messages_of_a_large_fleet_are_small() {
    let large = || BusyFleet::new(21_843, 1_000, 0);
    let young = large().with_steps().in_list_order();
    check_sizes("young, in the order of the list", young, 65_000);
    let shuffled = large().with_most(10 * 24 * 3600).with_steps();
    check_sizes("old, every state at random", shuffled, 120_000);
    let old = large().with_most(10 * 24 * 3600).with_steps();
    let snapshot = check_sizes(
        "old, in the order of the list",
        old.in_list_order(),
        100_000,
    );
    let page = page_files();
    println!(
        "the page {page} bytes, and with its first snapshot {}",
        page + snapshot
    );
    assert!(page + snapshot <= 250_000, "{page} + {snapshot}");
}

/// Bytes of the files that a browser loads.
fn page_files() -> usize {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
    let files = std::fs::read_dir(folder).unwrap();
    let is_loaded = |name: &str| name != "package.json" && name != "uplot.LICENSE";
    let loaded = files.map(Result::unwrap);
    let loaded = loaded.filter(|file| is_loaded(file.file_name().to_str().unwrap()));
    let sizes = loaded.map(|file| file.metadata().unwrap().len());
    usize::try_from(sizes.sum::<u64>()).unwrap()
}

/// Returns the bytes of the snapshot.
fn check_sizes(name: &str, mut fleet: BusyFleet, most: usize) -> usize {
    let before = fleet.snapshot();
    let snapshot = serde_json::to_vec(&before).unwrap().len();
    let part = |part: &dyn erased::Size| part.size();
    let parts = [
        ("class ids", part(&before.classes.wnids.as_ref())),
        ("states", part(&runs(&before.classes.states))),
        ("points", part(&before.history)),
        ("marks", part(&before.history.marks)),
        ("failures", part(&before.failures)),
        ("transfers", part(&before.transfers)),
        ("workers", part(&before.workers)),
    ];
    fleet.step(700);
    let after = fleet.snapshot();
    let update = Update::between(&before, &after);
    let update = serde_json::to_vec(&update).unwrap().len();
    println!("{name}: snapshot {snapshot} bytes, of these {parts:?}; update: {update} bytes");
    assert!(snapshot < most, "{snapshot}");
    assert!(update < 30_000, "{update}");
    snapshot
}

mod erased {
    use serde::Serialize;

    /// A part of a message of any type.
    pub(super) trait Size {
        /// Its length as JSON.
        fn size(&self) -> usize;
    }

    impl<T: Serialize> Size for T {
        fn size(&self) -> usize {
            serde_json::to_vec(self).unwrap().len()
        }
    }
}

/// The messages of a small fleet, which the tests of the page replay (`tests/page`). After a change
/// of the API run this test with `INSTA_UPDATE=always`, and look at the difference.
#[test]
fn the_page_is_tested_with_the_messages_of_this_version() {
    let mut fleet = BusyFleet::new(12, 3, 1);
    let mut messages = Vec::new();
    let mut before = None;
    for _ in 0..5 {
        fleet.step(4);
        let mut after = fleet.snapshot();
        after.version = "0.0.0";
        let update = before.map(|before| Update::between(&before, &after));
        messages.push(serde_json::json!({ "snapshot": &after, "update": update }));
        before = Some(after);
    }
    let lines = messages.iter().map(|message| message.to_string() + "\n");
    let text: String = lines.collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/page/messages.jsonl");
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(path, &text).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap();
    assert!(
        known == text,
        "the API has changed: see the comment of this test"
    );
}

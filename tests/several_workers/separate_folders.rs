//! Workers with separate folders: a later run without one of them warns before it downloads that
//! worker's classes again.

use std::{fs, path::PathBuf};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Coordinator, Job, Table},
    fleet::fixed_address,
    folders::classes,
    origin::Origin,
    running::{Finished, Running},
};

const CLASSES: [&str; 8] = [
    "n00000001",
    "n00000002",
    "n00000003",
    "n00000004",
    "n00000005",
    "n00000006",
    "n00000007",
    "n00000008",
];
/// The class that fails in the first run.
const MISSING: &str = "n00000009";

fn tar(wnid: &str) -> Vec<u8> {
    images(wnid, 5, 100..2000, 1)
}

/// A job after its first run, in which each of two workers has completed some of the classes.
struct Fixture {
    origin: Origin,
    job: Job,
}

impl Fixture {
    fn new() -> Self {
        let origin = Origin::start();
        for wnid in CLASSES {
            origin.class(wnid, tar(wnid));
        }
        // The first worker gets one class, whose transfer stalls until the second worker has
        // completed the rest.
        origin
            .script_of(CLASSES[0])
            .expect("the class is served")
            .script([Answer::stall_at(1000)]);
        let job = Job::new()
            .classes(CLASSES.into_iter().chain([MISSING]))
            .origin(&origin)
            .args(["--delete-tar"]);
        let fixture = Self { origin, job };
        let mut coordinator = fixture.job.start_coordinator();
        let first = fixture.worker("a", &coordinator, 1);
        coordinator
            .running
            .wait_until("the first worker has a class", |_| {
                (!fixture.origin.gets(CLASSES[0]).is_empty()).then_some(())
            });
        let second = fixture.worker("b", &coordinator, 1);
        coordinator
            .running
            .wait_until("the second worker has the rest", |_| {
                (classes(&fixture.disk("b")).len() == CLASSES.len() - 1).then_some(())
            });
        fixture.origin.end_stalls();
        fixture.assert_done(coordinator, [first, second], 1, Table::of(8, 0, 1));
        fixture.origin.forget_requests();
        fixture
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.job.folder().join(format!("disk-{name}"))
    }

    fn worker(&self, name: &str, coordinator: &Coordinator, slots: u32) -> Running {
        let target = self.disk(name);
        let url = format!("http://{}", coordinator.address);
        self.job.start_worker_at(&url, name, slots, &target)
    }

    #[track_caller]
    fn assert_done<const COUNT: usize>(
        &self,
        coordinator: Coordinator,
        workers: [Running; COUNT],
        code: i32,
        table: Table,
    ) -> Finished {
        for worker in workers {
            let finished = worker.wait();
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        }
        let ended = coordinator.running.wait();
        self.job.assert_ended(&ended, code, table);
        ended
    }

    /// Number of classes that were requested from the origin.
    fn downloaded(&self) -> usize {
        CLASSES
            .iter()
            .filter(|wnid| !self.origin.gets(wnid).is_empty())
            .count()
    }
}

#[test]
fn classes_of_an_absent_worker_are_downloaded_last_after_a_warning() {
    let fixture = Fixture::new();
    // A class that no worker has comes before the classes of the absent worker.
    fixture.origin.class(MISSING, tar(MISSING));
    let coordinator = fixture.job.start_coordinator();
    let worker = fixture.worker("a", &coordinator, 1);
    let ended = fixture.assert_done(coordinator, [worker], 0, Table::of(8, 1, 0));
    let message = "7 classes are complete on b, which has not joined: other workers download them \
                   again when nothing else is \
                left (start it now, or wait for it with --expect b)";
    assert!(ended.stderr.contains(message), "{}", ended.stderr);
    assert_eq!(fixture.downloaded(), 7);
    let first = &fixture.origin.all_requests()[0];
    assert_eq!(first.wnid, MISSING);
}

#[test]
fn an_expected_worker_is_waited_for_and_nothing_is_downloaded_twice() {
    let fixture = Fixture::new();
    fixture.origin.class(MISSING, tar(MISSING));
    let job = fixture.job.args(["--delete-tar", "--expect", "b,unknown"]);
    let fixture = Fixture { job, ..fixture };
    let mut coordinator = fixture.job.start_coordinator();
    let first = fixture.worker("a", &coordinator, 2);
    // Classes that no worker has do not wait.
    coordinator
        .running
        .wait_until("the first worker has completed the missing class", |_| {
            fixture.disk("a").join(MISSING).exists().then_some(())
        });
    let second = fixture.worker("b", &coordinator, 2);
    let ended = fixture.assert_done(coordinator, [first, second], 0, Table::of(1, 8, 0));
    assert_eq!(fixture.downloaded(), 0);
    for message in [
        "7 classes are complete on worker b, which is expected: other workers download them if it \
         has not joined in 10m",
        "the ledger knows no class that is complete on worker unknown, so none waits for it",
    ] {
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
    }
    assert!(
        !ended.stderr.contains("was expected and has not joined"),
        "{}",
        ended.stderr
    );
}

#[test]
fn classes_missing_or_damaged_on_a_joining_worker_are_downloaded_again() {
    for retry in [false, true] {
        let fixture = Fixture::new();
        fixture.origin.class(MISSING, tar(MISSING));
        let job = fixture.job.args(
            ["--delete-tar", "--retry-failed"]
                .into_iter()
                .take(if retry { 2 } else { 1 }),
        );
        let fixture = Fixture { job, ..fixture };
        let gone = fixture.disk("b").join(CLASSES[3]);
        fs::remove_dir_all(&gone).unwrap();
        let damaged = fixture.disk("b").join(CLASSES[4]);
        fs::remove_file(damaged.join(format!("{}_1.JPEG", CLASSES[4]))).unwrap();

        let coordinator = fixture.job.start_coordinator();
        let worker = fixture.worker("b", &coordinator, 1);
        // With --retry-failed the class of the absent worker counts as skipped; otherwise it is
        // downloaded again.
        let table = if retry {
            Table::of(3, 6, 0)
        } else {
            Table::of(4, 5, 0)
        };
        let ended = fixture.assert_done(coordinator, [worker], 0, table);
        let message = "2 classes are missing or damaged on worker b, where the ledger has them as \
                       complete: fetched again";
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
        for wnid in &CLASSES[1..] {
            assert_class_is(&tar(wnid), &fixture.disk("b").join(wnid));
        }
        assert_eq!(fixture.downloaded(), if retry { 2 } else { 3 });
        // The ledger has recorded it, so the next retry has nothing to do.
        if retry {
            let nothing = fixture.job.start_coordinator_at(fixed_address()).wait();
            fixture.job.assert_ended(&nothing, 0, Table::of(0, 9, 0));
            // The retry waits for no worker and prints that.
            let message = "the same command without --retry-failed has each worker look";
            assert!(nothing.stderr.contains(message), "{}", nothing.stderr);
        }
    }
}

#[test]
fn a_run_with_all_workers_prints_no_warning() {
    let fixture = Fixture::new();
    let coordinator = fixture.job.start_coordinator();
    let workers = ["a", "b"].map(|name| fixture.worker(name, &coordinator, 1));
    let ended = fixture.assert_done(coordinator, workers, 1, Table::of(0, 8, 1));
    assert_eq!(fixture.downloaded(), 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains("joined"), "{}", ended.stderr);
}

//! Workers with small disks and one class that would fill each of them: only that class fails.

mod fixture;

use std::{path::PathBuf, time::Duration};

use fixture::{Fixture, HOSTILE, fixture, fixture_after};
use tests::{
    answer::Answer,
    archives::{difference, images, streamed_images},
    cluster::Table,
    running::Running,
    wait::wait_for,
};
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_mins(1);

const TWO_DISKS: [&str; 2] = ["size=24m", "size=24m"];

#[test]
fn a_class_larger_than_every_disk_fails_alone_and_is_not_downloaded() {
    let Some(fixture) = fixture(24, &TWO_DISKS) else {
        return;
    };
    // 2 GiB.
    fixture
        .origin
        .class(HOSTILE, streamed_images(HOSTILE, 1024, 2 << 20, 9));
    let line = fixture.run(2);
    assert!(
        line.starts_with("StorageError: not enough space for this class; it needs 21"),
        "{line}"
    );
    assert!(
        line.contains("free some space, or start a worker with a larger disk"),
        "{line}"
    );
    let sent: u64 = fixture
        .origin
        .gets(HOSTILE)
        .iter()
        .map(|get| get.sent)
        .sum();
    assert!(
        sent < 16 << 20,
        "the class is not to be downloaded, but {sent} bytes were sent"
    );
}

#[test]
fn a_body_without_a_length_and_an_end_fails_alone_and_leaves_no_files() {
    for answer in [
        Answer::plain().without_length(),
        Answer::plain().chunked_without_end(),
    ] {
        let Some(fixture) = fixture(24, &TWO_DISKS) else {
            return;
        };
        let scripted = fixture
            .origin
            .class(HOSTILE, streamed_images(HOSTILE, 4096, 1 << 20, 9));
        scripted.forever(answer.without_validators());
        let line = fixture.run(2);
        assert!(
            line.starts_with(
                "StorageError: not enough space for this class; the origin does not say"
            ),
            "{line}"
        );
    }
}

#[test]
fn a_class_without_a_length_may_take_more_than_half_of_the_disk() {
    let Some(fixture) = fixture(4, &["size=24m"]) else {
        return;
    };
    let large = images(HOSTILE, 19, 900_000..1_000_000, 9);
    let scripted = fixture.origin.class(HOSTILE, large.clone());
    scripted.forever(Answer::plain().without_length().without_validators());
    let coordinator = fixture.job.start_coordinator();
    let target = fixture.targets().remove(0);
    let finished = fixture.job.start_worker("w1", &coordinator, &target).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    fixture
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(5, 0, 0));
    assert_eq!(difference(&large, &target.join(HOSTILE)), None);
}

/// A tar of 8 MB, whose files take 30 MB in blocks of the disk.
#[test]
fn a_class_that_takes_more_disk_space_than_its_length_fails_alone() {
    let Some(fixture) = fixture(24, &TWO_DISKS) else {
        return;
    };
    fixture
        .origin
        .class(HOSTILE, streamed_images(HOSTILE, 8000, 1, 9));
    let line = fixture.run(2);
    assert!(line.contains("the origin says that it has 8"), "{line}");
}

/// 10,000 files of 1 byte, on disks with 12,000 and with 3,000 inodes.
#[test]
fn a_class_of_more_files_than_a_disk_can_hold_fails_alone() {
    for options in ["size=96m,nr_inodes=12000", "size=96m,nr_inodes=3000"] {
        let Some(fixture) = fixture(24, &[options, options]) else {
            return;
        };
        let job = fixture.job.args(["--delete-tar", "--max-connections", "1"]);
        let fixture = Fixture { job, ..fixture };
        fixture
            .origin
            .class(HOSTILE, streamed_images(HOSTILE, 10_000, 1, 9));
        let line = fixture.run(2);
        assert!(
            line.starts_with("StorageError: not enough room for the files of this class; after "),
            "{line}"
        );
    }
}

#[test]
fn a_class_that_fits_on_one_disk_only_is_completed_there() {
    const BUSY: &str = "n00000000";
    let Some(fixture) = fixture_after(&[BUSY], 12, &["size=64m", "size=8m", "size=8m"]) else {
        return;
    };
    let [busy, large] =
        [(BUSY, 1), (HOSTILE, 20)].map(|(wnid, count)| images(wnid, count, 900_000..1_000_000, 9));
    fixture
        .origin
        .class(BUSY, busy.clone())
        .script([Answer::stall_at(1000)]);
    fixture.origin.class(HOSTILE, large.clone());
    let coordinator = fixture.job.start_coordinator();
    let targets = fixture.targets();
    let connect = format!("http://{}", coordinator.address);
    let start = |name, target: &PathBuf| fixture.job.start_worker_at(&connect, name, 1, target);
    // The only slot of the large disk is busy until both workers with small disks have tried the
    // class.
    let mut workers = vec![start("large", &targets[0])];
    wait_for("the slot of the large disk is busy", TIMEOUT, || {
        !fixture.origin.gets(BUSY).is_empty()
    });
    workers.push(start("small1", &targets[1]));
    workers.push(start("small2", &targets[2]));
    wait_for(
        "both workers with small disks have tried the class",
        TIMEOUT,
        || fixture.origin.gets(HOSTILE).len() == 2,
    );
    fixture.origin.end_stalls();
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    fixture
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(14, 0, 0));
    assert_eq!(difference(&large, &targets[0].join(HOSTILE)), None);
    assert_eq!(fixture.origin.gets(HOSTILE).len(), 3);
}

/// A stalled class of 14 MB has reserved most of a disk of 25 MB. Small classes follow, from which
/// the worker learns the usual size of a class, and then one of 12 MB.
#[test]
fn a_class_waits_for_space_that_another_class_has_reserved() {
    const STALLED: &str = "n00000000";
    const WAITING: &str = "n00000007";
    let Some(fixture) = fixture_after(&[STALLED], 7, &["size=24m"]) else {
        return;
    };
    let large = |wnid, count| images(wnid, count, 900_000..1_000_000, 9);
    let scripted = fixture.origin.class(STALLED, large(STALLED, 15));
    scripted
        .script([Answer::stall_at(1000)])
        .forever(Answer::status(404));
    fixture
        .origin
        .class(HOSTILE, images(HOSTILE, 10, 45_000..55_000, 9));
    let waiting_tar = large(WAITING, 12);
    fixture.origin.class(WAITING, waiting_tar.clone());
    // One slot and one connection are stalled; the other slot takes the classes in the order of the
    // list.
    let job = fixture
        .job
        .args(["--delete-tar", "--timeout", "5s", "--max-connections", "2"]);
    let coordinator = job.start_coordinator();
    let target = fixture.disks[0].path().join("images");
    std::fs::create_dir_all(&target).expect("the disk is ours");
    let connect = format!("http://{}", coordinator.address);
    let target = target.to_str().expect("a plain path");
    let finished = job
        .start_worker_with(["--connect", &connect, "--target", target, "--workers", "2"])
        .wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(8, 0, 1));
    assert!(
        job.failure_of(STALLED).contains("404"),
        "{:#?}",
        job.failures()
    );
    assert_eq!(
        difference(&waiting_tar, &std::path::Path::new(target).join(WAITING)),
        None
    );
}

/// Returns the time until all ordinary classes are complete. The hostile class has this answer;
/// `None` stands for an ordinary class in its place.
fn time_of_ordinary_classes(hostile: Option<Answer>) -> Option<Duration> {
    let fixture = fixture(120, &["size=96m", "size=96m"])?;
    // Each connection has its own rate limit, as at a real origin: 0.5 s for a class.
    fixture.origin.limit_rate(1_000_000);
    match hostile {
        Some(answer) => {
            let scripted = fixture
                .origin
                .class(HOSTILE, streamed_images(HOSTILE, 2048, 2 << 20, 9));
            scripted.forever(answer);
        }
        None => drop(
            fixture
                .origin
                .class(HOSTILE, images(HOSTILE, 10, 45_000..55_000, 7)),
        ),
    }
    let coordinator = fixture.job.start_coordinator();
    let targets = fixture.targets();
    let began = Instant::now();
    let workers: Vec<Running> = (1..)
        .zip(&targets)
        .map(|(number, target)| {
            fixture
                .job
                .start_worker(&format!("w{number}"), &coordinator, target)
        })
        .collect();
    let folders: Vec<Vec<PathBuf>> = fixture
        .tars
        .iter()
        .map(|(wnid, _)| targets.iter().map(|target| target.join(wnid)).collect())
        .collect();
    wait_for("all ordinary classes are complete", TIMEOUT, || {
        folders
            .iter()
            .all(|one| one.iter().any(|path| path.exists()))
    });
    let took = began.elapsed();
    drop(workers);
    Some(took)
}

/// To see its figures: `cargo test -p tests --test several_workers ordinary_classes_rate --
/// --nocapture`.
#[test]
fn the_ordinary_classes_rate_falls_by_at_most_a_tenth() {
    let hostile = [
        ("an announced length of 4 GiB", Answer::plain()),
        (
            "a body without a length or an end",
            Answer::plain().without_length().without_validators(),
        ),
    ];
    for (what, answer) in hostile {
        let mut losses = Vec::new();
        for _ in 0..4 {
            let Some(alone) = time_of_ordinary_classes(None) else {
                return;
            };
            let Some(beside) = time_of_ordinary_classes(Some(answer.clone())) else {
                return;
            };
            let loss = 1.0 - alone.as_secs_f64() / beside.as_secs_f64();
            println!(
                "{what}: {alone:.2?} without it, {beside:.2?} with it: rate lower by {:.1} %",
                loss * 100.0
            );
            losses.push(loss);
            if loss <= 0.1 {
                break;
            }
        }
        assert!(losses.iter().any(|loss| *loss <= 0.1), "{what}: {losses:?}");
    }
}

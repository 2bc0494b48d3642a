//! Workers with small disks and one class that would fill each of them: only that class fails.

use std::{path::PathBuf, time::Duration};

use tests::{
    answer::Answer,
    archives::{difference, images, streamed_images},
    cluster::{Job, Table},
    folders::assert_no_partial,
    mounts::{self, Mount},
    origin::Origin,
    running::Running,
    wait::wait_for,
};
use tokio::time::Instant;

/// The class that fits on no disk. It is the first in the list.
const HOSTILE: &str = "n99999999";
const TIMEOUT: Duration = Duration::from_mins(1);

/// Ordinary classes of 0.5 MB, a job with them, and one small disk for each worker.
struct Setting {
    origin: Origin,
    tars: Vec<(String, Vec<u8>)>,
    job: Job,
    disks: Vec<Mount>,
}

/// Prepares the setting. Without the right to mount a file system it prints that the test is
/// skipped and returns `None`.
fn setting(classes: u64, disks: &[&str]) -> Option<Setting> {
    setting_after(&[], classes, disks)
}

/// As [`setting`], with the classes `first` at the start of the list.
fn setting_after(first: &[&str], classes: u64, disks: &[&str]) -> Option<Setting> {
    let disks: Option<Vec<Mount>> = disks.iter().map(|size| Mount::memory(size)).collect();
    let Some(disks) = disks else {
        mounts::skipped();
        return None;
    };
    let origin = Origin::start();
    let wnids = (1..=classes).map(|number| (number, format!("n{number:08}")));
    let tars: Vec<_> = wnids
        .map(|(number, wnid)| (wnid.clone(), images(&wnid, 10, 45_000..55_000, number)))
        .collect();
    for (wnid, tar) in &tars {
        origin.class(wnid, tar.clone());
    }
    let listed = first
        .iter()
        .copied()
        .chain([HOSTILE])
        .chain(tars.iter().map(|(wnid, _)| wnid.as_str()));
    let job = Job::new()
        .classes(listed)
        .origin(&origin)
        .args(["--delete-tar"])
        .deadline(Duration::from_mins(2));
    Some(Setting {
        origin,
        tars,
        job,
        disks,
    })
}

impl Setting {
    fn targets(&self) -> Vec<PathBuf> {
        let targets: Vec<PathBuf> = self
            .disks
            .iter()
            .map(|disk| disk.path().join("images"))
            .collect();
        for target in &targets {
            std::fs::create_dir_all(target).expect("the disk is ours");
        }
        targets
    }

    /// Whether a class is on any disk. Panics if a copy of it is incomplete.
    fn is_complete(&self, wnid: &str, tar: &[u8]) -> bool {
        let folders = self.targets().into_iter().map(|target| target.join(wnid));
        let found: Vec<PathBuf> = folders.filter(|folder| folder.exists()).collect();
        for folder in &found {
            assert_eq!(difference(tar, folder), None, "{wnid}");
        }
        !found.is_empty()
    }

    /// Runs the job and panics unless all ordinary classes are complete, each worker ends without
    /// an error, and only the hostile class has failed, after at most `requests` requests. Returns
    /// its line of the failure log.
    #[track_caller]
    fn run(&self, requests: usize) -> String {
        let coordinator = self.job.start_coordinator();
        let targets = self.targets();
        let workers: Vec<Running> = (1..)
            .zip(&targets)
            .map(|(number, target)| {
                self.job
                    .start_worker(&format!("w{number}"), &coordinator, target)
            })
            .collect();
        for worker in workers {
            let finished = worker.wait();
            assert_eq!(
                finished.code,
                Some(0),
                "a worker ended with an error: {}",
                finished.stderr
            );
        }
        self.job.assert_ended(
            &coordinator.running.wait(),
            1,
            Table::of(self.tars.len() as u64, 0, 1),
        );
        for (wnid, tar) in &self.tars {
            assert!(self.is_complete(wnid, tar), "{wnid} is on no disk");
        }
        for target in &targets {
            assert_no_partial(target);
        }
        let sent_requests = self.origin.gets(HOSTILE).len();
        assert!(
            (1..=requests).contains(&sent_requests),
            "{sent_requests} requests for the class that does not fit"
        );
        assert_eq!(self.job.failures().len(), 1, "{:#?}", self.job.failures());
        self.job.failure_of(HOSTILE)
    }
}

const TWO_DISKS: [&str; 2] = ["size=24m", "size=24m"];

#[test]
fn a_class_larger_than_every_disk_fails_alone_and_is_not_downloaded() {
    let Some(setting) = setting(24, &TWO_DISKS) else {
        return;
    };
    // 2 GiB.
    setting
        .origin
        .class(HOSTILE, streamed_images(HOSTILE, 1024, 2 << 20, 9));
    let line = setting.run(2);
    assert!(
        line.starts_with("StorageError: not enough space for this class; it needs 21"),
        "{line}"
    );
    assert!(
        line.contains("free some space, or start a worker with a larger disk"),
        "{line}"
    );
    let sent: u64 = setting
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
        let Some(setting) = setting(24, &TWO_DISKS) else {
            return;
        };
        let scripted = setting
            .origin
            .class(HOSTILE, streamed_images(HOSTILE, 4096, 1 << 20, 9));
        scripted.forever(answer.without_validators());
        let line = setting.run(2);
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
    let Some(setting) = setting(4, &["size=24m"]) else {
        return;
    };
    let large = images(HOSTILE, 19, 900_000..1_000_000, 9);
    let scripted = setting.origin.class(HOSTILE, large.clone());
    scripted.forever(Answer::plain().without_length().without_validators());
    let coordinator = setting.job.start_coordinator();
    let target = setting.targets().remove(0);
    let finished = setting.job.start_worker("w1", &coordinator, &target).wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    setting
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(5, 0, 0));
    assert_eq!(difference(&large, &target.join(HOSTILE)), None);
}

/// A tar of 8 MB, whose files take 30 MB in blocks of the disk.
#[test]
fn a_class_that_takes_more_disk_space_than_its_length_fails_alone() {
    let Some(setting) = setting(24, &TWO_DISKS) else {
        return;
    };
    setting
        .origin
        .class(HOSTILE, streamed_images(HOSTILE, 8000, 1, 9));
    let line = setting.run(2);
    assert!(line.contains("the origin says that it has 8"), "{line}");
}

/// 10,000 files of 1 byte, on disks with 12,000 and with 3,000 inodes.
#[test]
fn a_class_of_more_files_than_a_disk_can_hold_fails_alone() {
    for options in ["size=96m,nr_inodes=12000", "size=96m,nr_inodes=3000"] {
        let Some(setting) = setting(24, &[options, options]) else {
            return;
        };
        let job = setting.job.args(["--delete-tar", "--max-connections", "1"]);
        let setting = Setting { job, ..setting };
        setting
            .origin
            .class(HOSTILE, streamed_images(HOSTILE, 10_000, 1, 9));
        let line = setting.run(2);
        assert!(
            line.starts_with("StorageError: not enough room for the files of this class; after "),
            "{line}"
        );
    }
}

#[test]
fn a_class_that_fits_on_one_disk_only_is_completed_there() {
    const BUSY: &str = "n00000000";
    let Some(setting) = setting_after(&[BUSY], 12, &["size=64m", "size=8m", "size=8m"]) else {
        return;
    };
    let [busy, large] =
        [(BUSY, 1), (HOSTILE, 20)].map(|(wnid, count)| images(wnid, count, 900_000..1_000_000, 9));
    setting
        .origin
        .class(BUSY, busy.clone())
        .script([Answer::stall_at(1000)]);
    setting.origin.class(HOSTILE, large.clone());
    let coordinator = setting.job.start_coordinator();
    let targets = setting.targets();
    let start = |name: &str, slots: &str, target: &PathBuf| {
        let connect = format!("http://{}", coordinator.address);
        let target = target.to_str().expect("a plain path");
        let words = [
            "--connect",
            &connect,
            "--name",
            name,
            "--workers",
            slots,
            "--target",
            target,
        ];
        setting.job.start_worker_with(words)
    };
    // The only slot of the large disk is busy until both workers with small disks have tried the
    // class.
    let mut workers = vec![start("large", "1", &targets[0])];
    wait_for("the slot of the large disk is busy", TIMEOUT, || {
        !setting.origin.gets(BUSY).is_empty()
    });
    workers.push(start("small1", "1", &targets[1]));
    workers.push(start("small2", "1", &targets[2]));
    wait_for(
        "both workers with small disks have tried the class",
        TIMEOUT,
        || setting.origin.gets(HOSTILE).len() == 2,
    );
    setting.origin.end_stalls();
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    setting
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(14, 0, 0));
    assert_eq!(difference(&large, &targets[0].join(HOSTILE)), None);
    assert_eq!(setting.origin.gets(HOSTILE).len(), 3);
}

/// A stalled class of 14 MB has reserved most of a disk of 25 MB. Small classes follow, from which
/// the worker learns the usual size of a class, and then one of 12 MB.
#[test]
fn a_class_waits_for_space_that_another_class_has_reserved() {
    const STALLED: &str = "n00000000";
    const WAITING: &str = "n00000007";
    let Some(setting) = setting_after(&[STALLED], 7, &["size=24m"]) else {
        return;
    };
    let large = |wnid, count| images(wnid, count, 900_000..1_000_000, 9);
    let scripted = setting.origin.class(STALLED, large(STALLED, 15));
    scripted
        .script([Answer::stall_at(1000)])
        .forever(Answer::status(404));
    setting
        .origin
        .class(HOSTILE, images(HOSTILE, 10, 45_000..55_000, 9));
    let waiting_tar = large(WAITING, 12);
    setting.origin.class(WAITING, waiting_tar.clone());
    // One slot and one connection are stalled; the other slot takes the classes in the order of the
    // list.
    let job = setting
        .job
        .args(["--delete-tar", "--timeout", "5s", "--max-connections", "2"]);
    let coordinator = job.start_coordinator();
    let target = setting.disks[0].path().join("images");
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
    let setting = setting(120, &["size=96m", "size=96m"])?;
    // Each connection has its own rate limit, as at a real origin: 0.5 s for a class.
    setting.origin.limit_rate(1_000_000);
    match hostile {
        Some(answer) => {
            let scripted = setting
                .origin
                .class(HOSTILE, streamed_images(HOSTILE, 2048, 2 << 20, 9));
            scripted.forever(answer);
        }
        None => drop(
            setting
                .origin
                .class(HOSTILE, images(HOSTILE, 10, 45_000..55_000, 7)),
        ),
    }
    let coordinator = setting.job.start_coordinator();
    let targets = setting.targets();
    let began = Instant::now();
    let workers: Vec<Running> = (1..)
        .zip(&targets)
        .map(|(number, target)| {
            setting
                .job
                .start_worker(&format!("w{number}"), &coordinator, target)
        })
        .collect();
    let folders: Vec<Vec<PathBuf>> = setting
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

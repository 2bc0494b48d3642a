//! Workers that are killed, stopped (SIGSTOP), signalled twice, or starved of CPU time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    origin::Origin,
    running::Signal,
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

const WNID: &str = "n00000001";

fn fixture() -> (Origin, Vec<u8>) {
    let origin = Origin::start();
    let tar = images(WNID, 100, 10_000..20_000, 1);
    origin.class(WNID, tar.clone());
    (origin, tar)
}

fn in_progress(origin: &Origin) -> bool {
    origin
        .gets(WNID)
        .first()
        .is_some_and(|get| get.sent >= 500_000)
}

#[test]
fn a_restarted_worker_has_its_classes_again_long_before_its_leases_expire() {
    let (origin, tar) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(600_000)]);
    let job =
        Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(["--delete-tar", "--lease-ttl", "5m"]);
    let coordinator = job.start_coordinator();
    let first = job.start_worker("w", &coordinator, job.target_path());
    wait_for("the class is in progress", Duration::from_secs(20), || {
        in_progress(&origin)
    });
    first.kill();
    let begun = Instant::now();
    let second = job.start_worker("w", &coordinator, job.target_path());
    wait_for("it resumes the class", Duration::from_secs(10), || {
        origin.gets(WNID).len() > 1
    });
    let took = begun.elapsed();
    assert_eq!(second.wait().code, Some(0), "{took:?}");
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    origin.end_stalls();
}

/// Five sixths of the lease, like 25 s of 30 s.
#[test]
fn a_worker_that_is_stopped_for_less_than_its_lease_loses_nothing() {
    let (origin, tar) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(600_000)]);
    let job =
        Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(["--delete-tar", "--lease-ttl", "6s"]);
    let coordinator = job.start_coordinator();
    let sleeper = job.start_worker("sleeper", &coordinator, job.target_path());
    wait_for("the class is in progress", Duration::from_secs(20), || {
        in_progress(&origin)
    });
    let other = job.start_worker("other", &coordinator, job.target_path());
    sleeper.signal(Signal::STOP);
    let taken = wait_until(Duration::from_secs(5), || {
        (origin.gets(WNID).len() > 1).then_some(())
    });
    assert!(taken.is_none(), "the class was granted to another worker");
    sleeper.signal(Signal::CONT);
    origin.end_stalls();
    for worker in [sleeper, other] {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    let sent = origin.bytes_sent();
    let length = tar.len() as u64;
    assert!(
        sent <= length + length / 10,
        "{sent} bytes were sent of {length}"
    );
}

#[test]
fn two_signals_end_a_worker_at_once_and_another_one_resumes_its_class() {
    let (origin, tar) = fixture();
    origin
        .script_of(WNID)
        .expect("the class is served")
        .script([Answer::stall_at(600_000)]);
    let job =
        Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(["--delete-tar", "--lease-ttl", "5m"]);
    let coordinator = job.start_coordinator();
    let first = job.start_worker("first", &coordinator, job.target_path());
    wait_for("the class is in progress", Duration::from_secs(20), || {
        in_progress(&origin)
    });
    first.signal(Signal::TERM);
    first.signal(Signal::TERM);
    let finished = first.wait();
    assert_eq!(finished.code, Some(143), "{}", finished.stderr);
    assert!(!job.class_folder(WNID).exists());
    let second = job.start_worker("second", &coordinator, job.target_path());
    assert_eq!(second.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    origin.end_stalls();
}

#[test]
fn a_starved_worker_renews_in_time() {
    let (origin, tar) = fixture();
    // The class takes about six seconds.
    origin.limit_rate(tar.len() as u64 / 6);
    let job =
        Job::new()
            .classes([WNID])
            .origin(&origin)
            .args(["--delete-tar", "--lease-ttl", "3s"]);
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("w", &coordinator, job.target_path());
    wait_for("the class is in progress", Duration::from_secs(20), || {
        !origin.gets(WNID).is_empty()
    });
    let over = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let finished = worker.wait();
        over.store(true, Ordering::Relaxed);
        finished
    });
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for trouble in ["could not be renewed", "no renewal was answered in time"] {
        assert!(!finished.stderr.contains(trouble), "{}", finished.stderr);
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
    assert_class_is(&tar, &job.class_folder(WNID));
    assert_eq!(origin.gets(WNID).len(), 1);
}

//! A second signal ends both programs within a second, regardless of what their threads wait for.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use tests::{
    answer::Answer,
    archives::{MANIFEST, assert_class_is, images},
    cluster::Job,
    folders::holds,
    hanging_log::{HangingLog, HangingOpen},
    origin::Origin,
    running::{Running, Signal},
    wait::wait_until,
};
use tokio::time::Instant;

const WNID: &str = "n00000001";
/// The promised second, and a margin for a busy machine.
const A_SECOND: Duration = Duration::from_millis(1500);
/// Two signals in quick succession may be merged into one, so the second one is sent repeatedly at
/// this interval.
const RESEND_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the process's thread for signals waits for SIGINT and SIGTERM. Only while it waits for
/// them are they not blocked in it (sigwait(3)). If both arrived earlier, the kernel would deliver
/// the one with the lower number first.
fn receives_signals(running: &Running) -> Option<()> {
    let threads = fs::read_dir(format!("/proc/{}/task", running.id())).ok()?;
    let mut statuses = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let status = statuses.find(|status| status.starts_with("Name:\tsignals\n"))?;
    let blocked = status
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:"))?;
    let blocked = u64::from_str_radix(blocked.trim(), 16).ok()?;
    [Signal::INT, Signal::TERM]
        .iter()
        .all(|signal| blocked & 1 << (signal.as_raw() - 1) == 0)
        .then_some(())
}

/// Sends a first signal and then the second one.
#[track_caller]
fn assert_ends_within_a_second(mut running: Running, signals: [Signal; 2], code: i32) {
    running.wait_until("it receives signals", receives_signals);
    running.signal(signals[0]);
    let first_signal = Instant::now();
    while wait_until(RESEND_INTERVAL, || (!running.is_running()).then_some(())).is_none() {
        assert!(
            first_signal.elapsed() < Duration::from_secs(20),
            "it does not end"
        );
        running.signal(signals[1]);
    }
    let took = first_signal.elapsed();
    let finished = running.wait();
    assert_eq!(finished.code, Some(code), "{}", finished.stderr);
    assert!(took < A_SECOND, "it took {took:?}");
}

fn worker_of(job: &Job, address: &str) -> Running {
    let target = job.target_path().to_str().expect("a plain path");
    job.start_worker_with(["--connect", address, "--name", "w", "--target", target])
}

/// Every class is cut repeatedly, so log lines are written all the time.
fn cut_again_and_again(origin: &Origin) -> Job {
    let wnids: Vec<String> = (1..=8).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        let tar = images(wnid, 4, 1000..2000, 1);
        let cut = Answer::body(tar[..2048].to_vec()).without_length();
        origin.class(wnid, tar).forever(cut);
    }
    Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(origin)
        .args(["--delete-tar", "--retries", "30"])
}

#[track_caller]
fn wait_for_cuts(running: &mut Running, origin: &Origin) {
    running.wait_until("classes are cut", |_| {
        (origin.all_requests().len() > 10).then_some(())
    });
}

#[test]
fn while_the_log_is_opened() {
    let origin = Origin::start();
    let job = Job::new().classes([WNID]).origin(&origin);
    let log = |name: &str| HangingOpen::put_at(&job.target_path().join(name));
    let Some(_hanging) = log("imagenet_downloader.w.log") else {
        return println!(
            "skipped: a user who may make the kernel ask for permissions (fanotify) is needed"
        );
    };
    assert_ends_within_a_second(
        worker_of(&job, "http://127.0.0.1:1"),
        [Signal::INT, Signal::INT],
        130,
    );
    let _hanging = log("imagenet_downloader.log");
    assert_ends_within_a_second(job.start(), [Signal::TERM, Signal::INT], 143);
}

#[test]
fn while_writes_to_the_log_block() {
    let origin = Origin::start();
    let job = cut_again_and_again(&origin);
    let mut log = HangingLog::put_at(&job.target_path().join("imagenet_downloader.log"));
    let mut running = job.start();
    wait_for_cuts(&mut running, &origin);
    log.hang();
    assert_ends_within_a_second(running, [Signal::TERM, Signal::TERM], 143);
}

#[test]
fn while_writes_to_a_workers_log_block() {
    let origin = Origin::start();
    let job = cut_again_and_again(&origin);
    let coordinator = job.start_coordinator();
    let mut log = HangingLog::put_at(&job.target_path().join("imagenet_downloader.w.log"));
    let mut worker = worker_of(&job, &format!("http://{}", coordinator.address));
    wait_for_cuts(&mut worker, &origin);
    log.hang();
    assert_ends_within_a_second(worker, [Signal::INT, Signal::TERM], 130);
}

#[test]
fn while_a_coordinator_does_not_answer_the_registration() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let job = Job::new();
    let mut worker = worker_of(
        &job,
        &format!(
            "http://{}",
            silent.local_addr().expect("the listener is bound")
        ),
    );
    worker.wait_until("it connects", |_| silent.accept().ok());
    assert_ends_within_a_second(worker, [Signal::INT, Signal::INT], 130);
}

#[test]
fn while_a_coordinator_does_not_answer_that_the_worker_leaves() {
    let origin = Origin::start();
    origin
        .class(WNID, images(WNID, 20, 10_000..20_000, 1))
        .script([Answer::stall_at(100_000)]);
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .args(["--lease-ttl", "5m"]);
    let coordinator = job.start_coordinator();
    let mut worker = worker_of(&job, &format!("http://{}", coordinator.address));
    worker.wait_until("the class is in progress", |_| {
        origin
            .gets(WNID)
            .first()
            .filter(|get| get.sent > 0)
            .map(drop)
    });
    coordinator.running.signal(Signal::STOP);
    assert_ends_within_a_second(worker, [Signal::TERM, Signal::TERM], 143);
    coordinator.running.signal(Signal::CONT);
    origin.end_stalls();
}

/// In memory: on a disk, a thread may wait in the kernel for a sync of other processes' data, which
/// no signal ends.
#[test]
fn while_a_class_of_many_files_is_published() {
    let memory = Path::new("/dev/shm");
    let folder = tempfile::Builder::new()
        .prefix("imagenet-target-")
        .tempdir_in(memory);
    let Ok(folder) = folder else {
        return println!("skipped: there is no {}", memory.display());
    };
    let origin = Origin::start();
    let tar = images(WNID, 3000, 500..1500, 1);
    origin.class(WNID, tar.clone());
    let job = Job::new()
        .classes([WNID])
        .origin(&origin)
        .target(folder.path().join("target"));
    let mut running = job.start();
    let length = tar.len() as u64;
    running.wait_until("the manifest is written", |_| {
        holds(folder.path(), MANIFEST).then_some(())
    });
    running.signal(Signal::TERM);
    running.signal(Signal::INT);
    let first_signal = Instant::now();
    let finished = running.wait();
    let took = first_signal.elapsed();
    assert!(took < A_SECOND, "it took {took:?}");
    assert!(matches!(finished.code, Some(0 | 130 | 143)), "{finished:?}");
    assert_eq!(job.run().code, Some(0));
    assert_class_is(&tar, &job.class_folder(WNID));
    assert!(
        origin.bytes_sent() <= length + length / 10,
        "{} of {length} bytes",
        origin.bytes_sent()
    );
}

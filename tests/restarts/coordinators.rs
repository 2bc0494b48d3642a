//! A coordinator that is killed or stopped and restarted with the same command: its workers keep
//! running, continue their classes and deliver their results.

use std::time::Duration;

use tests::{
    chaos_proxy::{ChaosProxy, Direction},
    cluster::Table,
    fleet::Fleet,
    log::lines_with,
    running::Signal,
};
use tokio::time::Instant;

use crate::{
    SHORT_LEASE, TIMEOUT, assert_nothing_lost_or_repeated, fleet, let_pass, wait_for_class,
    wait_for_result, wnid,
};

#[test]
fn workers_finish_without_the_coordinator_and_report_when_it_returns() {
    let fleet = fleet(6, 200_000);
    let coordinator = fleet.start_coordinator();
    let workers = ["left", "right"].map(|name| fleet.start_worker(name, 2));
    for class in [1, 2, 3, 4].map(wnid) {
        fleet.wait_for_gets(&class, 1, TIMEOUT);
    }
    coordinator.kill();
    for class in [1, 2, 3, 4].map(wnid) {
        wait_for_class(&fleet, &class);
    }
    // Long enough for several failed attempts.
    let_pass(Duration::from_secs(3));
    let back = Instant::now();
    let coordinator = fleet.start_coordinator();
    for class in [1, 2, 3, 4].map(wnid) {
        wait_for_result(&fleet, &class);
    }
    println!(
        "results from the coordinator's absence were delivered {:.1?} after its return",
        back.elapsed()
    );
    assert_nothing_lost_or_repeated(&fleet, coordinator, workers);
}

/// The leases are so long that the workers report under their former sessions before they register
/// again.
#[test]
fn the_ledger_names_the_worker_of_a_class_finished_without_the_coordinator() {
    let mut fleet = Fleet::new(3, 25, 15_000..25_000, &["--lease-ttl", "90s"]);
    fleet.origin.limit_rate(200_000);
    let coordinator = fleet.start_coordinator();
    let worker = fleet.start_worker("gone", 3);
    for class in [1, 2, 3].map(wnid) {
        fleet.wait_for_gets(&class, 1, TIMEOUT);
    }
    coordinator.kill();
    for class in [1, 2, 3].map(wnid) {
        wait_for_class(&fleet, &class);
    }
    let coordinator = fleet.start_coordinator();
    fleet.assert_done(coordinator, [worker], Table::of(3, 0, 0));
    fleet.job = fleet.job.args(["--delete-tar", "--expect", "gone"]);
    let mut later = fleet.start_coordinator();
    later.wait_until("it has processed the worker's report", |it| {
        it.stderr()
            .contains("3 classes are complete on worker gone, which is expected")
            .then_some(())
    });
    later.kill();
}

/// The coordinator dies after the result is durable and before it is acknowledged, or before it is
/// durable.
#[test]
fn a_result_that_was_not_acknowledged_is_delivered_again_and_counted_once() {
    for lost in [Direction::ToServer, Direction::ToClient] {
        let fleet = fleet(2, 400_000);
        let proxy = ChaosProxy::start(fleet.address());
        let coordinator = fleet.start_coordinator();
        let worker = fleet.start_worker_at(&proxy.url(), "worker", 1);
        fleet.wait_for_gets(&wnid(1), 1, TIMEOUT);
        proxy.block(lost, true);
        wait_for_class(&fleet, &wnid(1));
        if lost == Direction::ToClient {
            wait_for_result(&fleet, &wnid(1));
        }
        coordinator.kill();
        proxy.cut();
        proxy.block(lost, false);
        let coordinator = fleet.start_coordinator();
        assert_nothing_lost_or_repeated(&fleet, coordinator, [worker]);
    }
}

/// Grants are not durable: the worker reports its leases, and the coordinator grants those classes
/// to no other worker meanwhile.
#[test]
fn classes_granted_just_before_a_kill_stay_with_their_worker() {
    let fleet = fleet(3, 60_000);
    let coordinator = fleet.start_coordinator();
    let busy = fleet.start_worker("busy", 3);
    for class in [1, 2, 3].map(wnid) {
        fleet.wait_for_gets(&class, 1, TIMEOUT);
    }
    let greedy = fleet.start_worker("greedy", 3);
    coordinator.kill();
    let coordinator = fleet.start_coordinator();
    assert_nothing_lost_or_repeated(&fleet, coordinator, [busy, greedy]);
}

/// Takes 15 s: the recovery window, in which workers may return.
#[test]
fn the_class_of_a_worker_that_died_meanwhile_is_reassigned_when_the_window_ends() {
    let fleet = fleet(2, 100_000);
    let coordinator = fleet.start_coordinator();
    let dead = fleet.start_worker("dead", 1);
    fleet.wait_for_gets(&wnid(1), 1, TIMEOUT);
    coordinator.kill();
    dead.kill();
    let back = Instant::now();
    let coordinator = fleet.start_coordinator();
    let heir = fleet.start_worker("heir", 2);
    fleet.wait_for_gets(&wnid(1), 2, TIMEOUT);
    let took = back.elapsed();
    println!(
        "the class of a worker that died with the coordinator was in progress on another one after \
         {took:.1?}"
    );
    fleet.assert_done(coordinator, [heir], Table::of(2, 0, 0));
}

/// One of five workers is dead. With this lease, waiting for it takes longer than the test.
#[test]
fn classes_that_were_never_granted_do_not_wait_for_a_worker_that_died_meanwhile() {
    // So few that the coordinator does not begin with a sample of the list.
    let fleet = Fleet::new(19, 2, 10_000..15_000, &["--lease-ttl", "90s"]);
    fleet.origin.limit_rate(20_000);
    let coordinator = fleet.start_coordinator();
    let dead = fleet.start_worker("dead", 1);
    fleet.wait_for_gets(&wnid(1), 1, TIMEOUT);
    let mut workers = vec![fleet.start_worker("w1", 1)];
    fleet.wait_for_gets(&wnid(2), 1, TIMEOUT);
    workers.extend(["w2", "w3", "w4"].map(|name| fleet.start_worker(name, 1)));
    for class in [3, 4, 5].map(wnid) {
        fleet.wait_for_gets(&class, 1, TIMEOUT);
    }
    coordinator.kill();
    dead.kill();
    let mut coordinator = fleet.start_coordinator();
    let back = Instant::now();
    fleet.wait_for_gets(&wnid(19), 1, TIMEOUT);
    println!(
        "the last class of the list was requested {:.1?} after the restart",
        back.elapsed()
    );
    assert_eq!(
        fleet.gets(&wnid(1)),
        1,
        "the dead worker may hold the class"
    );
    assert!(!fleet.settled().contains_key(&wnid(1)));
    coordinator.wait_until("it logs the missing worker", |it| {
        let waits = it
            .stderr()
            .contains("classes that were granted before the restart wait for ");
        (waits && it.stderr().contains("dead")).then_some(())
    });
    // A worker with this name registers, so the coordinator waits for no other.
    workers.push(fleet.start_worker("dead", 1));
    fleet.assert_done(coordinator, workers, Table::of(19, 0, 0));
}

#[test]
fn a_stopped_coordinator_ends_soon_and_its_workers_wait_with_few_log_lines() {
    let fleet = fleet(6, 200_000);
    let mut coordinator = fleet.start_coordinator();
    let workers = ["left", "right"].map(|name| fleet.start_worker(name, 1));
    coordinator.wait_until("a class is complete", |_| {
        fleet.job.class_folder(&wnid(1)).exists().then_some(())
    });
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.wait().code, Some(143));
    let_pass(Duration::from_secs(4));
    let coordinator = fleet.start_coordinator();
    let complaints =
        |text: &str| lines_with(text, &["WARN"]).len() + lines_with(text, &["ERROR"]).len();
    let finished = workers.map(tests::running::Running::wait);
    for worker in &finished {
        assert_eq!(worker.code, Some(0), "{}", worker.stderr);
        assert!(
            complaints(&worker.stderr) <= 6,
            "more messages than expected in four seconds: {}",
            worker.stderr
        );
    }
    assert_nothing_lost_or_repeated(&fleet, coordinator, []);
}

/// Without workers it logs that and uses no CPU time.
#[test]
fn without_workers_the_coordinator_waits_without_using_cpu_time() {
    let fleet = Fleet::new(1, 3, 1000..9000, &SHORT_LEASE);
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_until("the coordinator listens", |_| {
        std::net::TcpStream::connect(fleet.address())
            .is_ok()
            .then_some(())
    });
    // The rest of its start.
    let_pass(Duration::from_secs(2));
    let before = ticks(coordinator.id());
    let_pass(Duration::from_secs(5));
    let spent = ticks(coordinator.id()) - before;
    println!("five seconds without a worker: {spent} hundredths of a second of computing");
    assert!(spent <= 10, "{spent} hundredths of a second in five");
    assert_nothing_lost_or_repeated(&fleet, coordinator, [fleet.start_worker("late", 1)]);
}

/// CPU time of a process, in hundredths of a second.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    [11, 12]
        .iter()
        .map(|field: &usize| fields[*field].parse::<u64>().expect("a number"))
        .sum()
}

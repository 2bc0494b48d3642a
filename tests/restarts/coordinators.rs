//! A coordinator that is killed, or told to end, and started again with the same command: its workers stay, go on, and deliver.

use std::time::Duration;

use tests::{
    chaos_proxy::{ChaosProxy, Way},
    cluster::Table,
    fleet::Fleet,
    running::Signal,
};
use tokio::time::Instant;

use crate::{
    LONG, SHORT_LEASE, TAKEN_OVER, assert_done_without_a_trace, fleet, let_pass, wait_for_class, wait_for_result, wnid,
};

#[test]
fn workers_finish_while_it_is_away_and_deliver_when_it_is_back() {
    let fleet = fleet(6, 200_000);
    let coordinator = fleet.start_coordinator();
    let workers = ["left", "right"].map(|name| fleet.start_worker(name, 2));
    for class in [1, 2, 3, 4].map(wnid) {
        fleet.wait_for_gets(&class, 1, LONG);
    }
    coordinator.kill();
    for class in [1, 2, 3, 4].map(wnid) {
        wait_for_class(&fleet, &class);
    }
    // Long enough that they have tried in vain more than once.
    let_pass(Duration::from_secs(3));
    let back = Instant::now();
    let coordinator = fleet.start_coordinator();
    for class in [1, 2, 3, 4].map(wnid) {
        wait_for_result(&fleet, &class);
    }
    println!("what was finished while the coordinator was away was delivered {:.1?} after its return", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(35), "{:?}", back.elapsed());
    assert_done_without_a_trace(&fleet, coordinator, workers);
}

/// The leases are so long that the workers report under their former sessions before they register again.
#[test]
fn the_ledger_names_the_worker_of_what_was_finished_while_it_was_away() {
    let mut fleet = Fleet::new(3, 25, 15_000..25_000, &["--lease-ttl", "90s"]);
    fleet.origin.limit_rate(200_000);
    let coordinator = fleet.start_coordinator();
    let worker = fleet.start_worker("gone", 3);
    for class in [1, 2, 3].map(wnid) {
        fleet.wait_for_gets(&class, 1, LONG);
    }
    coordinator.kill();
    for class in [1, 2, 3].map(wnid) {
        wait_for_class(&fleet, &class);
    }
    let coordinator = fleet.start_coordinator();
    fleet.assert_done(coordinator, [worker], Table::of(3, 0, 0));
    fleet.job = fleet.job.args(["--delete-tar", "--expect", "gone"]);
    let mut later = fleet.start_coordinator();
    later.wait_until("it knows what the worker has", |it| {
        it.stderr().contains("3 classes are complete on worker gone, which is expected").then_some(())
    });
    later.kill();
}

/// It died after the result was durable and before anybody was told so, or before that.
#[test]
fn a_result_that_was_not_acknowledged_is_delivered_again_and_counted_once() {
    for lost in [Way::ToServer, Way::ToClient] {
        let fleet = fleet(2, 400_000);
        let proxy = ChaosProxy::start(fleet.address());
        let coordinator = fleet.start_coordinator();
        let worker = fleet.start_worker_at(&proxy.url(), "worker", 1);
        fleet.wait_for_gets(&wnid(1), 1, LONG);
        proxy.darken(lost, true);
        wait_for_class(&fleet, &wnid(1));
        if lost == Way::ToClient {
            wait_for_result(&fleet, &wnid(1));
        }
        coordinator.kill();
        proxy.cut();
        proxy.darken(lost, false);
        let coordinator = fleet.start_coordinator();
        assert_done_without_a_trace(&fleet, coordinator, [worker]);
    }
}

/// Grants are not durable: the worker says what it holds, and nobody else gets it meanwhile.
#[test]
fn classes_that_were_granted_just_before_stay_with_their_worker() {
    let fleet = fleet(3, 60_000);
    let coordinator = fleet.start_coordinator();
    let busy = fleet.start_worker("busy", 3);
    for class in [1, 2, 3].map(wnid) {
        fleet.wait_for_gets(&class, 1, LONG);
    }
    let greedy = fleet.start_worker("greedy", 3);
    coordinator.kill();
    let coordinator = fleet.start_coordinator();
    assert_done_without_a_trace(&fleet, coordinator, [busy, greedy]);
}

/// Takes a quarter of a minute: the window in which a worker may come back.
#[test]
fn the_class_of_a_worker_that_died_meanwhile_goes_to_another_when_the_window_ends() {
    let fleet = fleet(2, 100_000);
    let coordinator = fleet.start_coordinator();
    let dead = fleet.start_worker("dead", 1);
    fleet.wait_for_gets(&wnid(1), 1, LONG);
    coordinator.kill();
    dead.kill();
    let back = Instant::now();
    let coordinator = fleet.start_coordinator();
    let heir = fleet.start_worker("heir", 2);
    fleet.wait_for_gets(&wnid(1), 2, LONG);
    let took = back.elapsed();
    println!("the class of a worker that died with the coordinator was under way elsewhere after {took:.1?}");
    assert!(took <= TAKEN_OVER, "{took:?}");
    fleet.assert_done(coordinator, [heir], Table::of(2, 0, 0));
}

/// One worker of five is dead. With this lease the wait for it takes longer than the test.
#[test]
fn classes_that_were_never_granted_do_not_wait_for_a_worker_that_died_meanwhile() {
    // So few that no sample of the list is asked for first.
    let fleet = Fleet::new(19, 2, 10_000..15_000, &["--lease-ttl", "90s"]);
    fleet.origin.limit_rate(20_000);
    let coordinator = fleet.start_coordinator();
    let dead = fleet.start_worker("dead", 1);
    fleet.wait_for_gets(&wnid(1), 1, LONG);
    let mut workers = vec![fleet.start_worker("w1", 1)];
    fleet.wait_for_gets(&wnid(2), 1, LONG);
    workers.extend(["w2", "w3", "w4"].map(|name| fleet.start_worker(name, 1)));
    for class in [3, 4, 5].map(wnid) {
        fleet.wait_for_gets(&class, 1, LONG);
    }
    coordinator.kill();
    dead.kill();
    let mut coordinator = fleet.start_coordinator();
    let back = Instant::now();
    fleet.wait_for_gets(&wnid(19), 1, LONG);
    println!("the last class of the list was asked for {:.1?} after the restart", back.elapsed());
    assert_eq!(fleet.gets(&wnid(1)), 1, "the dead worker may hold it");
    assert!(!fleet.settled().contains_key(&wnid(1)));
    coordinator.wait_until("it names the missing worker", |it| {
        let waits = it.stderr().contains("classes that were granted before the restart wait for ");
        (waits && it.stderr().contains("dead")).then_some(())
    });
    // A worker of this name is back: no other one is waited for.
    workers.push(fleet.start_worker("dead", 1));
    fleet.assert_done(coordinator, workers, Table::of(19, 0, 0));
}

#[test]
fn it_ends_soon_when_it_is_told_to_and_its_workers_wait_quietly_for_the_next_one() {
    let fleet = fleet(6, 200_000);
    let mut coordinator = fleet.start_coordinator();
    let workers = ["left", "right"].map(|name| fleet.start_worker(name, 1));
    coordinator.wait_until("a class is there", |_| fleet.job.class_folder(&wnid(1)).exists().then_some(()));
    let told = Instant::now();
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.wait().code, Some(143));
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    let_pass(Duration::from_secs(4));
    let coordinator = fleet.start_coordinator();
    let complaints = |text: &str| text.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    let finished = workers.map(tests::running::Running::wait);
    for worker in &finished {
        assert_eq!(worker.code, Some(0), "{}", worker.stderr);
        assert!(complaints(&worker.stderr) <= 6, "for four seconds: {}", worker.stderr);
    }
    assert_done_without_a_trace(&fleet, coordinator, []);
}

/// Nobody comes for a while: it says so, and does not keep the machine busy.
#[test]
fn without_workers_it_waits_and_costs_nothing() {
    let fleet = Fleet::new(1, 3, 1000..9000, &SHORT_LEASE);
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_until("it listens", |_| std::net::TcpStream::connect(fleet.address()).is_ok().then_some(()));
    // The rest of its start.
    let_pass(Duration::from_secs(2));
    let before = ticks(coordinator.id());
    let_pass(Duration::from_secs(5));
    let spent = ticks(coordinator.id()) - before;
    println!("five seconds without a worker: {spent} hundredths of a second of computing");
    assert!(spent <= 10, "{spent} hundredths of a second in five");
    assert_done_without_a_trace(&fleet, coordinator, [fleet.start_worker("late", 1)]);
}

/// Hundredths of a second that a process has computed.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().map(|field: &usize| fields[*field].parse::<u64>().expect("a number")).sum()
}

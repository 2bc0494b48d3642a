//! `coordinator drain NAME`: a worker ends in order, and the others go on.

use serde_json::json;
use tests::{
    cluster::{Job, Table},
    fleet::Fleet,
    running::Running,
};

use super::{SLOW, ask, origin_of, status};

#[test]
fn the_named_worker_finishes_what_it_holds_and_ends_and_the_other_does_the_rest() {
    let (origin, wnids) = origin_of(8);
    origin.limit_rate(SLOW);
    let job = Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin).args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let target = job.target_path().to_str().expect("a plain path");
    let start =
        |name| job.start_worker_with(["--connect", &connect, "--name", name, "--workers", "2", "--target", target]);
    let mut leaves = start("leaves");
    leaves.wait_until("it has two classes", |_| (status(&job, &coordinator)["leased"] == 2).then_some(()));

    let unknown = ask(&job, &coordinator, &["drain", "absent"]);
    let words = ["failed to drain a worker: there is no worker absent; these are there: leaves"];
    job.assert_could_not_run(&unknown, &words);
    let nameless = ask(&job, &coordinator, &["drain", ""]);
    job.assert_could_not_run(&nameless, &["a value is required for '<NAME>'"]);

    let told = ask(&job, &coordinator, &["drain", "leaves"]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert_eq!(told.stdout, "worker leaves takes nothing new, finishes what it holds and ends\n");
    assert_eq!(status(&job, &coordinator)["workers"][0]["state"], json!("draining"));
    origin.limit_rate(0);
    let ended = leaves.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let left = status(&job, &coordinator);
    assert_eq!((&left["success"], &left["leased"], &left["pending"]), (&json!(2), &json!(0), &json!(6)));
    assert_eq!(left["workers"], json!([]));

    let nobody = ask(&job, &coordinator, &["drain", "leaves"]);
    job.assert_could_not_run(&nobody, &["failed to drain a worker: there is no worker leaves; no worker is there now"]);

    let stays = start("stays");
    assert_eq!(stays.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(8, 0, 0));
    for wnid in &wnids {
        assert_eq!(origin.gets(wnid).len(), 1, "{wnid} was downloaded once");
    }
}

/// The worker renews every ten seconds, so it has not heard of the drain when the coordinator is killed.
#[test]
fn a_worker_that_was_told_to_end_takes_no_class_after_the_coordinator_was_killed_and_its_successor_does() {
    let fleet = Fleet::new(6, 5, 10_000..20_000, &[]);
    fleet.origin.limit_rate(SLOW);
    let coordinator = fleet.start_coordinator();
    let mut leaves = fleet.start_worker("leaves", 2);
    leaves.wait_until("it has two classes", |_| (told(&fleet)?["leased"] == 2).then_some(()));
    let said = fleet.job.start_with(["drain", "leaves", "--connect", &fleet.url()]).wait();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    coordinator.kill();
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_until("the worker is back", |_| {
        let told = told(&fleet)?;
        (told["workers"][0]["name"] == "leaves").then(|| assert_eq!(told["workers"][0]["state"], json!("draining")))
    });
    fleet.origin.limit_rate(0);
    assert_eq!(leaves.wait().code, Some(0));
    let left = told(&fleet).expect("the coordinator waits for another worker");
    assert_eq!((&left["success"], &left["leased"], &left["pending"]), (&json!(2), &json!(0), &json!(4)));

    let again = fleet.start_worker("leaves", 2);
    fleet.assert_done(coordinator, [again], Table::of(6, 0, 0));
    fleet.assert_nothing_came_twice();
}

/// It has heard of the drain, and the coordinator comes back with a ledger that knows nothing of it.
#[test]
fn a_worker_that_was_told_to_end_does_not_work_for_the_next_run_either() {
    let fleet = Fleet::new(4, 5, 10_000..20_000, &["--lease-ttl", "3s"]);
    fleet.origin.limit_rate(SLOW);
    let coordinator = fleet.start_coordinator();
    let mut leaves = fleet.start_worker("leaves", 1);
    leaves.wait_until("it has a class", |_| (told(&fleet)?["leased"] == 1).then_some(()));
    let said = fleet.job.start_with(["drain", "leaves", "--connect", &fleet.url()]).wait();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let log = fleet.job.target_path().join("imagenet_downloader.leaves.log");
    let has_heard = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("asked to end"));
    leaves.wait_until("it has heard", |_| has_heard().then_some(()));
    coordinator.kill();
    fleet.origin.limit_rate(0);
    let job = Job::new().classes(["n00000002", "n00000003"]).origin(&fleet.origin).args(["--delete-tar"]);
    let coordinator = job.start_coordinator_at(fleet.address());
    assert_eq!(leaves.wait().code, Some(0));
    assert_eq!(fleet.gets("n00000002") + fleet.gets("n00000003"), 0);
    let other = fleet.start_worker_in(job.target_path(), &fleet.url(), "other", 2);
    assert_eq!(other.wait().code, Some(0));
    job.assert_ended(&coordinator.wait(), 0, Table::of(2, 0, 0));
}

/// What `status --json` says, if the coordinator answers.
fn told(fleet: &Fleet) -> Option<serde_json::Value> {
    let told = Running::wait(fleet.job.start_with(["status", "--json", "--connect", &fleet.url()]));
    serde_json::from_str(&told.stdout).ok()
}

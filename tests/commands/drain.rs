//! `coordinator drain NAME`: one worker finishes its leases and ends, and the others continue.

use serde_json::json;
use tests::{
    archives::images,
    cluster::{Job, Table},
    fleet::Fleet,
    log::has_line,
    origin::Origin,
    running::Running,
};

use super::{SLOW, ask, command, origin_of, status};

#[test]
fn the_drained_worker_finishes_its_leases_and_ends_and_another_does_the_rest() {
    let (origin, wnids) = origin_of(8);
    origin.limit_rate(SLOW);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let start = |name| job.start_worker_at(&connect, name, 2, job.target_path());
    let mut leaves = start("leaves");
    leaves.wait_until("it holds two leases", |_| {
        (status(&job, &coordinator)["leased"] == 2).then_some(())
    });

    let unknown = ask(&job, &coordinator, &["drain", "absent"]);
    let words = ["failed to drain a worker: there is no worker absent; these are there: leaves"];
    job.assert_could_not_run(&unknown, &words);
    let nameless = ask(&job, &coordinator, &["drain", ""]);
    job.assert_could_not_run(&nameless, &["a value is required for '<NAME>'"]);

    let drained = ask(&job, &coordinator, &["drain", "leaves"]);
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    assert_eq!(
        drained.stdout,
        "worker leaves takes nothing new, finishes what it holds and ends\n"
    );
    assert_eq!(
        status(&job, &coordinator)["workers"][0]["state"],
        json!("draining")
    );
    origin.limit_rate(0);
    let ended = leaves.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let left = status(&job, &coordinator);
    assert_eq!(
        (&left["success"], &left["leased"], &left["pending"]),
        (&json!(2), &json!(0), &json!(6))
    );
    assert_eq!(left["workers"], json!([]));

    let gone = ask(&job, &coordinator, &["drain", "leaves"]);
    job.assert_could_not_run(
        &gone,
        &["failed to drain a worker: there is no worker leaves; no worker is there now"],
    );

    let stays = start("stays");
    assert_eq!(stays.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(8, 0, 0));
    for wnid in &wnids {
        assert_eq!(origin.gets(wnid).len(), 1, "{wnid} was downloaded once");
    }
}

/// The worker renews every 10 s, so the coordinator is killed before the worker receives the drain.
#[test]
fn a_drain_survives_a_kill_of_the_coordinator_and_ends_with_the_worker() {
    let fleet = Fleet::new(6, 5, 10_000..20_000, &[]);
    fleet.origin.limit_rate(SLOW);
    let coordinator = fleet.start_coordinator();
    let mut leaves = fleet.start_worker("leaves", 2);
    leaves.wait_until("it holds two leases", |_| {
        (status_of(&fleet)?["leased"] == 2).then_some(())
    });
    let drained = fleet
        .job
        .start_with(["drain", "leaves", "--connect", &fleet.url()])
        .wait();
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    coordinator.kill();
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_until("the worker has registered again", |_| {
        let status = status_of(&fleet)?;
        (status["workers"][0]["name"] == "leaves")
            .then(|| assert_eq!(status["workers"][0]["state"], json!("draining")))
    });
    fleet.origin.limit_rate(0);
    assert_eq!(leaves.wait().code, Some(0));
    let left = status_of(&fleet).expect("the coordinator waits for another worker");
    assert_eq!(
        (&left["success"], &left["leased"], &left["pending"]),
        (&json!(2), &json!(0), &json!(4))
    );

    let again = fleet.start_worker("leaves", 2);
    fleet.assert_done(coordinator, [again], Table::of(6, 0, 0));
    fleet.assert_no_repeated_request();
}

/// The worker has received the drain, and the next coordinator has a ledger without it.
#[test]
fn a_drained_worker_does_not_join_the_next_run() {
    let fleet = Fleet::new(4, 5, 10_000..20_000, &["--lease-ttl", "3s"]);
    fleet.origin.limit_rate(SLOW);
    let coordinator = fleet.start_coordinator();
    let mut leaves = fleet.start_worker("leaves", 1);
    leaves.wait_until("it holds a lease", |_| {
        (status_of(&fleet)?["leased"] == 1).then_some(())
    });
    let drained = fleet
        .job
        .start_with(["drain", "leaves", "--connect", &fleet.url()])
        .wait();
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    let has_received = || has_line(&fleet.job.log_of("leaves"), &["asked to end"]);
    leaves.wait_until("it has received the drain", |_| {
        has_received().then_some(())
    });
    coordinator.kill();
    fleet.origin.limit_rate(0);
    let job = Job::new()
        .classes(["n00000002", "n00000003"])
        .origin(&fleet.origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator_at(fleet.address());
    assert_eq!(leaves.wait().code, Some(0));
    assert_eq!(fleet.gets("n00000002") + fleet.gets("n00000003"), 0);
    let other = fleet.start_worker_in(job.target_path(), &fleet.url(), "other", 2);
    assert_eq!(other.wait().code, Some(0));
    job.assert_ended(&coordinator.wait(), 0, Table::of(2, 0, 0));
}

/// A job on one host. Each class takes 3 s while the origin is slow.
fn job_on_one_host(args: &[&str]) -> (Origin, Vec<String>, Job) {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=6).map(|number| format!("n{number:08}")).collect();
    for (wnid, seed) in wnids.iter().zip(1..) {
        origin.class(wnid, images(wnid, 2, 6_000..8_000, seed));
    }
    origin.limit_rate(SLOW);
    let common = ["--delete-tar", "--workers", "2", "--name", "only"];
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    (origin, wnids, job.args(common.iter().chain(args).copied()))
}

fn wait_for_two_classes(job: &Job, running: &mut Running) {
    running.wait_until("two classes are in progress", |_| {
        let status = command(job, ["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        (status["leased"] == 2).then_some(())
    });
}

/// On one host the job ends when its only worker ends, as after an interruption.
#[test]
fn a_drain_of_the_only_worker_ends_the_job_and_the_same_command_resumes() {
    let (origin, wnids, job) = job_on_one_host(&[]);
    let mut running = job.start();
    wait_for_two_classes(&job, &mut running);
    let drained = command(&job, ["drain", "only"]);
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    origin.limit_rate(0);
    let finished = running.wait();
    assert_eq!(finished.code, Some(130), "{}", finished.stderr);
    let sentence =
        "its worker was drained: 2 of 6 classes are there; run the same command again to resume";
    assert!(finished.stderr.contains(sentence), "{}", finished.stderr);
    assert!(!finished.stderr.contains("error: "), "{}", finished.stderr);
    job.assert_ended(&job.run(), 0, Table::of(6, 0, 0));
    for wnid in &wnids {
        assert_eq!(origin.gets(wnid).len(), 1, "{wnid} was downloaded once");
    }
}

/// With `--listen` other workers can join, so the job continues without the worker in the process.
#[test]
fn with_listen_a_drain_of_the_own_worker_leaves_the_job_to_other_workers() {
    let (origin, _, job) = job_on_one_host(&["--listen", "127.0.0.1:0"]);
    let mut running = job.start();
    let http = running.wait_for_http();
    let address = running.wait_for_address(&[origin.address(), http]);
    wait_for_two_classes(&job, &mut running);
    assert_eq!(command(&job, ["drain", "only"]).code, Some(0));
    origin.limit_rate(0);
    running.wait_until("the worker has left", |running| {
        running
            .stderr()
            .contains("was drained; the job goes on with other workers")
            .then_some(())
    });
    let connect = format!("http://{address}");
    let target = job.target_path().to_str().expect("a plain path").to_owned();
    let other = job.start_worker_with([
        "--connect",
        &connect,
        "--name",
        "other",
        "--target",
        &target,
    ]);
    assert_eq!(other.wait().code, Some(0));
    job.assert_ended(&running.wait(), 0, Table::of(6, 0, 0));
}

/// The output of `status --json`, if the coordinator answers.
fn status_of(fleet: &Fleet) -> Option<serde_json::Value> {
    let status =
        Running::wait(
            fleet
                .job
                .start_with(["status", "--json", "--connect", &fleet.url()]),
        );
    serde_json::from_str(&status.stdout).ok()
}

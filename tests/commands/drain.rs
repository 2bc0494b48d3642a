//! `coordinator drain NAME`: a worker ends in order, and the others go on.

use serde_json::json;
use tests::cluster::{Job, Table};

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

    let unknown = ask(&job, &coordinator, &["drain", "nobody"]);
    let words = ["failed to drain a worker: there is no worker nobody; these are there: leaves"];
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

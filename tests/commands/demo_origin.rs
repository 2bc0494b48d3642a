//! `coordinator demo-origin`: serves the demo's classes to separate programs, as in the Compose
//! file.

use rustix::process::Signal;
use tests::cluster::{Job, Table};

#[test]
fn a_coordinator_and_a_worker_finish_the_demo_from_an_origin_of_its_own() {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo.csv");
    let job = Job::new().csv_at(list);
    let mut origin = job.start_with([
        "demo-origin",
        "--listen",
        "127.0.0.1:0",
        "--class-takes",
        "300ms",
    ]);
    let url = origin.wait_until("it prints its URL", |origin| {
        Some(
            origin
                .stdout()
                .trim()
                .strip_prefix("serving 13 classes, for --url ")?
                .to_owned(),
        )
    });
    let job = job.url(&url).args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let worker = job.start_worker("one", &coordinator, job.target_path());
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(12, 0, 1));
    assert!(job.failure_of("n99999999").starts_with("HTTPError: 404"));

    let busy = url
        .trim_start_matches("http://")
        .trim_end_matches("/{wnid}.tar");
    let second = job.start_with(["demo-origin", "--listen", busy]).wait();
    job.assert_could_not_run(
        &second,
        &[
            "failed to start the demo's origin on",
            "give another address with --listen",
        ],
    );
    origin.signal(Signal::TERM);
    assert_eq!(origin.wait().code, Some(143));
}

//! `coordinator resume`: requests to the origin start again although it has sent `Retry-After`.

use std::time::Duration;

use serde_json::Value;
use tests::{
    answer::Answer,
    cluster::{Job, Table},
    wait::wait_for,
};

use super::{ask, origin_of, status};

#[test]
fn all_workers_send_requests_again_including_the_one_that_got_retry_after() {
    let (origin, wnids) = origin_of(12);
    let refusal = || Answer::too_many_requests(900);
    origin
        .script_of(&wnids[5])
        .expect("the class is served")
        .script([refusal()]);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar"]);
    let coordinator = job.start_coordinator();
    let nothing = ask(&job, &coordinator, &["resume"]);
    assert_eq!(
        (nothing.code, nothing.stdout.as_str()),
        (Some(0), "the origin has asked for no wait\n")
    );

    let connect = format!("http://{}", coordinator.address);
    let workers =
        ["one", "other"].map(|name| job.start_worker_at(&connect, name, 2, job.target_path()));
    let quiet = |status: &Value| status["origin"]["quiet_ms"].as_u64().expect("a number");
    wait_for(
        "requests to the origin are paused",
        Duration::from_mins(1),
        || {
            let status = status(&job, &coordinator);
            quiet(&status) > 600_000 && status["origin"]["connections"] == 0
        },
    );
    let output = ask(&job, &coordinator, &["resume"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let words = "the workers ask the origin again now; it had asked to wait for another 14m ";
    assert!(output.stdout.starts_with(words), "{}", output.stdout);
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(12, 0, 0));
    assert_eq!(origin.gets(&wnids[5]).len(), 2, "rejected once");
}

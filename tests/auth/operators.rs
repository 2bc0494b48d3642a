//! The coordinator's commands with tokens: a viewer may read, an admin may also change (S15, S18).

use tests::{cluster::Table, running::Finished};

use super::Cluster;

#[test]
fn a_viewer_may_read_and_an_admin_may_change() {
    let cluster = Cluster::of(1);
    let (cluster, coordinator) = cluster.start(&[]);
    let connect = format!("https://{}", coordinator.address);
    let ask = |token: &str, words: &[&str]| -> Finished {
        let token = cluster.path(token);
        let way = ["--connect", &connect, "--token-file", &token];
        cluster
            .job
            .start_with(words.iter().copied().chain(way))
            .wait()
    };
    for token in ["viewer.token", "admin.token"] {
        let output = ask(token, &["status"]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(
            output.stdout.starts_with("waiting for workers\n"),
            "{}",
            output.stdout
        );
    }
    for (token, words) in [
        ("viewer.token", &["retry"][..]),
        ("viewer.token", &["drain", "w1"]),
        ("worker.token", &["status"]),
        ("worker.token", &["drain", "w1"]),
    ] {
        let refused = ask(token, words);
        let sentence = format!("failed to be let in by the coordinator at {connect}: ");
        cluster.job.assert_could_not_run(&refused, &[&sentence]);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    let retried = ask("admin.token", &["retry"]);
    assert_eq!(
        (retried.code, retried.stdout.as_str()),
        (Some(0), "no failed class to try again\n")
    );
    let unproved = cluster
        .job
        .start_with(["status", "--connect", &connect])
        .wait();
    cluster
        .job
        .assert_could_not_run(&unproved, &["with --token-file"]);

    let token = cluster.path("worker.token");
    let worker = cluster.worker("w1", &coordinator, &["--token-file", &token]);
    assert_eq!(worker.wait().code, Some(0));
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
}

//! Permissions of each role (S15, S18), tested with an independent client.

use std::time::Duration;

use tests::{
    cluster::Table,
    log::{has_line, lines_with},
    wait::{wait_for, wait_until},
};
use tonic::Code;

use super::{Cluster, client::Client};

/// The status codes of denied calls; `None` for a call that was permitted, even if it failed for
/// another reason.
fn denied(client: &Client) -> [Option<Code>; 6] {
    client.calls().map(|result| {
        result.err().map(|status| status.code()).filter(|code| {
            matches!(
                code,
                Code::Unauthenticated | Code::PermissionDenied | Code::ResourceExhausted
            )
        })
    })
}

#[test]
fn each_role_may_do_its_own_and_no_more() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secrets = ["worker.token", "viewer.token", "admin.token"].map(|name| cluster.secret(name));
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let forbidden = Some(Code::PermissionDenied);
    // Register, Renew, Watch, GetFleet, RetryFailed, DrainWorker.
    let allowed = [
        [None, None, forbidden, forbidden, forbidden, forbidden],
        [forbidden, forbidden, None, None, forbidden, forbidden],
        [forbidden, forbidden, None, None, None, None],
    ];
    for (secret, allowed) in secrets.iter().zip(allowed) {
        assert_eq!(
            denied(&Client::new(coordinator.address, Some(secret))),
            allowed
        );
    }
    coordinator.running.kill();
}

#[test]
fn without_a_valid_token_every_call_gets_the_same_answer() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let session = Client::new(coordinator.address, Some(&secret))
        .register("known")
        .expect("the token is valid")
        .session_id;
    // A known and an unknown session, a worker's call and an admin's, a token with one wrong
    // letter: all get the same answer.
    let (front, back) = secret.split_at(secret.len() - 10);
    let almost = format!(
        "{front}{}{}",
        if back.starts_with('a') { 'b' } else { 'a' },
        &back[1..]
    );
    for token in [None, Some("0123456789abcdef"), Some(almost.as_str())] {
        let client = Client::new(coordinator.address, token);
        let answers: Vec<(Code, String)> = [
            client.renew(session),
            client.renew(session + 1),
            client.retry(),
        ]
        .into_iter()
        .map(|result| result.expect_err("there is no valid token"))
        .map(|status| (status.code(), status.message().to_owned()))
        .collect();
        assert!(
            answers
                .iter()
                .all(|(code, _)| *code == Code::Unauthenticated),
            "{answers:?}"
        );
        assert!(
            answers.iter().all(|(_, message)| *message == answers[0].1),
            "{answers:?}"
        );
    }
    coordinator.running.kill();
}

#[test]
fn a_probe_needs_no_token_and_other_services_do() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let unauthenticated = Client::new(coordinator.address, None);
    assert!(
        unauthenticated
            .raw("/grpc.health.v1.Health/Check", Vec::new())
            .is_ok()
    );
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health",
        "/",
        "/x/Check",
    ] {
        assert_eq!(
            unauthenticated
                .raw(path, Vec::new())
                .expect_err("no token")
                .code(),
            Code::Unauthenticated,
            "{path}"
        );
    }
    coordinator.running.kill();
}

/// A crowd of wrong tokens is told a few times and counted, and keeps no valid one out.
#[test]
fn wrong_tokens_do_not_fill_the_log_and_valid_ones_pass() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let (wrong, valid) = (
        Client::new(coordinator.address, Some("0123456789abcdef")),
        Client::new(coordinator.address, Some(&secret)),
    );
    for _ in 0..50 {
        assert_eq!(
            wrong.renew(1).expect_err("it is wrong").code(),
            Code::Unauthenticated
        );
    }
    assert!(valid.renew(1).is_ok());
    let lines = || lines_with(&job.log(), &["a call was refused"]).len();
    wait_for("a refusal is in the log", Duration::from_secs(20), || {
        lines() > 0
    });
    coordinator.running.kill();
    let lines = lines();
    // Five a minute; a minute may end meanwhile.
    assert!((1..=10).contains(&lines), "{lines} lines");
}

#[test]
fn tokens_are_read_again_when_their_file_changes() {
    let cluster = Cluster::of(1);
    let file = cluster.file("tokens");
    let secret = cluster.secret("worker.token");
    let tokens = cluster.path("tokens");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let old = Client::new(coordinator.address, Some(&secret));
    let new = Client::new(coordinator.address, Some("a-new-token-0123"));
    assert!(old.renew(1).is_ok());
    let within = |is_so: &dyn Fn() -> bool| {
        wait_until(Duration::from_secs(10), || is_so().then_some(())).is_some()
    };
    std::fs::write(&file, format!("worker {secret}\nworker a-new-token-0123\n"))
        .expect("the folder is ours");
    assert!(
        within(&|| new.renew(1).is_ok()) && old.renew(1).is_ok(),
        "both are valid"
    );
    std::fs::write(&file, "worker a-new-token-0123\n").expect("the folder is ours");
    assert!(
        within(&|| old.renew(1).is_err()) && new.renew(1).is_ok(),
        "only the new one is valid"
    );
    std::fs::write(&file, "no token\n").expect("the folder is ours");
    let rejected = || has_line(&job.log(), &["the old content stays in use"]);
    assert!(within(&rejected), "the invalid file is logged");
    assert!(
        new.renew(1).is_ok(),
        "with an invalid file the old tokens stay valid"
    );
    coordinator.running.kill();
}

#[test]
fn without_any_credential_loopback_is_open() {
    let cluster = Cluster::of(1);
    let coordinator = cluster.job.start_coordinator();
    let client = Client::new(coordinator.address, None);
    assert_eq!(denied(&client), [None; 6]);
    let worker = cluster
        .job
        .start_worker("w1", &coordinator, cluster.job.target_path());
    assert_eq!(worker.wait().code, Some(0));
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
}

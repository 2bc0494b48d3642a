//! During a run a worker's name belongs to the token that registered it first.

use std::time::Duration;

use tests::{cluster::Coordinator, wait::wait_for};
use tonic::Code;

use super::{Cluster, client::Client};

/// Number of attempts to take over a name.
const TRIES: u8 = 100;

/// Attempts to take over the name `host` with this token are refused; a free name is not.
#[track_caller]
fn assert_cannot_take_name(coordinator: &Coordinator, token: &str) {
    let hostile = Client::new(coordinator.address, Some(token));
    for instance in 0..TRIES {
        let refused = hostile
            .register_as("host", &[instance])
            .expect_err("the name belongs to another token");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(
            refused
                .message()
                .contains("the name host belongs to another token in this run"),
            "{refused}"
        );
    }
    hostile
        .register_as(&format!("of {token}"), &[1])
        .expect("the name is free");
}

#[test]
fn a_name_is_not_given_to_another_token_also_after_a_restart_and_follows_a_replaced_token() {
    let cluster = Cluster::of(1);
    let file = cluster.file("tokens");
    let ours = "worker-token-one";
    let theirs = "worker-token-two";
    let next = "worker-token-three";
    let write = |tokens: &[&str]| {
        let lines: Vec<String> = tokens
            .iter()
            .map(|token| format!("worker {token}\n"))
            .collect();
        std::fs::write(&file, lines.concat()).expect("the folder is ours");
    };
    write(&[ours, theirs]);
    let tokens = cluster.path("tokens");
    let job = cluster.job.args(["--token-file", &tokens]);

    let coordinator = job.start_coordinator();
    let honest = Client::new(coordinator.address, Some(ours));
    let session = honest
        .register_as("host", b"first")
        .expect("the name is free")
        .session_id;
    assert_cannot_take_name(&coordinator, theirs);
    assert!(honest.renews(session), "its session stays valid");
    coordinator.running.kill();

    let coordinator = job.start_coordinator();
    assert_cannot_take_name(&coordinator, theirs);
    let honest = Client::new(coordinator.address, Some(ours));
    let session = honest
        .register_as("host", b"first")
        .expect("the name belongs to this token")
        .session_id;
    honest
        .register_as("host", b"second")
        .expect("a restarted worker keeps its name");
    assert!(
        !honest.renews(session),
        "the newest process of a token owns the name"
    );

    // The worker reads its token file again and uses the new token in its existing session.
    let session = honest
        .register_as("host", b"third")
        .expect("a restarted worker keeps its name")
        .session_id;
    write(&[ours, theirs, next]);
    let renewed = Client::new(coordinator.address, Some(next));
    wait_for("the new token is valid", Duration::from_secs(20), || {
        renewed.renews(session)
    });
    assert_cannot_take_name(&coordinator, ours);
    assert!(renewed.renews(session));
    // A token that is no longer valid reserves no name.
    write(&[theirs]);
    let hostile = Client::new(coordinator.address, Some(theirs));
    let free = || hostile.register_as("host", b"fourth").is_ok();
    wait_for("the name is free", Duration::from_secs(20), free);
    coordinator.running.kill();
}

/// If all workers share one token, or no token is required, workers cannot be told apart: a new
/// process takes over the name.
#[test]
fn with_one_token_for_all_and_without_any_the_newest_process_has_the_name() {
    for token in [Some("worker-token-one"), None] {
        let cluster = Cluster::of(1);
        std::fs::write(cluster.file("tokens"), "worker worker-token-one\n")
            .expect("the folder is ours");
        let tokens = cluster.path("tokens");
        let arguments: &[&str] = if token.is_some() {
            &["--token-file", &tokens]
        } else {
            &[]
        };
        let job = cluster.job.args(arguments.iter().copied());
        let coordinator = job.start_coordinator();
        let client = Client::new(coordinator.address, token);
        let older = client
            .register_as("host", b"first")
            .expect("the name is free")
            .session_id;
        let newer = client
            .register_as("host", b"second")
            .expect("the newest process gets the name")
            .session_id;
        assert!(client.renews(newer) && !client.renews(older));
        coordinator.running.kill();
    }
}

//! A token that is removed from the coordinator's token file while calls with it are open.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use proto::coordinator_client::CoordinatorClient;
use tests::{cluster::Coordinator, log::assert_lines, wait::wait_for};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use super::{Cluster, client::Client};

/// Deadline for a change of the token file to take effect. The file is read every 2 s.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads a stream to its end and returns its error.
async fn end_of<T>(mut stream: Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => return status,
        }
    }
}

/// An `Acquire` call for one lease.
fn acquire(client: &Client, session_id: u64) -> Request<proto::AcquireRequest> {
    client.request(proto::AcquireRequest {
        session_id,
        max: 1,
        held: vec![],
    })
}

/// Opens a budget stream without a deadline.
fn budgets(client: &Client, session_id: u64) -> Streaming<proto::Budget> {
    let observation = proto::Observation {
        session_id,
        ..Default::default()
    };
    let observations = stream::iter([observation]).chain(stream::pending());
    let mut request = client.request(observations);
    request.metadata_mut().remove("grpc-timeout");
    let channel = client.channel();
    let budgets = client
        .runtime
        .block_on(async { CoordinatorClient::new(channel).pace(request).await });
    budgets.expect("the session is known").into_inner()
}

/// Opens a `Watch` stream without a deadline.
fn watch(client: &Client) -> Streaming<proto::JobStatus> {
    let mut request = client.request(proto::WatchRequest {});
    request.metadata_mut().remove("grpc-timeout");
    let channel = client.channel();
    let counts = client
        .runtime
        .block_on(async { CoordinatorClient::new(channel).watch(request).await });
    counts.expect("the token is valid").into_inner()
}

/// Number of established connections to the coordinator.
fn accepted_connections(coordinator: &Coordinator) -> usize {
    let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", coordinator.running.id()))
        .unwrap_or_default();
    let listening = format!(":{:04X} ", coordinator.address.port());
    sockets
        .lines()
        .filter(|line| line.contains(&listening) && line.contains(" 01 "))
        .count()
}

#[test]
fn open_calls_of_a_revoked_token_end_and_those_of_others_continue() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let [worker, viewer, admin] =
        ["worker.token", "viewer.token", "admin.token"].map(|file| cluster.secret(file));
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let client = |token: &str| Client::new(coordinator.address, Some(token));
    let [worker_client, viewer_client, admin_client] =
        [&worker, &viewer, &admin].map(|token| client(token));

    let session_id = worker_client
        .register("w1")
        .expect("the token is valid")
        .session_id;
    let mut calls = CoordinatorClient::new(worker_client.channel());
    let leases = worker_client
        .runtime
        .block_on(calls.acquire(acquire(&worker_client, session_id)))
        .expect("a class is pending");
    let leases = leases.into_inner().leases;
    assert_eq!(leases.len(), 1, "the only class is leased");
    let budgets = budgets(&worker_client, session_id);
    let viewers = watch(&viewer_client);
    let admins = watch(&admin_client);

    std::fs::write(
        &tokens,
        format!("admin {admin}\nworker another-worker-0123456789\n"),
    )
    .expect("the file is writable");
    let ended = worker_client.runtime.block_on(async {
        let acquired = async {
            calls
                .clone()
                .acquire(acquire(&worker_client, session_id))
                .await
                .expect_err("the token is revoked")
        };
        timeout(RELOAD_TIMEOUT, async {
            tokio::join!(acquired, end_of(budgets))
        })
        .await
    });
    let (acquired, budgets) = ended.expect("both calls end within seconds");
    assert_eq!(
        (acquired.code(), budgets.code()),
        (Code::Unauthenticated, Code::Unauthenticated),
        "{acquired:?}"
    );
    let viewers = viewer_client
        .runtime
        .block_on(async { timeout(RELOAD_TIMEOUT, end_of(viewers)).await });
    assert_eq!(
        viewers.expect("the stream ends within seconds").code(),
        Code::Unauthenticated
    );
    let continues = admin_client
        .runtime
        .block_on(async { timeout(Duration::from_millis(100), end_of(admins)).await });
    assert!(
        continues.is_err(),
        "the admin's stream has not ended: {continues:?}"
    );

    // A connection with a revoked token counts as pending, and pending connections are closed after
    // 10 s.
    wait_for(
        "only the admin's connection is left",
        Duration::from_secs(30),
        || accepted_connections(&coordinator) <= 2,
    );
    coordinator.running.kill();
}

#[test]
fn an_empty_token_file_revokes_all_tokens_until_it_has_tokens_again() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let text = std::fs::read_to_string(&tokens).expect("init has written the file");
    let secret = cluster.secret("viewer.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let viewer = Client::new(coordinator.address, Some(&secret));
    let is_valid = || {
        let request = viewer.request(proto::WatchRequest {});
        let mut calls = CoordinatorClient::new(viewer.channel());
        match viewer.runtime.block_on(calls.watch(request)) {
            Ok(_) => true,
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated, "{status}");
                false
            }
        }
    };
    assert!(is_valid());
    std::fs::write(&tokens, "").expect("it is ours");
    wait_for("no token is valid", RELOAD_TIMEOUT, || !is_valid());
    std::fs::write(&tokens, text).expect("it is ours");
    wait_for("the tokens are valid again", RELOAD_TIMEOUT, is_valid);
    assert_lines(
        &job.log(),
        1,
        &["holds no token any more: all tokens are revoked"],
    );
    coordinator.running.kill();
}

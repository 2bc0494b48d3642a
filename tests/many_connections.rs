//! A coordinator accepts as many connections as the hard limit on open files allows, not only the
//! soft limit.

use std::time::Duration;

use proto::{WatchRequest, coordinator_client::CoordinatorClient};
use tests::cluster::Job;
use tokio::{runtime::Runtime, time::timeout};

const CONNECTIONS: usize = 200;

#[test]
fn more_connections_than_the_soft_limit_on_open_files_are_served() {
    let few = ["sh", "-c", "ulimit -Sn 64 && exec \"$0\" \"$@\""];
    let job = Job::new()
        .classes(["n00000001"])
        .url("http://127.0.0.1:9")
        .under(few);
    let coordinator = job.start_coordinator();
    let address = format!("http://{}", coordinator.address);
    Runtime::new().expect("a runtime").block_on(async {
        let mut open = Vec::new();
        while open.len() < CONNECTIONS {
            let first = async {
                let mut client = CoordinatorClient::connect(address.clone())
                    .await
                    .expect("the coordinator listens");
                let mut counts = client
                    .watch(WatchRequest {})
                    .await
                    .expect("the coordinator answers")
                    .into_inner();
                let status = counts
                    .message()
                    .await
                    .expect("the stream continues")
                    .expect("the job is not done");
                assert_eq!(status.pending, 1);
                (client, counts)
            };
            let served = timeout(Duration::from_secs(10), first).await;
            open.push(
                served.unwrap_or_else(|_| panic!("only {} connections were served", open.len())),
            );
        }
    });
}

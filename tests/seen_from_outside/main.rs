//! Observability of the real programs without their logs: probes, metrics, gRPC health and traces.

mod abuse;
mod addresses;
mod collector;
mod documented_metrics;
mod grpc_health;
mod life;
mod metrics;
mod prometheus;
mod traces;

use tests::{
    archives::images,
    cluster::{Coordinator, Job},
    origin::Origin,
    running::Running,
};

/// Classes of about 50 KB each, named from `n00000001` on.
fn wnids(count: u64) -> Vec<String> {
    (1..=count).map(|number| format!("n{number:08}")).collect()
}

fn origin(wnids: &[String]) -> Origin {
    let origin = Origin::start();
    for (seed, wnid) in (1..).zip(wnids) {
        origin.class(wnid, images(wnid, 5, 5000..15_000, seed));
    }
    origin
}

/// Starts the coordinator of this job with TLS and tokens, and a worker that serves metrics as
/// well. `coordinator init` makes the files in the job's folder.
fn start_with_tls(job: Job) -> (Job, Coordinator, Running) {
    let trust = job.folder().join("trust");
    let path = |name: &str| {
        let path = trust.join(name);
        path.to_str().expect("a plain path").to_owned()
    };
    let init = ["init", "--dir", &path(""), "--advertise", "127.0.0.1"];
    let made = job.start_with(init).wait();
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let certificate = path("server.pem");
    let key = path("server.key");
    let tokens = path("tokens");
    let flags = [
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--token-file",
        &tokens,
    ];
    let job = job.args(flags);
    let coordinator = job.start_coordinator();
    let connect = format!("https://{}", coordinator.address);
    let target = job.target_path().to_str().expect("a plain path");
    let args = [
        "--connect",
        &connect,
        "--target",
        target,
        "--http",
        "127.0.0.1:0",
    ];
    let token = path("worker.token");
    let worker = job.start_worker_with(args.into_iter().chain(["--token-file", &token]));
    (job, coordinator, worker)
}

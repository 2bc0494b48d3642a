//! The service over in-process connections and a paused clock, from the perspective of a worker.

use std::io;

use hyper_util::rt::TokioIo;
use proto::coordinator_client::CoordinatorClient;
use shared::{
    Wnid,
    job::{Durability, Existing, UrlTemplate},
};
use tokio::{io::DuplexStream, sync::mpsc, task::JoinSet};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::{
    concurrency::{Ceilings, ConcurrencyController},
    counters::labels,
    dispatcher::Dispatcher,
    lease_table::LeaseTable,
    ledger::Writer,
};

mod pacing;

const TERMS: LeaseTerms = LeaseTerms {
    epoch: 7,
    ttl: Duration::from_secs(30),
};

/// A running service with its clients.
struct Running {
    client: CoordinatorClient<Channel>,
    health: HealthClient<Channel>,
    handle: DispatcherHandle,
    shutdown: Shutdown,
    server: JoinSet<Result<(), ServeError>>,
    _dispatcher: JoinSet<()>,
}

/// The options of a job in tests.
pub(crate) fn job() -> JobOptions {
    JobOptions {
        run_id: "run".to_owned(),
        url: UrlTemplate::parse("http://127.0.0.1/x").unwrap(),
        delete_tar: false,
        retries: 5,
        timeout: Duration::from_mins(2),
        existing: Existing::Adopt,
        durability: Durability::Power,
        ca_pem: vec![],
        headers: vec![],
    }
}

impl Running {
    async fn start(count: u32) -> Self {
        Self::start_within(Ceilings::default(), count).await
    }

    async fn start_within(ceilings: Ceilings, count: u32) -> Self {
        let wnids: Vec<Wnid> = (1..=count)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        let table = LeaseTable::new(&wnids, 0, TERMS.epoch, TERMS.ttl);
        let mut dispatcher = JoinSet::new();
        let ledger = Writer::to_nowhere(&mut dispatcher);
        let (owner, handle) = Dispatcher::new(
            table,
            ConcurrencyController::new(ceilings, Instant::now()),
            ledger,
        );
        dispatcher.spawn(owner.run());
        let (connect, connections) = mpsc::channel::<io::Result<DuplexStream>>(1);
        let shutdown = Shutdown::default();
        let incoming = tokio_stream::wrappers::ReceiverStream::new(connections);
        let mut server = JoinSet::new();
        let service = CoordinatorService {
            dispatcher: handle.clone(),
            job: job(),
            terms: TERMS,
            traces: ClassTraces::default(),
            shutdown: shutdown.clone(),
        };
        server.spawn(serve(service, AuthLayer::open(), incoming));
        let channel = Endpoint::from_static("http://in-process")
            .connect_with_connector(tower::service_fn(move |_| {
                let connect = connect.clone();
                async move {
                    let (client, server) = tokio::io::duplex(64 * 1024);
                    connect.send(Ok(server)).await.map_err(io::Error::other)?;
                    Ok::<_, io::Error>(TokioIo::new(client))
                }
            }))
            .await
            .unwrap();
        let client = CoordinatorClient::new(channel.clone());
        let health = HealthClient::new(channel);
        Self {
            client,
            health,
            handle,
            shutdown,
            server,
            _dispatcher: dispatcher,
        }
    }

    async fn register(&mut self) -> proto::RegisterReply {
        self.client
            .register(registration(1))
            .await
            .unwrap()
            .into_inner()
    }

    async fn acquire(&self, session_id: u64, max: u32) -> proto::AcquireReply {
        let request = proto::AcquireRequest {
            session_id,
            max,
            held: vec![],
        };
        self.client
            .clone()
            .acquire(request)
            .await
            .unwrap()
            .into_inner()
    }

    async fn report(
        &self,
        session_id: u64,
        lease: &proto::Lease,
        outcome: proto::outcome::Kind,
    ) -> proto::ReportReply {
        let outcome = Some(proto::Outcome {
            kind: Some(outcome),
        });
        let results = vec![proto::Result {
            wnid: lease.wnid.clone(),
            token: lease.token,
            outcome,
            traceparent: lease.traceparent.clone(),
            needs_lease: false,
        }];
        self.client
            .clone()
            .report(proto::ReportRequest {
                session_id,
                results,
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner()
    }
}

fn registration(protocol_version: u32) -> proto::RegisterRequest {
    proto::RegisterRequest {
        protocol_version,
        worker_name: "host".to_owned(),
        instance_nonce: vec![1],
        slots: 2,
        ..proto::RegisterRequest::default()
    }
}

fn success() -> proto::outcome::Kind {
    proto::outcome::Kind::Success(proto::Published {
        files: 1,
        bytes: 10_240,
    })
}

#[tokio::test(start_paused = true)]
async fn a_worker_registers_acquires_reports_and_leaves() {
    let mut running = Running::start(2).await;
    let registered = running.register().await;
    assert_eq!(
        (registered.epoch, registered.ttl_ms, registered.renew_ms),
        (7, 30_000, 10_000)
    );
    assert_eq!(
        registered.job.unwrap().url_template,
        "http://127.0.0.1/x/{wnid}.tar"
    );
    let session_id = registered.session_id;
    assert_ne!(
        session_id,
        (7 << 32) + 1,
        "a worker must not guess another session by counting"
    );
    let acquired = running.acquire(session_id, 5).await;
    assert_eq!(
        acquired
            .leases
            .iter()
            .map(|lease| lease.wnid.as_str())
            .collect::<Vec<_>>(),
        ["n00000001", "n00000002"]
    );
    assert!(acquired.leases.iter().all(|lease| lease.token >> 32 == 7));
    for lease in &acquired.leases {
        let reply = running.report(session_id, lease, success()).await;
        assert_eq!(reply.acked, *std::slice::from_ref(&lease.wnid));
    }
    let end = running.acquire(session_id, 1).await;
    assert!(end.status.unwrap().done);
    running
        .client
        .leave(proto::LeaveRequest {
            session_id,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(running.handle.status().workers, 0);
    let counters = running.handle.counters();
    assert_eq!(
        (
            counters.grants.get(),
            counters.success.get(),
            counters.failed.get()
        ),
        (2, 2, 0)
    );
    for method in ["Register", "Acquire", "Report", "Leave"] {
        assert!(
            counters
                .calls
                .0
                .get(&labels("Coordinator", method, "OK"))
                .is_some(),
            "{method}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_tells_its_host_which_is_shown_without_control_characters() {
    let mut running = Running::start(1).await;
    for (host, shown) in [
        (
            "rack1-node1.example.org",
            "rack1-node1.example.org".to_owned(),
        ),
        ("", String::new()),
        ("a\u{1b}[2J", r"a\u{1b}[2J".to_owned()),
        (&"x".repeat(5000), "x".repeat(128)),
    ] {
        let request = proto::RegisterRequest {
            host: host.to_owned(),
            instance_nonce: host.len().to_be_bytes().to_vec(),
            ..registration(1)
        };
        running.client.register(request).await.unwrap();
        let fleet = running.handle.fleet().await.unwrap();
        assert_eq!(fleet.workers[0].host, shown);
    }
}

#[tokio::test(start_paused = true)]
async fn acquire_waits_until_a_class_is_returned() {
    let mut running = Running::start(1).await;
    let one = running.register().await.session_id;
    assert_eq!(running.acquire(one, 1).await.leases.len(), 1);
    let other = proto::RegisterRequest {
        worker_name: "other".to_owned(),
        ..registration(1)
    };
    let other = running
        .client
        .register(other)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let start = Instant::now();
    let nothing = running.acquire(other, 1).await;
    assert_eq!(
        (nothing.leases.len(), nothing.directive(), start.elapsed()),
        (0, proto::Directive::Continue, LONG_POLL)
    );
    let leave = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        running
            .client
            .clone()
            .leave(proto::LeaveRequest {
                session_id: one,
                ..Default::default()
            })
            .await
            .unwrap();
    };
    let start = Instant::now();
    let (acquired, ()) = tokio::join!(running.acquire(other, 1), leave);
    assert_eq!(
        (acquired.leases.len(), start.elapsed()),
        (1, Duration::from_secs(3))
    );
}

#[tokio::test(start_paused = true)]
async fn invalid_messages_are_refused_and_a_lost_session_registers_again() {
    let mut running = Running::start(1).await;
    let refused = running.client.register(registration(2)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(
        refused.message().contains("version 2") && refused.message().contains("version 1"),
        "{refused}"
    );
    let held = vec![proto::Held {
        wnid: "../etc".to_owned(),
        token: 1,
        bytes: 0,
        length: 0,
        is_local: false,
    }];
    let request = proto::RegisterRequest {
        held,
        ..registration(1)
    };
    assert_eq!(
        running.client.register(request).await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
    for code in ["FAILED_PRECONDITION", "INVALID_ARGUMENT"] {
        assert!(
            running
                .handle
                .counters()
                .calls
                .0
                .get(&labels("Coordinator", "Register", code))
                .is_some(),
            "{code}"
        );
    }
    let renewed = running
        .client
        .renew(proto::RenewRequest {
            session_id: 99,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(
        renewed.into_inner().directive(),
        proto::Directive::Reregister
    );
    assert_eq!(
        running.acquire(99, 1).await.directive(),
        proto::Directive::Reregister
    );
    let lease = proto::Lease {
        wnid: "n00000001".to_owned(),
        token: 1,
        ..proto::Lease::default()
    };
    let reported = running.report(99, &lease, success()).await;
    assert_eq!(reported.directive(), proto::Directive::Reregister);
    assert_eq!(
        (reported.acked.len(), running.handle.status().success),
        (1, 1),
        "a success is accepted from any session"
    );
}

#[tokio::test(start_paused = true)]
async fn results_beside_a_failure_of_an_unknown_kind_are_accepted() {
    let mut running = Running::start(3).await;
    let session_id = running.register().await.session_id;
    let leases = running.acquire(session_id, 2).await.leases;
    let newer = proto::Failure {
        kind: 77,
        message: "of a newer version".to_owned(),
        suspect: 1,
        ..proto::Failure::default()
    };
    let result = |lease: &proto::Lease, outcome| proto::Result {
        wnid: lease.wnid.clone(),
        token: lease.token,
        outcome: Some(proto::Outcome {
            kind: Some(outcome),
        }),
        traceparent: String::new(),
        needs_lease: false,
    };
    let newer = result(&leases[1], proto::outcome::Kind::Failure(newer));
    let results = vec![result(&leases[0], success()), newer];
    let reply = running
        .client
        .report(proto::ReportRequest {
            session_id,
            results,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        reply.acked,
        [leases[0].wnid.clone(), leases[1].wnid.clone()]
    );
    let status = running.handle.status();
    assert_eq!((status.success, status.failed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_of_two_live_workers_of_one_name_is_refused_with_a_reason() {
    let mut running = Running::start(1).await;
    let older = running.register().await.session_id;
    assert_eq!(running.acquire(older, 1).await.leases.len(), 1);
    let newer = proto::RegisterRequest {
        instance_nonce: vec![2],
        ..registration(1)
    };
    let newer = running
        .client
        .register(newer)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    assert_eq!(running.acquire(newer, 1).await.leases.len(), 1);
    let refused = running.client.register(registration(1)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    assert_eq!(
        refused.message(),
        "two workers are called host; give each its own --name"
    );
    let renew = proto::RenewRequest {
        session_id: newer,
        ..Default::default()
    };
    let renewed = running.client.renew(renew).await.unwrap().into_inner();
    assert_eq!(
        (renewed.directive(), renewed.job_done),
        (proto::Directive::Continue, false)
    );
    assert_eq!(running.handle.status().leased, 1);
    let endless = proto::RegisterRequest {
        instance_nonce: vec![0; 65],
        ..registration(1)
    };
    assert_eq!(
        running.client.register(endless).await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}

#[tokio::test(start_paused = true)]
async fn watchers_see_each_change_and_the_stream_ends_with_the_job() {
    let mut running = Running::start(1).await;
    let mut watch = running
        .client
        .watch(proto::WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().pending, 1);
    let session_id = running.register().await.session_id;
    let lease = running.acquire(session_id, 1).await.leases.remove(0);
    // Consecutive changes may arrive as one.
    while watch.message().await.unwrap().unwrap().leased == 0 {}
    let missing = proto::Failure {
        kind: proto::FailureKind::HttpError.into(),
        message: "404".to_owned(),
        suspect: 1,
        ..proto::Failure::default()
    };
    running
        .report(session_id, &lease, proto::outcome::Kind::Failure(missing))
        .await;
    let last = watch.message().await.unwrap().unwrap();
    assert!(last.done && last.failed == 1);
    assert!(watch.message().await.unwrap().is_none());
}

/// Starts a watch on the program's health, which has sent its first answer.
async fn watch_health(running: &Running) -> Streaming<tonic_health::pb::HealthCheckResponse> {
    let request = tonic_health::pb::HealthCheckRequest {
        service: "imagenet.v1.Coordinator".to_owned(),
    };
    running
        .health
        .clone()
        .watch(request)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test(start_paused = true)]
async fn health_reflects_the_shutdown_and_its_watchers_do_not_delay_it() {
    use tonic_health::pb::health_check_response::ServingStatus;
    let mut running = Running::start(1).await;
    let mut watch = watch_health(&running).await;
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    for (service, found) in [
        ("", true),
        ("imagenet.v1.Coordinator", true),
        ("imagenet.v1.Secret", false),
    ] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = running.health.clone().check(request).await;
        assert_eq!(
            answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving),
            found,
            "{service}"
        );
    }
    running.shutdown.drain.cancel();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    running.shutdown.abort.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(1), running.server.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(Ok(()))))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_workers_to_stop_and_waits_for_no_poll_and_no_stream() {
    let mut running = Running::start(1).await;
    let session_id = running.register().await.session_id;
    running.acquire(session_id, 1).await;
    let _watch = running.client.watch(proto::WatchRequest {}).await.unwrap();
    let other = proto::RegisterRequest {
        worker_name: "other".to_owned(),
        ..registration(1)
    };
    let other = running
        .client
        .register(other)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let start = Instant::now();
    let drain = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        running.shutdown.drain.cancel();
    };
    let (polled, ()) = tokio::join!(running.acquire(other, 1), drain);
    assert_eq!(
        (polled.directive(), start.elapsed()),
        (proto::Directive::Stop, Duration::from_secs(1))
    );
    let renewed = running
        .client
        .renew(proto::RenewRequest {
            session_id,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(renewed.into_inner().directive(), proto::Directive::Stop);
    running.shutdown.abort.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(1), running.server.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(Ok(()))))), "{ended:?}");
}

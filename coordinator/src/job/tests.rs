//! Complete jobs with a worker that implements the protocol and downloads nothing.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use proto::coordinator_client::CoordinatorClient;
use shared::{
    ids::SessionId,
    job::{Durability, Existing, JobOptions},
};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;

use super::{
    stopping::{LEAVE_TIMEOUT, POLL_INTERVAL, all_have_been_told},
    *,
};
use crate::{
    concurrency::Ceilings,
    config::{ClassSource, Exposure, SingleHost},
    dispatcher::Renewal,
    lease_table::{LeaseTable, WorkerInfo},
};

fn plan(target: &std::path::Path, listen: Option<SocketAddr>) -> Plan {
    Plan {
        source: ClassSource::Demo,
        retry_failed: false,
        ledger: target.join("ledger"),
        target: target.to_owned(),
        job: JobOptions {
            run_id: "run".to_owned(),
            url: UrlTemplate::parse("http://127.0.0.1/x").unwrap(),
            delete_tar: false,
            retries: 5,
            timeout: Duration::from_secs(1),
            existing: Existing::Adopt,
            durability: Durability::Power,
            ca_pem: vec![],
            headers: vec![],
        },
        ceilings: Ceilings::default(),
        listen,
        credentials: Arc::new(auth::ServerCredentialFiles::default().open().unwrap()),
        exposure: Exposure::Loopback,
        warnings: Vec::new(),
        http: shared::http::Address {
            address: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            or_any_port: false,
        },
        http_tls: false,
        http_hosts: Vec::new(),
        lease_ttl: Duration::from_secs(30),
        expect: Vec::new(),
        stay: false,
        single_host: Some(SingleHost {
            name: "host".to_owned(),
            slots: 2,
            staging: None,
        }),
    }
}

fn classes() -> ClassList {
    let wnids = ["n00000001", "n00000002", "n00000003"].map(|wnid| wnid.parse().unwrap());
    ClassList {
        wnids: wnids.into(),
        ..ClassList::default()
    }
}

/// The result of a class: the last one of the list has failed.
fn result(lease: proto::Lease) -> proto::Result {
    let kind = if lease.wnid == "n00000003" {
        proto::outcome::Kind::Failure(proto::Failure {
            kind: proto::FailureKind::HttpError.into(),
            message: "404 Client Error".to_owned(),
            suspect: 1,
            ..proto::Failure::default()
        })
    } else {
        proto::outcome::Kind::Success(proto::Published {
            files: 1,
            bytes: 10_240,
        })
    };
    proto::Result {
        wnid: lease.wnid,
        token: lease.token,
        outcome: Some(proto::Outcome { kind: Some(kind) }),
        traceparent: lease.traceparent,
        needs_lease: false,
    }
}

/// Reports every leased class: the last one of the list as failed, the others as success. Leaves
/// with a reason if one is given.
async fn work(worker: DevWorker, reason: &str) -> Result<(), DevWorkerError> {
    let connect = worker.connect.clone();
    let channel = Endpoint::from_static("http://in-process")
        .connect_with_connector(tower::service_fn(move |_| {
            let connect = connect.clone();
            async move {
                let (near, far) = tokio::io::duplex(64 * 1024);
                connect.send(far).await.map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        }))
        .await
        .unwrap();
    let mut client = CoordinatorClient::new(channel);
    let register = proto::RegisterRequest {
        protocol_version: 1,
        worker_name: worker.config.name,
        instance_nonce: vec![1],
        ..proto::RegisterRequest::default()
    };
    let session_id = client
        .register(register)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    while reason.is_empty() {
        let acquire = proto::AcquireRequest {
            session_id,
            max: 1,
            held: vec![],
        };
        let acquired = client.acquire(acquire).await.unwrap().into_inner();
        let is_done = acquired.status.is_some_and(|status| status.done);
        if is_done || acquired.directive() == proto::Directive::Stop {
            break;
        }
        let results = acquired.leases.into_iter().map(result);
        let report = proto::ReportRequest {
            session_id,
            results: results.collect(),
            ..Default::default()
        };
        client.report(report).await.unwrap();
        if worker.shutdown.drain.is_cancelled() {
            break;
        }
    }
    let leave = proto::LeaveRequest {
        session_id,
        reason: reason.to_owned(),
    };
    client.leave(leave).await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_job_ends_with_its_summary_and_the_exit_code_of_its_worst_class() {
    let folder = tempfile::tempdir().unwrap();
    let mut out = Vec::new();
    let shutdown = Shutdown::default();
    let plan = plan(folder.path(), None);
    let exit = run(
        plan,
        &classes(),
        &Screen::Silent,
        &shutdown,
        &mut out,
        |worker| work(worker, ""),
    )
    .await;
    assert_eq!(exit.unwrap(), Exit::SomeFailed);
    let out = String::from_utf8(out).unwrap();
    assert!(
        out.contains("✓ Success: 2\n⊘ Skipped: 0\n✗ Failed:  1\nTotal:     3\n"),
        "{out}"
    );
    let log = std::fs::read_to_string(folder.path().join(crate::failure_log::NAME)).unwrap();
    assert_eq!(log, "n00000003 - HTTPError: 404 Client Error\n");
}

#[tokio::test]
async fn a_job_ends_with_a_reason_if_its_only_worker_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut out = Vec::new();
    let shutdown = Shutdown::default();
    let plan = plan(folder.path(), None);
    let stops = |worker| async { work(worker, "the disk is full").await };
    let error = run(
        plan,
        &classes(),
        &Screen::Silent,
        &shutdown,
        &mut out,
        stops,
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "go on: worker host stopped: the disk is full"
    );
    assert!(out.is_empty());
}

#[tokio::test]
async fn an_interrupted_job_writes_no_summary_and_waits_for_a_stuck_worker_only_until_a_deadline() {
    let folder = tempfile::tempdir().unwrap();
    for (aborts, least, deadline) in [
        (false, RETURN_TIMEOUT, Duration::from_mins(1)),
        (true, Duration::ZERO, RETURN_TIMEOUT),
    ] {
        let mut out = Vec::new();
        let shutdown = Shutdown::default();
        let start = Instant::now();
        shutdown.drain.cancel();
        if aborts {
            shutdown.abort.cancel();
        }
        let plan = plan(folder.path(), None);
        let stuck = |worker: DevWorker| async move {
            let _worker = worker;
            std::future::pending().await
        };
        let exit = timeout(
            deadline,
            run(
                plan,
                &classes(),
                &Screen::Silent,
                &shutdown,
                &mut out,
                stuck,
            ),
        )
        .await;
        assert_eq!(exit.expect("it ends").unwrap(), Exit::Interrupted);
        assert!(out.is_empty());
        let waited = start.elapsed();
        assert!(waited >= least, "{waited:?}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_refused_before_the_last_failure_log_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join(crate::failure_log::NAME);
    std::fs::write(&log, "n00000009 - Timeout: of the last run\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let plan = plan(folder.path(), Some(address));
    let none = |_| async { Ok(()) };
    let result = run(
        plan,
        &classes(),
        &Screen::Silent,
        &Shutdown::default(),
        io::sink(),
        none,
    )
    .await;
    let error = result.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("listen on {address}: the address is in use; "))
            && error.ends_with(" with --listen"),
        "{error}"
    );
    assert!(
        std::fs::read_to_string(log)
            .unwrap()
            .starts_with("n00000009")
    );
}

fn renewal(session: SessionId) -> Renewal {
    Renewal {
        session,
        credential: None,
        held: vec![],
        received: 0,
    }
}

/// Prevents a paused clock from advancing, as any task of the blocking pool does, until the
/// returned sender is dropped.
fn stand_still() -> std::sync::mpsc::Sender<()> {
    let (end, ended) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || ended.recv());
    end
}

#[tokio::test(start_paused = true)]
async fn a_finished_job_waits_for_its_own_worker_to_clean_up_until_a_second_signal() {
    let _still = stand_still();
    for second_signal in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let shutdown = Shutdown::default();
        let mark = folder.path().join("cleaned up");
        let cleans_slowly = |worker: DevWorker| {
            let mark = mark.clone();
            let shutdown = worker.shutdown.clone();
            async move {
                work(worker, "").await?;
                for _ in 0..100 {
                    tokio::time::advance(Duration::from_secs(1)).await;
                }
                if second_signal {
                    shutdown.abort.cancel();
                    std::future::pending::<()>().await;
                }
                std::fs::write(mark, "").unwrap();
                Ok(())
            }
        };
        let plan = plan(folder.path(), None);
        let exit = run(
            plan,
            &classes(),
            &Screen::Silent,
            &shutdown,
            &mut out,
            cleans_slowly,
        )
        .await;
        assert_eq!(exit.unwrap(), Exit::SomeFailed);
        assert_eq!(mark.exists(), !second_signal);
        assert!(!out.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn remote_workers_are_waited_for_until_they_have_left_or_are_disconnected() {
    let mut tasks = JoinSet::new();
    let ttl = Duration::from_secs(30);
    let table = LeaseTable::new(&classes().wnids, 0, 1, ttl);
    let controller = ConcurrencyController::new(Ceilings::default(), Instant::now());
    let (dispatcher, handle) = Dispatcher::new(table, controller, Writer::to_nowhere(&mut tasks));
    tasks.spawn(dispatcher.run());
    let worker_info = |name: &str| WorkerInfo {
        worker: name.to_owned(),
        instance: name.into(),
        slots: 10,
        ..WorkerInfo::default()
    };
    let leaves = handle
        .register(worker_info("leaves"), vec![])
        .await
        .unwrap()
        .session;
    let cut_off = handle
        .register(worker_info("cut off"), vec![])
        .await
        .unwrap()
        .session;
    let heard = Instant::now();
    let backs_off = async {
        sleep(Duration::from_secs(12)).await;
        handle.renew(renewal(leaves)).await.unwrap();
        sleep(Duration::from_secs(12)).await;
        handle.leave(leaves, None).await.unwrap();
    };
    tokio::join!(all_have_been_told(handle.clone(), ttl), backs_off);
    assert!(
        heard.elapsed() < Duration::from_secs(25),
        "the disconnected worker is not waited for"
    );
    handle.renew(renewal(cut_off)).await.unwrap();
    let heard = Instant::now();
    all_have_been_told(handle.clone(), ttl).await;
    assert!((Duration::from_secs(15)..Duration::from_secs(16)).contains(&heard.elapsed()));
}

#[tokio::test]
async fn a_job_whose_dispatcher_has_ended_does_not_count_as_finished() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::default();
    let plan = plan(folder.path(), None);
    let job = Job::start(plan, &classes(), &Screen::Silent, &shutdown).await;
    let (mut job, _worker) = job.unwrap().expect("there is something to do");
    job.dispatcher.abort_all();
    let end = job.until_end(&Screen::Silent, &shutdown).await;
    assert!(
        matches!(end, Err(CoordinatorError::DispatcherDied)),
        "{end:?}"
    );
    job.stop(Grace::Limited(Duration::ZERO), &shutdown.abort)
        .await
        .unwrap();
}

#[test]
fn a_different_query_is_a_different_job_although_it_is_not_shown() {
    let of = |url: &str| digest(&classes(), &UrlTemplate::parse(url).unwrap(), false);
    assert_ne!(of("http://h/{wnid}?v=1"), of("http://h/{wnid}?v=2"));
    assert_eq!(
        of("http://old:secret@h/{wnid}"),
        of("http://new:secret@h/{wnid}")
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_a_worker_that_has_left() {
    let ttl = Duration::from_secs(30);
    let mut tasks = JoinSet::new();
    let table = LeaseTable::new(&[], 0, 1, ttl);
    let controller = ConcurrencyController::new(Ceilings::default(), Instant::now());
    let (dispatcher, handle) = Dispatcher::new(table, controller, Writer::to_nowhere(&mut tasks));
    tasks.spawn(dispatcher.run());
    let worker_info = WorkerInfo {
        worker: "host".to_owned(),
        instance: "host".into(),
        slots: 10,
        ..WorkerInfo::default()
    };
    let session = handle.register(worker_info, vec![]).await.unwrap().session;
    let leaves = async {
        sleep(POLL_INTERVAL / 2).await;
        handle.leave(session, None).await.unwrap();
        Instant::now()
    };
    let (all_left, left) = tokio::join!(all_have_been_told(handle.clone(), ttl), leaves);
    assert!(all_left);
    assert_eq!(left.elapsed(), Duration::ZERO);
}

/// The clock is paused and never advances, so code that waits for it would never return.
#[test]
fn a_worker_waits_for_no_clock_from_the_start_of_a_job_to_its_end() {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Checking existing folders takes a while. They are not of this job.
        (0..1000).for_each(|number| {
            std::fs::create_dir(folder.path().join(format!("n1{number:07}"))).unwrap();
        });
        // No server listens there, so each class fails at once.
        let mut plan = plan(folder.path(), None);
        plan.lease_ttl = Duration::from_hours(1); // renewals have a clock of their own
        plan.job = JobOptions {
            url: UrlTemplate::parse("http://127.0.0.1:1").unwrap(),
            retries: 0,
            ..plan.job
        };
        let classes = classes();
        let shutdown = Shutdown::default();
        let mut out = Vec::new();
        let job = run(
            plan,
            &classes,
            &Screen::Silent,
            &shutdown,
            &mut out,
            dev::run_worker,
        );
        let exit = runtime.block_on(async {
            let _still = stand_still();
            job.await
        });
        ended.send(exit.unwrap()).unwrap();
    });
    assert_eq!(
        end.recv_timeout(Duration::from_secs(20)),
        Ok(Exit::SomeFailed)
    );
}

/// The coordinator was suspended for longer than the wait for workers. They receive the end when it
/// continues.
#[tokio::test(start_paused = true)]
async fn a_coordinator_that_was_suspended_still_tells_workers_the_end() {
    let ttl = Duration::from_secs(30);
    let mut tasks = JoinSet::new();
    let controller = ConcurrencyController::new(Ceilings::default(), Instant::now());
    let table = LeaseTable::new(&[], 0, 1, ttl);
    let (dispatcher, handle) = Dispatcher::new(table, controller, Writer::to_nowhere(&mut tasks));
    tasks.spawn(dispatcher.run());
    let worker_info = WorkerInfo {
        worker: "host".to_owned(),
        instance: "host".into(),
        slots: 10,
        ..WorkerInfo::default()
    };
    let session = handle.register(worker_info, vec![]).await.unwrap().session;
    let leaves = async {
        sleep(POLL_INTERVAL / 2).await;
        tokio::time::advance(LEAVE_TIMEOUT * 4).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(handle.status().workers, 1);
        handle.leave(session, None).await.unwrap();
        Instant::now()
    };
    let (all_left, left) = tokio::join!(all_have_been_told(handle.clone(), ttl), leaves);
    assert!(all_left);
    assert_eq!(left.elapsed(), Duration::ZERO, "it was waited for");
    let worker_info = WorkerInfo {
        worker: "deaf".to_owned(),
        instance: "deaf".into(),
        slots: 10,
        ..WorkerInfo::default()
    };
    let deaf = handle.register(worker_info, vec![]).await.unwrap().session;
    let stays = async {
        for _ in 0..20 {
            sleep(Duration::from_secs(1)).await;
            handle.renew(renewal(deaf)).await.unwrap();
        }
    };
    let begun = Instant::now();
    let heard = async {
        (
            all_have_been_told(handle.clone(), ttl).await,
            begun.elapsed(),
        )
    };
    let ((all_left, took), ()) = tokio::join!(heard, stays);
    assert!(
        !all_left && (LEAVE_TIMEOUT..LEAVE_TIMEOUT + Duration::from_secs(1)).contains(&took),
        "{took:?}"
    );
}

//! The dispatcher with a lease table and with a ledger that stores nothing or keeps everything in
//! memory.

use shared::{
    Wnid,
    ids::{LeaseToken, SessionId},
    job::JobStatus,
    outcome::{Failure, FailureKind, Outcome, Published},
};
use tokio::{sync::oneshot, task::JoinSet};

use super::*;
use crate::{
    concurrency::{Ceilings, Observation},
    failure_log::{self, FailureLog},
    fleet::Phase,
    lease_table::{Lease, ReportedLease, UnknownSession, WorkerInfo},
};

const TTL: Duration = Duration::from_secs(30);

impl From<SessionId> for Reporter {
    fn from(session: SessionId) -> Self {
        Self {
            session,
            name: None,
            requests: 0,
            received: 0,
        }
    }
}

/// A running dispatcher and its handle.
struct Running {
    handle: DispatcherHandle,
    folder: tempfile::TempDir,
    _task: JoinSet<()>,
}

impl Running {
    fn start(count: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut task = JoinSet::new();
        let ledger = Writer::to_log(FailureLog::open(folder.path()).unwrap(), &mut task);
        Self::with(count, ledger, folder, task)
    }

    /// Like [`Self::start`], with a ledger whose entries are confirmed by the test only.
    fn start_keeping(count: u32) -> (Self, mpsc::Receiver<Entry>) {
        let (writer, kept) = Writer::channel();
        (
            Self::with(count, writer, tempfile::tempdir().unwrap(), JoinSet::new()),
            kept,
        )
    }

    fn with(count: u32, ledger: Writer, folder: tempfile::TempDir, mut task: JoinSet<()>) -> Self {
        let wnids: Vec<Wnid> = (1..=count)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        let table = LeaseTable::new(&wnids, 0, 1, TTL);
        let (dispatcher, handle) = Dispatcher::new(
            table,
            ConcurrencyController::new(Ceilings::default(), Instant::now()),
            ledger,
        );
        task.spawn(dispatcher.run());
        Self {
            handle,
            folder,
            _task: task,
        }
    }

    async fn session(&self, name: &str) -> SessionId {
        let worker_info = WorkerInfo {
            worker: name.to_owned(),
            instance: name.into(),
            slots: 100,
            ..WorkerInfo::default()
        };
        self.handle
            .register(worker_info, vec![])
            .await
            .unwrap()
            .session
    }

    async fn leases(&self, session: SessionId, max: usize) -> Vec<Lease> {
        self.handle
            .acquire(session, max, Vec::new())
            .await
            .unwrap()
            .leases
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(failure_log::NAME)).unwrap()
    }
}

fn held(leases: &[Lease]) -> Vec<ReportedLease> {
    leases
        .iter()
        .map(|lease| ReportedLease {
            lease: *lease,
            bytes: 0,
            length: 0,
            is_local: false,
        })
        .collect()
}

fn renewal(session: SessionId, held: Vec<ReportedLease>, received: u64) -> Renewal {
    Renewal {
        session,
        credential: None,
        held,
        received,
    }
}

fn failed(lease: Lease) -> Reported {
    let outcome = Outcome::Failed(Failure::new(
        FailureKind::Timeout,
        "Request timeout after 120s",
    ));
    Reported {
        lease,
        outcome,
        needs_lease: false,
    }
}

fn success(lease: Lease) -> Reported {
    let outcome = Outcome::Success(Published {
        files: 2,
        bytes: 10_240,
    });
    Reported {
        lease,
        outcome,
        needs_lease: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_to_its_end_and_the_log_names_the_failed_classes() {
    let running = Running::start(2);
    let session = running.session("host").await;
    let leases = running.leases(session, 5).await;
    running
        .handle
        .renew(renewal(session, held(&leases), 77))
        .await
        .unwrap();
    running
        .handle
        .report(session, vec![success(leases[0]), failed(leases[1])])
        .await
        .unwrap();
    running
        .handle
        .report(session, vec![failed(leases[1])])
        .await
        .unwrap();
    running.handle.leave(session, None).await.unwrap();
    let expected = JobStatus {
        total: 2,
        success: 1,
        failed: 1,
        received_bytes: 77,
        ..JobStatus::default()
    };
    assert_eq!(running.handle.status(), expected);
    assert_eq!(
        running.log(),
        "n00000002 - Timeout: Request timeout after 120s\n"
    );
    let late = running
        .handle
        .report(session, vec![success(leases[1])])
        .await;
    assert!(!late.unwrap().is_known);
    assert_eq!(running.log(), "", "a later success removes the line");
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_loses_its_leases_and_the_watchers_are_notified() {
    let running = Running::start(1);
    let session = running.session("host").await;
    let leases = running.leases(session, 1).await;
    let start = Instant::now();
    running
        .handle
        .watch()
        .wait_for(|status| status.pending == 1)
        .await
        .unwrap();
    let waited = start.elapsed();
    assert!(
        waited >= TTL + Duration::from_secs(10) && waited <= TTL + Duration::from_secs(12),
        "{waited:?}"
    );
    assert_eq!(
        running
            .handle
            .renew(renewal(session, held(&leases), 0))
            .await,
        Err(UnknownSession.into())
    );
}

#[tokio::test(start_paused = true)]
async fn the_cause_is_known_when_the_origin_fails_for_all_workers() {
    let running = Running::start(40);
    let session = running.session("host").await;
    assert_eq!(running.handle.live_view().await.unwrap().outage, None);
    let leases = running.leases(session, 20).await;
    let failures = leases.into_iter().map(failed).collect();
    running.handle.report(session, failures).await.unwrap();
    let view = running.handle.live_view().await.unwrap();
    assert_eq!(view.fleet.phase, Phase::OriginPaused);
    let cause = Some("Request timeout after 120s".to_owned());
    assert_eq!(view.outage, cause);
}

#[tokio::test(start_paused = true)]
async fn leases_whose_receiver_was_dropped_are_pending_at_once() {
    let running = Running::start(1);
    let session = running.session("host").await;
    let (reply, answer) = oneshot::channel();
    drop(answer);
    running
        .handle
        .commands
        .send(Box::new(move |dispatcher| {
            dispatcher.acquire(session, 1, &[], reply)
        }))
        .await
        .unwrap();
    running.handle.leave(SessionId(0), None).await.unwrap();
    assert_eq!(
        (
            running.handle.status().leased,
            running.handle.status().pending
        ),
        (0, 1)
    );
}

/// The first of two successes shows that the origin answers, so the class in doubt has failed. The
/// second success corrects that.
#[tokio::test(start_paused = true)]
async fn a_settlement_and_its_correction_in_one_report_are_stored_in_that_order() {
    let (running, mut kept) = Running::start_keeping(3);
    let records = async {
        let mut records = Vec::new();
        let mut corrected = Vec::new();
        while let Some(entry) = kept.recv().await {
            assert!(
                entry
                    .corrected
                    .iter()
                    .all(|wnid| entry.records.iter().any(|record| record.wnid == *wnid))
            );
            corrected.extend(entry.corrected);
            records.extend(
                entry
                    .records
                    .into_iter()
                    .map(|record| (record.wnid, record.outcome)),
            );
            entry.durable.into_iter().for_each(|durable| durable());
        }
        (records, corrected)
    };
    let story = async move {
        let session = running.session("host").await;
        let doubtful = running.leases(session, 1).await[0];
        running
            .handle
            .report(session, vec![failed(doubtful)])
            .await
            .unwrap();
        let lease = running.leases(session, 1).await[0];
        running
            .handle
            .report(session, vec![success(lease), success(doubtful)])
            .await
            .unwrap();
        let status = running.handle.status();
        assert_eq!((status.success, status.failed), (2, 0));
        [
            (lease.wnid, true),
            (doubtful.wnid, false),
            (doubtful.wnid, true),
        ]
    };
    let ((records, corrected), expected) = tokio::join!(records, story);
    assert_eq!(
        corrected,
        [expected[1].0],
        "its line is removed from the failure log"
    );
    let kept: Vec<_> = records
        .iter()
        .map(|(wnid, outcome)| (*wnid, matches!(outcome, Outcome::Success(_))))
        .collect();
    assert_eq!(kept, expected);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_job_is_published_only_after_the_ledger_has_stored_it() {
    let (running, mut kept) = Running::start_keeping(1);
    let lease = Lease {
        wnid: "n00000001".parse().unwrap(),
        token: LeaseToken(0),
    };
    let handle = running.handle.clone();
    let mut reporting = JoinSet::new();
    reporting.spawn(async move { handle.report(SessionId(1), vec![success(lease)]).await });
    let entry = kept.recv().await.unwrap();
    running.handle.heard_of(Duration::ZERO).await.unwrap();
    let phase = running.handle.watch_phase();
    assert_eq!(
        (running.handle.status().success, *phase.borrow()),
        (0, Phase::WaitingForWorkers)
    );
    entry.durable.unwrap()();
    assert!(running.handle.status().is_done());
    assert_eq!(*phase.borrow(), Phase::Done);
    assert_eq!(
        reporting.join_next().await.unwrap().unwrap().unwrap().acked,
        [lease.wnid]
    );
}

#[tokio::test(start_paused = true)]
async fn of_an_unknown_session_a_failure_is_not_acknowledged_and_a_success_is() {
    let running = Running::start(2);
    let [one, other] = [1, 2].map(|number| Lease {
        wnid: format!("n{number:08}").parse().unwrap(),
        token: LeaseToken(7),
    });
    let receipt = running
        .handle
        .report(SessionId(99), vec![failed(one), success(other)])
        .await
        .unwrap();
    assert_eq!(
        receipt,
        Receipt {
            acked: vec![other.wnid],
            is_known: false
        }
    );
}

/// The coordinator was restarted, and the result arrives before the registration.
#[tokio::test(start_paused = true)]
async fn a_result_of_an_unknown_session_belongs_to_the_named_worker() {
    let (running, mut kept) = Running::start_keeping(2);
    let kept = async {
        let mut workers = Vec::new();
        while let Some(entry) = kept.recv().await {
            workers.extend(
                entry
                    .records
                    .into_iter()
                    .map(|record| (record.wnid.to_string(), record.worker)),
            );
            entry.durable.into_iter().for_each(|durable| durable());
        }
        workers
    };
    let story = async move {
        let known = running.session("host").await;
        for (number, session) in [(1, SessionId(99)), (2, known)] {
            let lease = Lease {
                wnid: format!("n{number:08}").parse().unwrap(),
                token: LeaseToken(7),
            };
            let reporter = Reporter {
                session,
                name: Some("said".to_owned()),
                requests: 0,
                received: 0,
            };
            running
                .handle
                .report(reporter, vec![success(lease)])
                .await
                .unwrap();
        }
    };
    let (workers, ()) = tokio::join!(kept, story);
    let expected = [("n00000001", "said"), ("n00000002", "host")];
    assert_eq!(
        workers,
        expected.map(|(wnid, worker)| (wnid.to_owned(), Some(worker.to_owned())))
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_because_of_an_error_gives_the_reason() {
    let running = Running::start(1);
    let session = running.session("host").await;
    running
        .handle
        .leave(session, Some("the disk is full".to_owned()))
        .await
        .unwrap();
    let stopped = WorkerStopped {
        name: "host".to_owned(),
        reason: "the disk is full".to_owned(),
    };
    assert_eq!(*running.handle.watch_stopped().borrow(), Some(stopped));
    assert_eq!(running.handle.status().workers, 0);
}

/// The end of the job waits for the ledger, and so does the end of a worker's session. Meanwhile a
/// success corrects the only failure.
#[tokio::test(start_paused = true)]
async fn counts_that_waited_for_the_ledger_do_not_replace_later_ones() {
    let (running, mut kept) = Running::start_keeping(1);
    let mut calls = JoinSet::new();
    let confirm = |entry: Entry| entry.durable.unwrap()();
    let registering = running.session("host");
    let (session, ()) = tokio::join!(registering, async { confirm(kept.recv().await.unwrap()) });
    let lease = running.leases(session, 1).await[0];
    let handle = running.handle.clone();
    calls.spawn(async move { drop(handle.report(session, vec![failed(lease)]).await) });
    let end = kept.recv().await.unwrap();
    running.handle.leave(session, None).await.unwrap();
    let leave_entry = kept.recv().await.unwrap();
    confirm(end);
    assert_eq!(
        (
            running.handle.status().failed,
            running.handle.status().is_done()
        ),
        (1, true)
    );
    let handle = running.handle.clone();
    calls.spawn(async move { drop(handle.report(SessionId(0), vec![success(lease)]).await) });
    let correction = kept.recv().await.unwrap();
    assert_eq!(
        (
            running.handle.status().success,
            running.handle.status().failed
        ),
        (1, 0)
    );
    confirm(leave_entry);
    assert_eq!(
        (
            running.handle.status().success,
            running.handle.status().failed
        ),
        (1, 0),
        "the success was accepted before"
    );
    confirm(correction);
    assert_eq!(
        (
            running.handle.status().success,
            running.handle.status().failed
        ),
        (1, 0)
    );
}

/// SIGSTOP, a paused container, or a disk that hangs: the clock continues, but no message from
/// workers is processed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_suspension_of_the_coordinator_does_not_expire_leases() {
    for first_comes_a_tick in [true, false] {
        let running = Running::start(2);
        let [session, idle] = [running.session("host").await, running.session("idle").await];
        let leases = running.leases(session, 1).await;
        // All timers fire at once, the tick among them.
        tokio::time::advance(TTL * 3).await;
        if first_comes_a_tick {
            tokio::time::sleep(TICK).await;
        }
        assert_eq!(running.handle.heard_of(TTL).await, Ok(2));
        let fleet = running.handle.fleet().await.unwrap();
        assert_eq!(
            (fleet.job.leased, fleet.workers.len()),
            (1, 2),
            "no session has ended"
        );
        assert!(
            running
                .leases(idle, 2)
                .await
                .iter()
                .all(|lease| lease.wnid != leases[0].wnid)
        );
        assert_eq!(
            running
                .handle
                .renew(renewal(session, held(&leases), 0))
                .await
                .map(|renewed| renewed.drop),
            Ok(vec![])
        );
        // From now on the silence of the workers counts again.
        tokio::time::sleep(TTL + Duration::from_secs(12)).await;
        assert_eq!(running.handle.status().workers, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_reported_counters_do_not_overflow() {
    let running = Running::start(2);
    for name in ["one", "other"] {
        let session = running.session(name).await;
        let most = Observation {
            open: 1,
            received: u64::MAX,
            requests: u64::MAX,
            cuts: u64::MAX,
            refusals: u64::MAX,
            ..Observation::default()
        };
        for reported in [Observation::default(), most, Observation::default(), most] {
            let live = crate::lease_table::LiveReport::default();
            running
                .handle
                .observe(session, reported, live)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(
            running
                .handle
                .renew(renewal(session, vec![], u64::MAX))
                .await
                .map(|renewed| renewed.drop),
            Ok(vec![])
        );
    }
    let fleet = running.handle.fleet().await.unwrap();
    assert_eq!(
        (fleet.job.received_bytes, fleet.origin.requests),
        (u64::MAX, u64::MAX)
    );
}

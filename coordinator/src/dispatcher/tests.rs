//! The dispatcher with a table of its own and a ledger that keeps nothing, or all in memory.

use shared::{ids::LeaseToken, outcome::Published};
use tokio::{sync::oneshot, task::JoinSet};

use super::*;
use crate::{
    lease_table::{Held, Hello, Lease, UnknownSession},
    pace::Ceilings,
};

const TTL: Duration = Duration::from_secs(30);

struct Running {
    handle: DispatcherHandle,
    folder: tempfile::TempDir,
    _task: JoinSet<()>,
}

impl Running {
    fn start(count: u32, invalid: &[InvalidRow]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wnids: Vec<Wnid> = (1..=count).map(|number| format!("n{number:08}").parse().unwrap()).collect();
        let table = LeaseTable::new(&wnids, invalid.len() as u64, 1, TTL);
        let mut task = JoinSet::new();
        let log = FailureLog::create(folder.path()).unwrap();
        let (dispatcher, handle) = Dispatcher::new(
            table,
            Pace::new(Ceilings::default(), Instant::now()),
            log,
            Writer::to_nowhere(&mut task),
            invalid,
        );
        task.spawn(dispatcher.run());
        Self { handle, folder, _task: task }
    }

    /// As [`Self::start`], with a ledger from which nothing is confirmed but by the test.
    fn start_keeping(count: u32) -> (Self, mpsc::Receiver<Entry>) {
        let folder = tempfile::tempdir().unwrap();
        let wnids: Vec<Wnid> = (1..=count).map(|number| format!("n{number:08}").parse().unwrap()).collect();
        let (writer, kept) = Writer::channel();
        let log = FailureLog::create(folder.path()).unwrap();
        let table = LeaseTable::new(&wnids, 0, 1, TTL);
        let (dispatcher, handle) =
            Dispatcher::new(table, Pace::new(Ceilings::default(), Instant::now()), log, writer, &[]);
        let mut task = JoinSet::new();
        task.spawn(dispatcher.run());
        (Self { handle, folder, _task: task }, kept)
    }

    async fn session(&self, name: &str) -> SessionId {
        let hello = Hello { worker: name.to_owned(), instance: name.into(), ..Hello::default() };
        self.handle.register(hello, vec![]).await.unwrap().session
    }

    async fn leases(&self, session: SessionId, max: usize) -> Vec<Lease> {
        self.handle.acquire(session, max).await.unwrap().leases
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(failure_log::NAME)).unwrap()
    }
}

fn held(leases: &[Lease]) -> Vec<Held> {
    leases.iter().map(|lease| Held { lease: *lease, bytes: 0, length: 0 }).collect()
}

fn failed(lease: Lease) -> Reported {
    Reported { lease, outcome: Outcome::Failed(Failure::new(FailureKind::Timeout, "Request timeout after 120s")) }
}

fn success(lease: Lease) -> Reported {
    Reported { lease, outcome: Outcome::Success(Published { files: 2, bytes: 10_240 }) }
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_to_its_end_and_the_log_names_what_failed() {
    let invalid = [InvalidRow { line: 4, value: "cat".to_owned(), after: 2 }];
    let running = Running::start(2, &invalid);
    let session = running.session("host").await;
    let leases = running.leases(session, 5).await;
    running.handle.renew(session, held(&leases), 77).await.unwrap();
    running.handle.report(session, vec![success(leases[0]), failed(leases[1])]).await.unwrap();
    running.handle.report(session, vec![failed(leases[1])]).await.unwrap();
    running.handle.leave(session, None).await.unwrap();
    let expected = JobStatus { total: 3, success: 1, failed: 2, received_bytes: 77, ..JobStatus::default() };
    assert_eq!(running.handle.status(), expected);
    assert_eq!(
        running.log(),
        "cat - InvalidWnid: line 4: not a WordNet id (n and eight digits, like n02124075)\n\
         n00000002 - Timeout: Request timeout after 120s\n"
    );
    let late = running.handle.report(session, vec![success(leases[1])]).await;
    assert!(!late.unwrap().is_known);
    assert_eq!(running.log().lines().count(), 1, "late good news takes the line out again");
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_loses_its_leases_and_the_watchers_hear_of_it() {
    let running = Running::start(1, &[]);
    let session = running.session("host").await;
    let leases = running.leases(session, 1).await;
    let start = Instant::now();
    running.handle.watch().wait_for(|status| status.pending == 1).await.unwrap();
    let waited = start.elapsed();
    assert!(waited >= TTL + Duration::from_secs(10) && waited <= TTL + Duration::from_secs(12), "{waited:?}");
    assert_eq!(running.handle.renew(session, held(&leases), 0).await, Err(UnknownSession.into()));
}

#[tokio::test(start_paused = true)]
async fn leases_whose_receiver_went_away_are_pending_at_once() {
    let running = Running::start(1, &[]);
    let session = running.session("host").await;
    let (reply, answer) = oneshot::channel();
    drop(answer);
    running.handle.commands.send(Command::Acquire { session, max: 1, reply }).await.unwrap();
    running.handle.leave(SessionId(0), None).await.unwrap();
    assert_eq!((running.handle.status().leased, running.handle.status().pending), (0, 1));
}

/// The first of two good news says that the origin is there, so the class in doubt has failed; the second corrects that.
#[tokio::test(start_paused = true)]
async fn what_is_settled_and_corrected_in_one_report_is_kept_in_that_order() {
    let (running, mut kept) = Running::start_keeping(3);
    let records = async {
        let mut records = Vec::new();
        while let Some(entry) = kept.recv().await {
            records.extend(entry.records.into_iter().map(|record| (record.wnid, record.outcome)));
            entry.durable.into_iter().for_each(|durable| durable());
        }
        records
    };
    let story = async move {
        let session = running.session("host").await;
        let doubtful = running.leases(session, 1).await[0];
        running.handle.report(session, vec![failed(doubtful)]).await.unwrap();
        let lease = running.leases(session, 1).await[0];
        running.handle.report(session, vec![success(lease), success(doubtful)]).await.unwrap();
        let status = running.handle.status();
        assert_eq!((status.success, status.failed, running.log().as_str()), (2, 0, ""));
        [(lease.wnid, true), (doubtful.wnid, false), (doubtful.wnid, true)]
    };
    let (records, expected) = tokio::join!(records, story);
    let kept: Vec<_> = records.iter().map(|(wnid, outcome)| (*wnid, matches!(outcome, Outcome::Success(_)))).collect();
    assert_eq!(kept, expected);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_that_the_job_is_done_before_the_ledger_has_it() {
    let (running, mut kept) = Running::start_keeping(1);
    let lease = Lease { wnid: "n00000001".parse().unwrap(), token: LeaseToken(0) };
    let handle = running.handle.clone();
    let mut reporting = JoinSet::new();
    reporting.spawn(async move { handle.report(SessionId(1), vec![success(lease)]).await });
    let entry = kept.recv().await.unwrap();
    running.handle.heard_of(Duration::ZERO).await.unwrap();
    let phase = running.handle.watch_phase();
    assert_eq!((running.handle.status().success, *phase.borrow()), (0, Phase::WaitingForWorkers));
    entry.durable.unwrap()();
    assert!(running.handle.status().is_done());
    assert_eq!(*phase.borrow(), Phase::Done);
    assert_eq!(reporting.join_next().await.unwrap().unwrap().unwrap().acked, [lease.wnid]);
}

#[tokio::test(start_paused = true)]
async fn bad_news_of_a_session_that_is_not_known_is_not_acknowledged_and_good_news_is() {
    let running = Running::start(2, &[]);
    let [one, other] =
        [1, 2].map(|number| Lease { wnid: format!("n{number:08}").parse().unwrap(), token: LeaseToken(7) });
    let receipt = running.handle.report(SessionId(99), vec![failed(one), success(other)]).await.unwrap();
    assert_eq!(receipt, Receipt { acked: vec![other.wnid], is_known: false });
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_go_on_says_why() {
    let running = Running::start(1, &[]);
    let session = running.session("host").await;
    running.handle.leave(session, Some("the disk is full".to_owned())).await.unwrap();
    let stopped = WorkerStopped { name: "host".to_owned(), reason: "the disk is full".to_owned() };
    assert_eq!(*running.handle.watch_stopped().borrow(), Some(stopped));
    assert_eq!(running.handle.status().workers, 0);
}

//! The dispatcher with a table of its own and a ledger that keeps nothing.

use shared::outcome::Published;
use tokio::{sync::oneshot, task::JoinSet};

use super::*;
use crate::lease_table::{Held, Hello, Lease, UnknownSession};

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
        let (dispatcher, handle) = Dispatcher::new(table, log, Writer::to_nowhere(&mut task), invalid);
        task.spawn(dispatcher.run());
        Self { handle, folder, _task: task }
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
    leases.iter().map(|lease| Held { lease: *lease, bytes: 0 }).collect()
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
    assert_eq!(late, Err(UnknownSession.into()));
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

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_go_on_says_why() {
    let running = Running::start(1, &[]);
    let session = running.session("host").await;
    running.handle.leave(session, Some("the disk is full".to_owned())).await.unwrap();
    let stopped = WorkerStopped { name: "host".to_owned(), reason: "the disk is full".to_owned() };
    assert_eq!(*running.handle.watch_stopped().borrow(), Some(stopped));
    assert_eq!(running.handle.status().workers, 0);
}

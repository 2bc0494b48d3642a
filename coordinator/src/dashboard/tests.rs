//! The data of the page, with a real dispatcher and a real ledger.

use std::time::Duration;

use serde_json::Value;
use shared::{
    Wnid,
    ids::SessionId,
    outcome::{Failure, FailureKind, Outcome, Published},
};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Dashboard, JobFacts, Subscription};
use crate::{
    concurrency::{Ceilings, ConcurrencyController},
    dispatcher::{Dispatcher, DispatcherHandle, Reported},
    failure_log::FailureLog,
    lease_table::{Lease, LeaseTable, WorkerInfo},
    ledger::{Ledger, LedgerError},
};

mod differences;
mod fleets;
mod queries;
mod sentences;
mod streams;

const TTL: Duration = Duration::from_secs(30);
/// Longest wait of a test for an expected state.
const DEADLINE: Duration = Duration::from_secs(20);

/// A job that is watched.
struct Watched {
    dashboard: Dashboard,
    handle: DispatcherHandle,
    session: SessionId,
    leases: Vec<Lease>,
    dispatcher: JoinSet<()>,
    publisher: JoinSet<()>,
    ledger: JoinSet<Result<(), LedgerError>>,
}

impl Watched {
    /// A job of some classes whose ledger is in a folder, with one worker that holds `held` of
    /// them.
    async fn start(folder: &std::path::Path, classes: u32, held: usize) -> Self {
        let wnids: Vec<Wnid> = (1..=classes)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        let mut ledger = Ledger::open(&folder.join("ledger")).unwrap();
        let epoch = ledger.next_epoch().unwrap();
        let run = ledger.run("list", "url", false).unwrap();
        let mut table = LeaseTable::new(&wnids, 1, epoch, TTL);
        ledger
            .settled(&run, |record| table.restore(record.wnid, &record.outcome))
            .unwrap();
        let log = FailureLog::open(folder).unwrap();
        let mut threads = JoinSet::new();
        let writer = ledger.start_writer(run, TTL, log, &mut threads).unwrap();
        let now = tokio::time::Instant::now();
        let controller = ConcurrencyController::new(Ceilings::default(), now);
        let (owner, handle) = Dispatcher::new(table, controller, writer);
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(owner.run());
        let facts = JobFacts {
            run_id: "run".into(),
            epoch,
            retry_command: "coordinator retry --target /data".into(),
            stopping: CancellationToken::new(),
        };
        let mut publisher = JoinSet::new();
        let dashboard = Dashboard::start(handle.clone(), facts, &mut publisher)
            .await
            .unwrap();
        let worker_info = WorkerInfo {
            worker: "host".to_owned(),
            instance: vec![1],
            slots: 100,
            ..WorkerInfo::default()
        };
        let session = handle.register(worker_info, vec![]).await.unwrap().session;
        let mut leases = Vec::new();
        while leases.len() < held {
            let free = held - leases.len();
            leases.extend(handle.acquire(session, free, vec![]).await.unwrap().leases);
        }
        Self {
            dashboard,
            handle,
            session,
            leases,
            dispatcher,
            publisher,
            ledger: threads,
        }
    }

    /// Ends the job as at the end of a process: the ledger is closed.
    async fn stop(mut self) {
        self.publisher.shutdown().await;
        self.dispatcher.shutdown().await;
        drop((self.dashboard, self.handle));
        while self.ledger.join_next().await.is_some() {}
    }

    async fn report(&self, lease: Lease, outcome: Outcome) {
        let reported = Reported {
            lease,
            outcome,
            needs_lease: false,
        };
        let receipt = self.handle.report(self.session, vec![reported]).await;
        assert_eq!(receipt.unwrap().acked, [lease.wnid]);
    }

    async fn snapshot(&self) -> Value {
        serde_json::from_slice(&self.dashboard.snapshot().await.unwrap()).unwrap()
    }
}

fn success() -> Outcome {
    Outcome::Success(Published {
        files: 2,
        bytes: 10_240,
    })
}

fn missing(wnid: Wnid) -> Outcome {
    let text = format!("404 Client Error: Not Found for url: http://h/{wnid}.tar");
    Outcome::Failed(Failure::new(FailureKind::HttpError, text))
}

/// The next event: its name, its id and its data.
async fn event(stream: &mut Subscription) -> Option<(String, String, Value)> {
    let event = timeout(DEADLINE, stream.next()).await;
    let event = event.expect("an event comes in time")?;
    let text = std::str::from_utf8(&event).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(text.ends_with("\n\n"), "{text}");
    let [name, id, data, ""] = lines[..] else {
        panic!("an event has three lines and a blank one: {text}");
    };
    let value = |line: &str, field| line.strip_prefix(field).unwrap().to_owned();
    let data = serde_json::from_str(&value(data, "data: ")).unwrap();
    Some((value(name, "event: "), value(id, "id: "), data))
}

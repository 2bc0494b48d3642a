//! The budget stream: which budgets a worker receives, and when the stream ends.

use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;

/// Timeout of a wait in simulated time.
const BUDGET_TIMEOUT: Duration = Duration::from_secs(20);

/// A simulated worker that applies its budgets.
struct TestWorker {
    observation: proto::Observation,
    observations: mpsc::Sender<proto::Observation>,
    budgets: Streaming<proto::Budget>,
    /// The last budget.
    budget: proto::Budget,
}

impl TestWorker {
    async fn start(running: &mut Running, name: &str, wanted: u32) -> Self {
        let registration_request = proto::RegisterRequest {
            worker_name: name.to_owned(),
            ..registration(1)
        };
        let session_id = running
            .client
            .register(registration_request)
            .await
            .unwrap()
            .into_inner()
            .session_id;
        let observation = proto::Observation {
            session_id,
            wanted,
            ..Default::default()
        };
        let (observations, mut budgets) = open(running, observation.clone()).await.unwrap();
        let budget = budgets.message().await.unwrap().unwrap();
        Self {
            observation,
            observations,
            budgets,
            budget,
        }
    }

    async fn observe(&mut self) {
        self.observations
            .send(self.observation.clone())
            .await
            .unwrap();
    }

    /// Waits for the next budget, which must have a higher version.
    async fn next(&mut self) -> Result<proto::Budget, Status> {
        let next = tokio::time::timeout(BUDGET_TIMEOUT, self.budgets.message())
            .await
            .expect("a budget in time")?;
        let next = next.expect("the stream goes on");
        assert!(
            next.version > self.budget.version,
            "{next:?} after {:?}",
            self.budget
        );
        self.budget = next;
        Ok(next)
    }

    /// Applies the budgets, reports, and downloads, for 5 s.
    async fn work(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            self.observation.open = self.observation.wanted.min(self.budget.connections);
            (self.observation.flowing, self.observation.budget_version) =
                (self.observation.open, self.budget.version);
            self.observation.received_bytes += u64::from(self.observation.open) * 100_000;
            self.observe().await;
            let every = Duration::from_millis(self.budget.observe_ms.max(1));
            if let Ok(next) = tokio::time::timeout(every, self.budgets.message()).await {
                self.budget = next.unwrap().unwrap();
            }
        }
    }
}

type Opened = (mpsc::Sender<proto::Observation>, Streaming<proto::Budget>);

async fn open(running: &mut Running, first: proto::Observation) -> Result<Opened, Status> {
    let (observations, stream) = mpsc::channel(8);
    observations.send(first).await.unwrap();
    let budgets = running
        .client
        .pace(ReceiverStream::new(stream))
        .await?
        .into_inner();
    Ok((observations, budgets))
}

fn at_most(connections: u32) -> Ceilings {
    Ceilings {
        connections: Some(connections),
        bytes_per_second: Some(1_000_000),
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_receives_budgets_until_its_session_ends() {
    let mut running = Running::start_within(at_most(3), 1).await;
    let mut worker = TestWorker::start(&mut running, "one", 10).await;
    worker.work().await;
    assert!(
        (1..=3).contains(&worker.budget.connections),
        "{:?}",
        worker.budget
    );
    assert!(
        (1..=1_000_000).contains(&worker.budget.bytes_per_second),
        "{:?}",
        worker.budget
    );
    assert!(
        worker.budget.observe_ms > 0 && worker.budget.pause_ms == 0,
        "{:?}",
        worker.budget
    );
    assert_eq!(
        running.handle.concurrency_status().open,
        worker.observation.open
    );
    let leave = proto::LeaveRequest {
        session_id: worker.observation.session_id,
        ..Default::default()
    };
    running.client.leave(leave).await.unwrap();
    assert_eq!(worker.next().await.unwrap_err().code(), Code::NotFound);
    let again = open(&mut running, worker.observation)
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(again.code(), Code::NotFound, "{again}");
}

#[tokio::test(start_paused = true)]
async fn workers_share_one_budget() {
    let mut running = Running::start_within(at_most(3), 1).await;
    let mut one = TestWorker::start(&mut running, "one", 10).await;
    one.work().await;
    let alone = one.budget.connections;
    let mut two = TestWorker::start(&mut running, "two", 10).await;
    for _ in 0..4 {
        tokio::join!(one.work(), two.work());
    }
    let connections = [one.budget.connections, two.budget.connections];
    assert!(
        connections.iter().all(|share| *share >= 1) && connections.iter().sum::<u32>() <= 3,
        "{connections:?}, alone {alone}"
    );
    assert!(one.budget.bytes_per_second + two.budget.bytes_per_second <= 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_wait_reported_by_one_worker_reaches_the_others_immediately() {
    let mut running = Running::start(1).await;
    let mut refused = TestWorker::start(&mut running, "refused", 2).await;
    let mut other = TestWorker::start(&mut running, "other", 2).await;
    let start = Instant::now();
    (
        refused.observation.requests,
        refused.observation.refusals,
        refused.observation.retry_after_ms,
    ) = (1, 1, 5000);
    refused.observe().await;
    while other.next().await.unwrap().pause_ms == 0 {}
    assert!(
        (4900..=5000).contains(&other.budget.pause_ms),
        "{:?}",
        other.budget
    );
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(running.handle.concurrency_status().refusals, 1);
}

#[tokio::test(start_paused = true)]
async fn a_budget_stream_begins_with_an_observation_and_keeps_its_session() {
    let mut running = Running::start(1).await;
    let mut worker = TestWorker::start(&mut running, "one", 1).await;
    worker.observation.session_id += 1;
    worker.observe().await;
    let refused = loop {
        if let Err(refused) = worker.next().await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::InvalidArgument);
    let nothing = running
        .client
        .pace(tokio_stream::empty())
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let unknown = proto::Observation {
        session_id: 99,
        ..Default::default()
    };
    assert_eq!(
        open(&mut running, unknown)
            .await
            .map(drop)
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_all_budget_streams() {
    let mut running = Running::start(1).await;
    let worker = TestWorker::start(&mut running, "one", 1).await;
    // A second stream whose first observation never arrives.
    let (observations, stream) = mpsc::channel::<proto::Observation>(1);
    let mut client = running.client.clone();
    let mut silent = JoinSet::new();
    silent.spawn(async move { client.pace(ReceiverStream::new(stream)).await.map(drop) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.shutdown.abort.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(1), running.server.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(Ok(()))))), "{ended:?}");
    drop((worker, observations));
}

//! The stream for the pace: what a worker hears on it, and when it ends.

use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;

/// What a test waits for comes at once, or not at all.
const SOON: Duration = Duration::from_secs(20);

/// A worker that keeps to its budget, as far as one can tell from what it says.
struct Worker {
    says: proto::Observation,
    observations: mpsc::Sender<proto::Observation>,
    budgets: Streaming<proto::Budget>,
    /// The last one.
    budget: proto::Budget,
}

impl Worker {
    async fn start(running: &mut Running, name: &str, wanted: u32) -> Self {
        let hello = proto::RegisterRequest { worker_name: name.to_owned(), ..registration(1) };
        let session_id = running.client.register(hello).await.unwrap().into_inner().session_id;
        let says = proto::Observation { session_id, wanted, ..Default::default() };
        let (observations, mut budgets) = open(running, says.clone()).await.unwrap();
        let budget = budgets.message().await.unwrap().unwrap();
        Self { says, observations, budgets, budget }
    }

    async fn observe(&mut self) {
        self.observations.send(self.says.clone()).await.unwrap();
    }

    /// The next budget, which must be a new one.
    async fn next(&mut self) -> Result<proto::Budget, Status> {
        let next = tokio::time::timeout(SOON, self.budgets.message()).await.expect("a budget in time")?;
        let next = next.expect("the stream goes on");
        assert!(next.version > self.budget.version, "{next:?} after {:?}", self.budget);
        self.budget = next;
        Ok(next)
    }

    /// Keeps to what it is told, says so, and downloads, for some seconds.
    async fn work(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            self.says.open = self.says.wanted.min(self.budget.connections);
            (self.says.flowing, self.says.seen_version) = (self.says.open, self.budget.version);
            self.says.received_bytes += u64::from(self.says.open) * 100_000;
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
    let budgets = running.client.pace(ReceiverStream::new(stream)).await?.into_inner();
    Ok((observations, budgets))
}

fn at_most(connections: u32) -> Ceilings {
    Ceilings { connections: Some(connections), bytes_per_second: Some(1_000_000) }
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_told_its_budget_and_the_stream_ends_with_its_session() {
    let mut running = Running::start_within(at_most(3), 1).await;
    let mut worker = Worker::start(&mut running, "one", 10).await;
    worker.work().await;
    assert!((1..=3).contains(&worker.budget.connections), "{:?}", worker.budget);
    assert!((1..=1_000_000).contains(&worker.budget.bytes_per_second), "{:?}", worker.budget);
    assert!(worker.budget.observe_ms > 0 && worker.budget.quiet_ms == 0, "{:?}", worker.budget);
    assert_eq!(running.handle.pace().open, worker.says.open);
    let leave = proto::LeaveRequest { session_id: worker.says.session_id, ..Default::default() };
    running.client.leave(leave).await.unwrap();
    assert_eq!(worker.next().await.unwrap_err().code(), Code::NotFound);
    let again = open(&mut running, worker.says).await.map(drop).unwrap_err();
    assert_eq!(again.code(), Code::NotFound, "{again}");
}

#[tokio::test(start_paused = true)]
async fn workers_share_one_budget() {
    let mut running = Running::start_within(at_most(3), 1).await;
    let mut one = Worker::start(&mut running, "one", 10).await;
    one.work().await;
    let alone = one.budget.connections;
    let mut two = Worker::start(&mut running, "two", 10).await;
    for _ in 0..4 {
        tokio::join!(one.work(), two.work());
    }
    let shares = [one.budget.connections, two.budget.connections];
    assert!(shares.iter().all(|share| *share >= 1) && shares.iter().sum::<u32>() <= 3, "{shares:?}, alone {alone}");
    assert!(one.budget.bytes_per_second + two.budget.bytes_per_second <= 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_one_worker_is_asked_for_is_told_to_the_others_at_once() {
    let mut running = Running::start(1).await;
    let mut asked = Worker::start(&mut running, "asked", 2).await;
    let mut other = Worker::start(&mut running, "other", 2).await;
    let start = Instant::now();
    (asked.says.requests, asked.says.refusals, asked.says.retry_after_ms) = (1, 1, 5000);
    asked.observe().await;
    while other.next().await.unwrap().quiet_ms == 0 {}
    assert!((4900..=5000).contains(&other.budget.quiet_ms), "{:?}", other.budget);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(running.handle.pace().refusals, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_stays_with_one_session_and_begins_with_an_observation() {
    let mut running = Running::start(1).await;
    let mut worker = Worker::start(&mut running, "one", 1).await;
    worker.says.session_id += 1;
    worker.observe().await;
    let refused = loop {
        if let Err(refused) = worker.next().await {
            break refused;
        }
    };
    assert_eq!(refused.code(), Code::InvalidArgument);
    let nothing = running.client.pace(tokio_stream::empty()).await.map(drop).unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let unknown = proto::Observation { session_id: 99, ..Default::default() };
    assert_eq!(open(&mut running, unknown).await.map(drop).unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn no_stream_for_the_pace_outlives_a_shutdown() {
    let mut running = Running::start(1).await;
    let worker = Worker::start(&mut running, "one", 1).await;
    // And one whose first observation never comes.
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

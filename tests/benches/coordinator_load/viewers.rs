//! What viewers of the page cost: workers download, settle and renew, and in every second round
//! viewers read the events.

use std::{io, net::SocketAddr, thread, time::Duration};

use rustix::process::setpriority_process;
use tests::memory;
use tokio::{
    runtime::Builder,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Load,
    figures::{Latencies, bytes_per_second, cores, kilobytes_per_second, mebibytes, milliseconds},
    renewals, tell,
    worker::{self, LoadError, Worker, transfers::Renewal},
};

mod event_stream;
mod replay;

use event_stream::EventStream;
use replay::Replay;

/// Whether a round has viewers. Both kinds alternate in this order, so that a slow change of the
/// machine's speed affects both alike.
const ROUNDS: [bool; 8] = [false, true, true, false, false, true, true, false];
/// Time between the registrations and the first round.
const WARM_UP: Duration = Duration::from_secs(4);
/// Time between two rounds, in which viewers leave.
const BETWEEN: Duration = Duration::from_secs(1);
/// Classes for each lease, so that the list does not end before the last round.
const CLASSES_PER_LEASE: u32 = 4;
/// The longest time between two events of a stream.
const EVENT_INTERVAL: Duration = Duration::from_secs(5);
/// Deadline for a viewer's counts to match.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(15);

/// See setpriority(2).
const LOWEST_PRIORITY: i32 = 19;

/// Goal for the bytes per second that a viewer receives.
const MAX_RATE: f64 = 30_000.0;
/// Goal for the 99th percentile of renewals with viewers, relative to the one without.
const MAX_RATIO: f64 = 1.1;
/// Goal for the coordinator's memory with viewers, beyond the one without, in bytes.
const MAX_GROWTH: u64 = 30_000_000;

/// What one viewer received in one round.
struct Received {
    /// From the connection to the end of the first snapshot.
    first: Duration,
    /// Length of the first snapshot.
    snapshot: u64,
    /// Number and total length of the events after it.
    events: u64,
    bytes: u64,
    /// Time in which these events came.
    time: Duration,
}

/// One round.
struct Round {
    start: Instant,
    end: Instant,
    cpu: Duration,
    /// Peak of the coordinator's memory, in bytes.
    peak: u64,
    /// One entry per viewer; empty in a round without viewers.
    received: Vec<Received>,
    renewals: Latencies,
}

/// The rounds of one kind together.
#[derive(Default)]
struct Sum {
    /// The 99th percentile of renewals in each round.
    p99: Latencies,
    cpu: Duration,
    time: Duration,
    /// The highest peak in the rounds, and the one in the first.
    peak: u64,
    first_peak: u64,
    /// Highest rate of a viewer, in bytes per second.
    rate: f64,
}

/// Runs all rounds and compares those with viewers to the others.
pub(crate) async fn run(load: &Load) -> Result<(), LoadError> {
    let options = &load.options;
    let leases = options.workers.saturating_mul(renewals::HELD);
    if options.classes / CLASSES_PER_LEASE < leases {
        let message = format!(
            "measure viewers: {} workers need {} classes or more; change --workers or --classes",
            options.workers,
            leases.saturating_mul(CLASSES_PER_LEASE)
        );
        return Err(LoadError::Benchmark(message));
    }
    let workers = renewals::register(load).await?;
    tell("page", &format!("http://{}/", load.coordinator.http));
    let start = Instant::now() + WARM_UP;
    let time = options.renewal_time();
    let rounds = u32::try_from(ROUNDS.len()).unwrap_or(u32::MAX);
    // After the last round one viewer compares its counts while the workers go on.
    let end = start + (time + BETWEEN) * rounds + BETWEEN;
    let watching = watch_rounds(load, start);
    let downloading = download(workers, start, end);
    let ((mut rounds, replay), (workers, renewals)) = tokio::try_join!(watching, downloading)?;
    for round in &mut rounds {
        for renewal in &renewals {
            if (round.start..round.end).contains(&renewal.due) {
                round.renewals.add(renewal.latency);
            }
        }
        round.print(options.viewers);
    }
    renewals::leave(load, workers).await?;
    compare_counts(load, replay).await?;
    judge(load, &rounds)
}

/// All workers download until `end`; returns them and all renewals.
async fn download(
    workers: Vec<Worker>,
    start: Instant,
    end: Instant,
) -> Result<(Vec<Worker>, Vec<Renewal>), LoadError> {
    let count = u32::try_from(workers.len()).unwrap_or(u32::MAX);
    let (workers, renewals) = worker::all(workers, move |place, worker| {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        worker.download(
            start + worker::transfers::RENEWAL_INTERVAL * place / count,
            end,
        )
    })
    .await?;
    Ok((workers, renewals.concat()))
}

/// Measures each round, and opens a stream for the comparison of the counts after the last one.
async fn watch_rounds(
    load: &Load,
    mut start: Instant,
) -> Result<(Vec<Round>, (EventStream, Replay)), LoadError> {
    let process = load.coordinator.id();
    let mut rounds = Vec::new();
    for with_viewers in ROUNDS {
        sleep_until(start).await;
        memory::reset_peak(process)?;
        let cpu = load.coordinator.cpu()?;
        let end = start + load.options.renewal_time();
        let mut received = Vec::new();
        if with_viewers {
            received = watch(load.coordinator.http, load.options.viewers, end).await?;
        }
        sleep_until(end).await;
        rounds.push(Round {
            start,
            end,
            cpu: load.coordinator.cpu()?.saturating_sub(cpu),
            peak: load.coordinator.memory()?.peak,
            received,
            renewals: Latencies::default(),
        });
        start = end + BETWEEN;
    }
    let mut stream = EventStream::open(load.coordinator.http).await?;
    let mut replay = Replay::default();
    let deadline = Instant::now() + EVENT_INTERVAL;
    let first = stream.next(deadline).await?;
    replay.apply(&first.ok_or_else(|| late("the snapshot"))?)?;
    Ok((rounds, (stream, replay)))
}

/// Opens all streams at once and reads them until `end`, on a thread of its own with the lowest
/// priority: viewers are on other machines, so their work is not to delay that of the workers.
async fn watch(
    address: SocketAddr,
    viewers: u32,
    end: Instant,
) -> Result<Vec<Received>, LoadError> {
    let (result, received) = oneshot::channel();
    let thread = thread::Builder::new().name("viewers".to_owned());
    let thread = thread.spawn(move || {
        // On Linux this is the priority of the calling thread alone.
        let lowered = setpriority_process(None, LOWEST_PRIORITY).map_err(io::Error::from);
        let all = lowered
            .and_then(|()| Builder::new_current_thread().enable_all().build())
            .map_err(LoadError::from)
            .and_then(|runtime| runtime.block_on(view_all(address, viewers, end)));
        // The receiver is gone if the benchmark was interrupted.
        drop(result.send(all));
    })?;
    let all = received.await;
    let ended = || LoadError::Benchmark("await the viewers: their thread panicked".to_owned());
    thread.join().map_err(|_| ended())?;
    all.map_err(|_| ended())?
}

async fn view_all(
    address: SocketAddr,
    viewers: u32,
    end: Instant,
) -> Result<Vec<Received>, LoadError> {
    let mut tasks: JoinSet<_> = (0..viewers).map(|_| view(address, end)).collect();
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended.map_err(|error| LoadError::Benchmark(format!("await a viewer: {error}")))??);
    }
    Ok(all)
}

/// One viewer.
async fn view(address: SocketAddr, end: Instant) -> Result<Received, LoadError> {
    let opened = Instant::now();
    let mut stream = EventStream::open(address).await?;
    let first = stream
        .next(end)
        .await?
        .ok_or_else(|| late("the snapshot"))?;
    if first.name != "snapshot" {
        let message = format!("the first event is {:?}, and not the snapshot", first.name);
        return Err(LoadError::Misbehaved(message));
    }
    let begin = Instant::now();
    let mut received = Received {
        first: begin - opened,
        snapshot: first.bytes,
        events: 0,
        bytes: 0,
        time: Duration::ZERO,
    };
    let mut last = begin;
    while let Some(event) = stream.next(end).await? {
        received.events += 1;
        received.bytes += event.bytes;
        last = Instant::now();
    }
    if last.elapsed() > EVENT_INTERVAL {
        return Err(late("an event"));
    }
    received.time = begin.elapsed();
    Ok(received)
}

fn late(what: &str) -> LoadError {
    LoadError::Misbehaved(format!("a viewer did not receive {what} in time"))
}

/// Compares the counts that follow from the events with those of the benchmark, after the workers
/// have left.
async fn compare_counts(
    load: &Load,
    (mut stream, mut replay): (EventStream, Replay),
) -> Result<(), LoadError> {
    let wanted = load.grants.counts();
    let deadline = Instant::now() + REPLAY_TIMEOUT;
    while replay.counts() != [wanted; 2] {
        let Some(event) = stream.next(deadline).await? else {
            let message = format!(
                "(pending, leased, settled) must be {wanted:?}; a viewer has by the map and by the \
                 figures {:?}",
                replay.counts()
            );
            return Err(LoadError::Misbehaved(message));
        };
        replay.apply(&event)?;
    }
    tell(
        "counts of a viewer",
        &format!("{wanted:?}, as granted and settled"),
    );
    Ok(())
}

impl Round {
    fn print(&self, viewers: u32) {
        let figures = format!(
            "{} renewals, {}; CPU {}, peak of memory {}{}",
            self.renewals.count(),
            self.renewals.describe(),
            cores(self.cpu, self.end - self.start),
            mebibytes(self.peak),
            self.describe_viewers(),
        );
        let viewers = if self.received.is_empty() { 0 } else { viewers };
        tell(&format!("round, {viewers} viewers"), &figures);
    }

    fn describe_viewers(&self) -> String {
        let all = self.received.iter();
        let Some(slowest) = all.clone().max_by_key(|one| one.first) else {
            return String::new();
        };
        format!(
            "; a viewer: at most {}, at least {} events; first snapshot {} bytes, all within {}",
            kilobytes_per_second(self.rate()),
            all.map(|one| one.events).min().unwrap_or(0),
            slowest.snapshot,
            milliseconds(slowest.first),
        )
    }

    /// The highest rate of a viewer after its first snapshot, in bytes per second.
    fn rate(&self) -> f64 {
        let rates = self.received.iter();
        rates
            .map(|one| bytes_per_second(one.bytes, one.time))
            .fold(0.0, f64::max)
    }
}

impl Sum {
    fn of<'rounds>(rounds: impl Iterator<Item = &'rounds Round>) -> Self {
        let mut sum = Self::default();
        for round in rounds {
            if sum.time.is_zero() {
                sum.first_peak = round.peak;
            }
            sum.p99.add(round.renewals.at(99));
            sum.cpu += round.cpu;
            sum.time += round.end - round.start;
            sum.peak = sum.peak.max(round.peak);
            sum.rate = sum.rate.max(round.rate());
        }
        sum
    }
}

/// Prints the comparison, and judges it if that is asked for.
fn judge(load: &Load, rounds: &[Round]) -> Result<(), LoadError> {
    let without = Sum::of(rounds.iter().filter(|round| round.received.is_empty()));
    let with = Sum::of(rounds.iter().filter(|round| !round.received.is_empty()));
    // The median of the rounds: if the machine stalls in one of them, the others decide.
    let [p99_without, p99_with] = [&without, &with].map(|sum| sum.p99.at(50));
    let ratio = p99_with.as_secs_f64() / p99_without.as_secs_f64();
    // Memory that viewers needed may stay with the process, so the first round is the one to compare
    // with: no viewer was there before it.
    let growth = with.peak.saturating_sub(without.first_peak);
    let figures = format!(
        "p99 of Renew in the median round {} with and {} without: {ratio:.2}; {} a viewer at most; memory +{}; CPU {} \
         with and {} without  (goal: at most 1.1, 30 KB/s, 30 MB)",
        milliseconds(p99_with),
        milliseconds(p99_without),
        kilobytes_per_second(with.rate),
        mebibytes(growth),
        cores(with.cpu, with.time),
        cores(without.cpu, without.time),
    );
    tell(&format!("{} viewers", load.options.viewers), &figures);
    let is_met = ratio <= MAX_RATIO && with.rate <= MAX_RATE && growth <= MAX_GROWTH;
    load.options.hold(is_met, "of viewers")
}

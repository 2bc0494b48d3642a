//! Thousands of workers that hold a few leases each and only renew them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Load,
    figures::{Latencies, cores, kibibytes, mebibytes, microseconds_each, rate, seconds},
    tell,
    worker::{self, LoadError, Worker},
};

/// Leases of each worker.
pub(crate) const HELD: u32 = 3;
/// Workers that register at the same time on connections of their own; the coordinator limits connections that have
/// not registered to 500.
const MAX_CONCURRENT_REGISTRATIONS: usize = 256;
/// Maximum interval of renewals, even if the coordinator requests a longer one for a large fleet.
const INTERVAL: Duration = Duration::from_secs(10);

/// Goal for the 99th percentile of renewals.
pub(crate) const GOAL: Duration = Duration::from_millis(200);
/// Maximum memory of the coordinator per TLS connection, in bytes.
const MAX_CONNECTION_MEMORY: u64 = 100 << 10;

/// Registers workers, spreads their renewals evenly over time, and lets the workers leave.
pub(crate) async fn run(load: &Load) -> Result<(), LoadError> {
    let workers = register(load).await?;
    let start = Instant::now();
    let cpu = load.coordinator.cpu()?;
    let time = load.options.renewal_time();
    let mut observing = JoinSet::new();
    if load.options.observe {
        let streams = workers.iter().map(Worker::observations);
        streams.for_each(|stream| drop(observing.spawn(stream.send_until(start + time))));
    }
    let (workers, all) = renew(workers, time).await?;
    let span = start.elapsed();
    let mut observations = 0;
    while let Some(sent) = observing.join_next().await {
        let failed = |error| LoadError::Benchmark(format!("await observations: {error}"));
        observations += sent.map_err(failed)??;
    }
    let cpu = load.coordinator.cpu()?.saturating_sub(cpu);
    let memory = load.coordinator.memory()?;
    let figures = format!(
        "{} workers, every {}, and {observations} observations: {}, {}, CPU {} ({} each), memory {}  \
         (goal: p99 below 200 ms, below 1 core)",
        load.options.workers,
        seconds(INTERVAL),
        rate(all.count(), span),
        all.describe(),
        cores(cpu, span),
        microseconds_each(cpu, all.count()),
        mebibytes(memory.now),
    );
    tell("renewals", &figures);
    load.options.hold(all.at(99) < GOAL, "of renewals")?;
    leave(load, workers).await
}

/// Registers the workers and grants each its leases. With TLS and with viewers each has a connection
/// of its own.
pub(crate) async fn register(load: &Load) -> Result<Vec<Worker>, LoadError> {
    let options = &load.options;
    let dial = &load.coordinator.dial;
    let connections = if options.has_own_connections() {
        options.workers
    } else {
        options.connections
    };
    // Until the first class is settled, the coordinator grants only a sample of the list.
    let mut first = Worker::sharing(1, "first", 1, dial, &load.grants);
    first[0].register().await?;
    first[0].acquire(1).await?;
    first[0].report().await?;
    worker::leave(first).await?;
    let new = Worker::sharing(connections, "fleet", options.workers, dial, &load.grants);
    let before = Instant::now();
    let memory = load.coordinator.memory()?.now;
    let at_once = Arc::new(Semaphore::new(if options.has_own_connections() {
        MAX_CONCURRENT_REGISTRATIONS
    } else {
        options.workers as usize
    }));
    let (workers, interval) = worker::all(new, move |_, mut worker| {
        let at_once = Arc::clone(&at_once);
        async move {
            let permit = at_once.acquire().await;
            worker.register().await?;
            worker.acquire(HELD).await?;
            drop(permit);
            let interval = worker.renew_every;
            Ok((worker, interval))
        }
    })
    .await?;
    let interval = interval.into_iter().max().unwrap_or(INTERVAL);
    let grown = load.coordinator.memory()?.now.saturating_sub(memory) / u64::from(connections);
    let figures = format!(
        "{} workers on {connections} connections in {}, interval for renewals every {}; memory a \
         connection {}  (goal: 100 KiB \
         with TLS)",
        options.workers,
        seconds(before.elapsed()),
        seconds(interval),
        kibibytes(grown),
    );
    tell("registrations", &figures);
    options.hold(
        !options.tls || grown <= MAX_CONNECTION_MEMORY,
        "of connections",
    )?;
    Ok(workers)
}

/// Runs the renewals of all workers for this time.
pub(crate) async fn renew(
    workers: Vec<Worker>,
    time: Duration,
) -> Result<(Vec<Worker>, Latencies), LoadError> {
    let start = Instant::now();
    let count = u32::try_from(workers.len()).unwrap_or(u32::MAX);
    let end = start + time;
    // Each worker renews at least once, also in a short run.
    let interval = INTERVAL.min(time);
    let (workers, latencies) = worker::all(workers, move |place, worker| async move {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        renew_until(worker, start + interval * place / count, interval, end).await
    })
    .await?;
    let mut all = Latencies::default();
    for latencies in latencies {
        all.extend(latencies);
    }
    Ok((workers, all))
}

/// All workers leave.
pub(crate) async fn leave(load: &Load, workers: Vec<Worker>) -> Result<(), LoadError> {
    let before = Instant::now();
    worker::leave(workers).await?;
    let memory = load.coordinator.memory()?;
    tell(
        "leaving",
        &format!(
            "{}, memory {}",
            seconds(before.elapsed()),
            mebibytes(memory.now)
        ),
    );
    Ok(())
}

/// Renews at fixed times and measures from them: a late renewal does not hide the delay of the next
/// ones.
async fn renew_until(
    mut worker: Worker,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> Result<(Worker, Latencies), LoadError> {
    let mut due = first;
    let mut latencies = Latencies::default();
    while due < end {
        sleep_until(due).await;
        if !worker.renew().await? {
            return Err(LoadError::Misbehaved(
                "a session was forgotten although it was renewed".to_owned(),
            ));
        }
        latencies.add(due.elapsed());
        due += interval;
    }
    Ok((worker, latencies))
}

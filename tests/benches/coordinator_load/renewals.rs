//! Thousands of workers that hold a few leases each and do nothing but renew.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    Load,
    figures::{Latencies, cores, mebibytes, microseconds_each, rate, seconds},
    tell,
    worker::{self, Trouble, Worker},
};

/// What each worker holds.
const HELD: u32 = 3;
/// At least so often, also where the coordinator asks a large fleet for less.
const INTERVAL: Duration = Duration::from_secs(10);

/// Registers them, lets them renew evenly spread, and lets them leave.
pub(crate) async fn run(load: &Load) -> Result<(), Trouble> {
    let options = &load.options;
    let new = Worker::sharing(options.connections, "fleet", options.workers, load.coordinator.address, &load.grants);
    let before = Instant::now();
    let (workers, asked) = worker::all(new, |_, mut worker| async move {
        worker.register().await?;
        worker.acquire(HELD).await?;
        let asked = worker.renew_every;
        Ok((worker, asked))
    })
    .await?;
    let registered = before.elapsed();
    let asked = asked.into_iter().max().unwrap_or(INTERVAL);

    let (start, cpu) = (Instant::now(), load.coordinator.cpu()?);
    let (count, end) = (options.workers, start + options.renewing());
    let (workers, latencies) = worker::all(workers, move |place, worker| async move {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        renew_until(worker, start + INTERVAL * place / count, end).await
    })
    .await?;
    let (span, cpu) = (start.elapsed(), load.coordinator.cpu()?.saturating_sub(cpu));
    let memory = load.coordinator.memory()?;
    let (mut all, renewals) = (Latencies::default(), latencies.iter().map(Latencies::count).sum());
    for latencies in latencies {
        all.extend(latencies);
    }

    let before = Instant::now();
    worker::leave(workers).await?;
    let figures = format!(
        "{count} workers in {}, every {} (asked for {}): {}, {}, CPU {} ({} each), memory {}; they left in {}  \
         (goal: p99 below 200 ms, below 1 core)",
        seconds(registered),
        seconds(INTERVAL),
        seconds(asked),
        rate(renewals, span),
        all.describe(),
        cores(cpu, span),
        microseconds_each(cpu, renewals),
        mebibytes(memory.now),
        seconds(before.elapsed()),
    );
    tell("renewals", &figures);
    Ok(())
}

/// Renews at fixed times, and counts from them: a late renewal does not hide that the next ones wait.
async fn renew_until(mut worker: Worker, first: Instant, end: Instant) -> Result<(Worker, Latencies), Trouble> {
    let (mut due, mut latencies) = (first, Latencies::default());
    while due < end {
        sleep_until(due).await;
        if !worker.renew().await? {
            return Err(Trouble::Misbehaved("a session was forgotten although it was renewed".to_owned()));
        }
        latencies.add(due.elapsed());
        due += INTERVAL;
    }
    Ok((worker, latencies))
}

//! Clients that acquire and report as fast as they are answered: measures the ledger's commits and
//! all work around them.

use tokio::time::Instant;

use crate::{
    Load,
    figures::{Latencies, cores, mebibytes, microseconds_each, rate},
    tell,
    worker::{self, LoadError, Worker},
};

/// Connections that the clients share.
const CONNECTIONS: u32 = 16;

/// Measurements of one client.
#[derive(Default)]
struct PairMeasurements {
    acquires: Latencies,
    reports: Latencies,
    pairs: u64,
}

/// Acquires `batch` leases at a time and reports them, until the time is over or only a tenth of
/// the list is left.
pub(crate) async fn run(load: &Load, batch: u32) -> Result<(), LoadError> {
    let options = &load.options;
    let dial = &load.coordinator.dial;
    let clients = Worker::sharing(
        CONNECTIONS,
        &format!("pairs-{batch}"),
        options.clients,
        dial,
        &load.grants,
    );
    let (clients, _) = worker::all(clients, |_, mut client| async move {
        client.register().await?;
        Ok((client, ()))
    })
    .await?;
    let start = Instant::now();
    let cpu = load.coordinator.cpu()?;
    let end = start + options.pair_time();
    let least = u64::from(options.classes / 10);
    let (clients, seen) = worker::all(clients, move |_, client| {
        acquire_and_report(client, batch, end, least)
    })
    .await?;
    let span = start.elapsed();
    let cpu = load.coordinator.cpu()?.saturating_sub(cpu);
    let memory = load.coordinator.memory()?;
    let mut sum = PairMeasurements::default();
    for PairMeasurements {
        acquires,
        reports,
        pairs,
    } in seen
    {
        sum.acquires.extend(acquires);
        sum.reports.extend(reports);
        sum.pairs += pairs;
    }
    worker::leave(clients).await?;
    let figures = format!(
        "{} clients: {} pairs, {}; Acquire {}; Report {}; CPU {} ({} a pair, {} a core), \
         memory {}  (goal: 5000/s)",
        options.clients,
        sum.pairs,
        rate(sum.pairs, span),
        sum.acquires.describe(),
        sum.reports.describe(),
        cores(cpu, span),
        microseconds_each(cpu, sum.pairs),
        rate(sum.pairs, cpu),
        mebibytes(memory.now),
    );
    tell(&format!("acquire and report, {batch}"), &figures);
    Ok(())
}

async fn acquire_and_report(
    mut client: Worker,
    batch: u32,
    end: Instant,
    least: u64,
) -> Result<(Worker, PairMeasurements), LoadError> {
    let mut seen = PairMeasurements::default();
    while Instant::now() < end {
        let before = Instant::now();
        let status = client.acquire(batch).await?;
        seen.acquires.add(before.elapsed());
        let before = Instant::now();
        seen.pairs += client.report().await?;
        seen.reports.add(before.elapsed());
        if status.pending <= least {
            break;
        }
    }
    Ok((client, seen))
}

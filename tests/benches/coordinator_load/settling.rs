//! Reports every class but one as complete before, in large reports without leases.

use tokio::time::Instant;

use crate::{
    Load,
    figures::{cores, microseconds_each, rate, seconds},
    tell,
    worker::{self, LoadError, Worker},
};

/// Maximum number of results per report.
const BATCH: usize = 4096;
/// Concurrent reports.
const CLIENTS: usize = 4;

/// Settles all classes but one.
pub(crate) async fn all_but_one(load: &Load) -> Result<(), LoadError> {
    let dial = &load.coordinator.dial;
    let wnids = load.grants.take_all_but_one();
    let reports: Vec<Vec<String>> = wnids.chunks(BATCH).map(<[String]>::to_vec).collect();
    let shares: Vec<Vec<Vec<String>>> = (0..CLIENTS)
        .map(|client| {
            reports
                .iter()
                .skip(client)
                .step_by(CLIENTS)
                .cloned()
                .collect()
        })
        .collect();
    let clients = Worker::sharing(1, "inventory", 4, dial, &load.grants);
    let start = Instant::now();
    let cpu = load.coordinator.cpu()?;
    let (clients, _) = worker::all(clients, move |place, mut client| {
        let share = shares[place].clone();
        async move {
            client.register().await?;
            for wnids in share {
                client.report_inventory(wnids).await?;
            }
            Ok((client, ()))
        }
    })
    .await?;
    let span = start.elapsed();
    let cpu = load.coordinator.cpu()?.saturating_sub(cpu);
    worker::leave(clients).await?;
    let settled = wnids.len() as u64;
    let figures = format!(
        "{settled} classes in {}, {}, CPU {} ({} a class)",
        seconds(span),
        rate(settled, span),
        cores(cpu, span),
        microseconds_each(cpu, settled),
    );
    tell("reports of many", &figures);
    Ok(())
}

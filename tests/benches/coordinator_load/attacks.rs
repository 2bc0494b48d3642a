//! Measures honest clients during attacks by clients without a token: renewals, `coordinator
//! status`, and connections that begin with the largest report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tests::{
    abusive_clients::{AbusiveClients, Attack, Kind, Style},
    largest_report::largest_report,
    memory::{self, Memory},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    Load,
    figures::{Latencies, mebibytes, milliseconds},
    renewals, tell,
    worker::{LoadError, Worker},
};

/// Between the end of an attack and the measurement of the memory that is still in use.
const RECOVERY: Duration = Duration::from_secs(2);
/// Between two status calls, and between two first reports.
const CALL_INTERVAL: Duration = Duration::from_millis(200);
/// Streams on each connection that is held open: one less than the limit, because the preface opens
/// the first.
const HELD_FRAMES: usize = 99;
/// Maximum growth of the coordinator's memory beyond its idle value, in bytes.
const MAX_GROWTH: u64 = 64 << 20;
/// Maximum duration of `coordinator status`.
const MAX_STATUS: Duration = Duration::from_secs(1);

/// Measurements of the honest clients.
#[derive(Default)]
struct HonestClients {
    statuses: Latencies,
    reports: Latencies,
    cut: u64,
}

/// Runs one attack of each kind in the options, each in parallel with renewals of all workers.
pub(crate) async fn run(load: &Load) -> Result<(), LoadError> {
    let mut workers = renewals::register(load).await?;
    for kind in load.options.kinds() {
        for style in [Style::Endless, Style::Held(HELD_FRAMES)] {
            workers = run_attack(load, workers, kind, style).await?;
        }
    }
    renewals::leave(load, workers).await
}

async fn run_attack(
    load: &Load,
    workers: Vec<Worker>,
    kind: Kind,
    style: Style,
) -> Result<Vec<Worker>, LoadError> {
    let process = load.coordinator.id();
    let idle = memory::of(process)?.now;
    memory::reset_peak(process)?;
    let attack = Attack {
        address: load.coordinator.dial.address,
        authority: load.site.authority(),
        token: None,
        kind,
        style,
    };
    let stopping = Arc::new(AtomicBool::new(false));
    let count = load.options.attackers as usize;
    let attackers = AbusiveClients::start(&attack, count);
    let honest_clients = measure_honest_clients(load, &stopping);
    let (workers, renewed) = renewals::renew(workers, load.options.renewal_time()).await?;
    stopping.store(true, Ordering::Relaxed);
    let seen = honest_clients
        .await
        .map_err(|error| LoadError::Benchmark(format!("await the honest clients: {error}")))??;
    let sent = attackers.stop();
    let Memory { peak, .. } = memory::of(process)?;
    sleep(RECOVERY).await;
    let after = memory::of(process)?.now;
    let grown = peak.saturating_sub(idle);
    let slowest = seen.statuses.at(100);
    let p99 = renewed.at(99);
    let figures = format!(
        "{count} × {style:?}: {} connections, {} sent; memory {} above idle, afterwards {}; {} \
         statuses, the slowest {}; \
         {} first reports, {} cut, the slowest {}; {} renewals, {}  (goal: at most 64 MiB, 1 s, \
         none cut, p99 200 ms)",
        sent.connections,
        mebibytes(sent.bytes),
        mebibytes(grown),
        mebibytes(after.saturating_sub(idle)),
        seen.statuses.count(),
        milliseconds(slowest),
        seen.reports.count(),
        seen.cut,
        milliseconds(seen.reports.at(100)),
        renewed.count(),
        renewed.describe(),
    );
    tell(&format!("attack: {kind}"), &figures);
    let is_met =
        grown <= MAX_GROWTH && slowest <= MAX_STATUS && seen.cut == 0 && p99 <= renewals::GOAL;
    load.options.hold(is_met, &format!("beside {kind}"))?;
    Ok(workers)
}

/// Alternates status calls and first reports until `stopping` is set.
fn measure_honest_clients(
    load: &Load,
    stopping: &Arc<AtomicBool>,
) -> JoinHandle<Result<HonestClients, LoadError>> {
    let stopping = Arc::clone(stopping);
    let dial = load.coordinator.dial.clone();
    let status = load.site.status(&dial);
    #[expect(
        clippy::disallowed_methods,
        reason = "its end is awaited by the caller"
    )]
    tokio::spawn(async move {
        let mut seen = HonestClients::default();
        while !stopping.load(Ordering::Relaxed) {
            let before = Instant::now();
            let answered = tokio::process::Command::from(status()).status().await?;
            if !answered.success() {
                return Err(LoadError::Misbehaved(
                    "`coordinator status` failed".to_owned(),
                ));
            }
            seen.statuses.add(before.elapsed());
            let before = Instant::now();
            match dial.worker(dial.channel()).report(largest_report()).await {
                Ok(_) => seen.reports.add(before.elapsed()),
                Err(_) => seen.cut += 1,
            }
            sleep(CALL_INTERVAL).await;
        }
        Ok(seen)
    })
}

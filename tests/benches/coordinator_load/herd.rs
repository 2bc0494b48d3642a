//! Many workers that connect at once: within one second at the start, and after the coordinator was
//! killed and restarted.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Load,
    coordinator::Coordinator,
    figures::{Latencies, cores, seconds},
    start, tell,
    worker::{self, LoadError, Worker},
};

/// The workers' backoff between attempts: full jitter, from this value on, doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Workers that are not attached after this time are reported and left out. Shorter than the
/// session of an attached worker.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

/// How a worker attached.
struct Attached {
    after: Duration,
    attempts: u32,
    renewal: Option<Duration>,
}

/// Registers workers on connections of their own within one second; each renews and acquires a
/// class.
pub(crate) async fn first_contact(load: &Load) -> Result<Vec<Worker>, LoadError> {
    let dial = load.coordinator.dial.clone();
    let herd = load.options.herd;
    let workers = (0..herd).map(|number| {
        Worker::new(
            format!("herd-{number}"),
            dial.worker(dial.channel()),
            Arc::clone(&load.grants),
        )
    });
    let start = Instant::now();
    let cpu = load.coordinator.cpu()?;
    let (workers, attached) = worker::all(workers, move |place, worker| async move {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        sleep_until(start + Duration::from_secs(1) * place / herd).await;
        attach(worker, start).await
    })
    .await?;
    let workers = only_attached(workers, &attached)?;
    let goal = "(goal: all within 10 s, p99 of Renew below 100 ms)";
    print_attached(
        "herd, first contact",
        &load.coordinator,
        cpu,
        start.elapsed(),
        attached,
        goal,
    )?;
    let (workers, _) = worker::all(workers, |_, mut worker| async move {
        worker.acquire(1).await?;
        Ok((worker, ()))
    })
    .await?;
    Ok(workers)
}

/// Kills the coordinator and restarts it; the workers reattach and then leave.
pub(crate) async fn after_a_kill(load: &mut Load, workers: Vec<Worker>) -> Result<(), LoadError> {
    load.coordinator.kill();
    let start = Instant::now();
    let address = load.coordinator.dial.address;
    let returning = worker::all(workers, move |_, worker| attach(worker, start));
    let (restarted, returned) = tokio::join!(start::again(&load.site, address), returning);
    let took;
    (load.coordinator, took) = restarted?;
    let (workers, attached) = returned?;
    let workers = only_attached(workers, &attached)?;
    let span = start.elapsed();
    let goal = format!("(goal: all within 20 s; the first answer came after {took})");
    print_attached(
        "herd, after a kill",
        &load.coordinator,
        Duration::ZERO,
        span,
        attached,
        &goal,
    )?;
    worker::leave(workers).await
}

/// Drops the workers that did not attach.
fn only_attached(workers: Vec<Worker>, attached: &[Attached]) -> Result<Vec<Worker>, LoadError> {
    let (within, without): (Vec<_>, Vec<_>) = workers
        .into_iter()
        .zip(attached)
        .partition(|(_, attached)| attached.renewal.is_some());
    without
        .into_iter()
        .try_for_each(|(mut worker, _)| worker.give_all_up())?;
    Ok(within.into_iter().map(|(worker, _)| worker).collect())
}

/// Renews, or registers if the session is unknown, until it succeeds; then renews once more at
/// once.
async fn attach(mut worker: Worker, start: Instant) -> Result<(Worker, Attached), LoadError> {
    let mut backoff = FIRST_BACKOFF;
    let mut attached = Attached {
        after: Duration::ZERO,
        attempts: 0,
        renewal: None,
    };
    while start.elapsed() < ATTACH_TIMEOUT {
        attached.attempts += 1;
        match contact(&mut worker).await {
            Ok(()) => {
                attached.after = start.elapsed();
                let before = Instant::now();
                worker.renew().await?;
                attached.renewal = Some(before.elapsed());
                break;
            }
            Err(LoadError::Unanswered { .. }) => {
                sleep(backoff.mul_f64(rand::random())).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Ok((worker, attached))
}

async fn contact(worker: &mut Worker) -> Result<(), LoadError> {
    if worker.has_session() && worker.renew().await? {
        Ok(())
    } else {
        worker.register().await
    }
}

fn print_attached(
    what: &str,
    coordinator: &Coordinator,
    cpu: Duration,
    span: Duration,
    attached: Vec<Attached>,
    goal: &str,
) -> Result<(), LoadError> {
    let mut renewals = Latencies::default();
    let mut last = Duration::ZERO;
    let mut attempts = 0;
    let all = attached.len();
    for Attached {
        after,
        attempts: tried,
        renewal,
    } in attached
    {
        last = last.max(after);
        attempts += tried;
        if let Some(renewal) = renewal {
            renewals.add(renewal);
        }
    }
    let figures = format!(
        "{} of {all} workers attached after {} and {attempts} attempts, Renew {}, CPU {}  {goal}",
        renewals.count(),
        seconds(last),
        renewals.describe(),
        cores(coordinator.cpu()?.saturating_sub(cpu), span),
    );
    tell(what, &figures);
    Ok(())
}

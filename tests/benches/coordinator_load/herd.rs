//! Many workers at once: in the second in which they start, and after the coordinator was killed and started again.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Load,
    coordinator::Coordinator,
    figures::{Latencies, cores, seconds},
    start, tell,
    worker::{self, Trouble, Worker},
};

/// The workers' backoff between attempts: full jitter, from this on, doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Workers that do not get in for so long are told as such, and left out. Shorter than the session of one that did.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a worker got in.
struct Attached {
    after: Duration,
    attempts: u32,
    renewal: Option<Duration>,
}

/// Workers with connections of their own register within the same second, renew, and take a class each.
pub(crate) async fn first_contact(load: &Load) -> Result<Vec<Worker>, Trouble> {
    let dial = load.coordinator.dial.clone();
    let herd = load.options.herd;
    let workers = (0..herd)
        .map(|number| Worker::new(format!("herd-{number}"), dial.worker(dial.channel()), Arc::clone(&load.grants)));
    let (start, cpu) = (Instant::now(), load.coordinator.cpu()?);
    let (workers, attached) = worker::all(workers, move |place, worker| async move {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        sleep_until(start + Duration::from_secs(1) * place / herd).await;
        attach(worker, start).await
    })
    .await?;
    let workers = those_within(workers, &attached)?;
    let goal = "(goal: all within 10 s, p99 of Renew below 100 ms)";
    tell_of("herd, first contact", &load.coordinator, cpu, start.elapsed(), attached, goal)?;
    let (workers, _) = worker::all(workers, |_, mut worker| async move {
        worker.acquire(1).await?;
        Ok((worker, ()))
    })
    .await?;
    Ok(workers)
}

/// They lose the coordinator, and find the next one by themselves. Then they leave.
pub(crate) async fn after_a_kill(load: &mut Load, workers: Vec<Worker>) -> Result<(), Trouble> {
    load.coordinator.kill();
    let start = Instant::now();
    let address = load.coordinator.dial.address;
    let returning = worker::all(workers, move |_, worker| attach(worker, start));
    let (restarted, returned) = tokio::join!(start::again(&load.site, address), returning);
    let took;
    (load.coordinator, took) = restarted?;
    let (workers, attached) = returned?;
    let workers = those_within(workers, &attached)?;
    let span = start.elapsed();
    let goal = format!("(goal: all within 20 s; the first answer came after {took})");
    tell_of("herd, after a kill", &load.coordinator, Duration::ZERO, span, attached, &goal)?;
    worker::leave(workers).await
}

/// Leaves out those who did not get in.
fn those_within(workers: Vec<Worker>, attached: &[Attached]) -> Result<Vec<Worker>, Trouble> {
    let (within, without): (Vec<_>, Vec<_>) =
        workers.into_iter().zip(attached).partition(|(_, attached)| attached.renewal.is_some());
    without.into_iter().try_for_each(|(mut worker, _)| worker.give_all_up())?;
    Ok(within.into_iter().map(|(worker, _)| worker).collect())
}

/// Renews, or registers where that is not known, until it is in; then renews once more, at once.
async fn attach(mut worker: Worker, start: Instant) -> Result<(Worker, Attached), Trouble> {
    let mut backoff = FIRST_BACKOFF;
    let mut attached = Attached { after: Duration::ZERO, attempts: 0, renewal: None };
    while start.elapsed() < PATIENCE {
        attached.attempts += 1;
        match contact(&mut worker).await {
            Ok(()) => {
                attached.after = start.elapsed();
                let before = Instant::now();
                worker.renew().await?;
                attached.renewal = Some(before.elapsed());
                break;
            }
            Err(Trouble::Unanswered { .. }) => {
                sleep(backoff.mul_f64(rand::random())).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Ok((worker, attached))
}

async fn contact(worker: &mut Worker) -> Result<(), Trouble> {
    if worker.has_session() && worker.renew().await? { Ok(()) } else { worker.register().await }
}

fn tell_of(
    what: &str,
    coordinator: &Coordinator,
    cpu: Duration,
    span: Duration,
    attached: Vec<Attached>,
    goal: &str,
) -> Result<(), Trouble> {
    let (mut renewals, mut last, mut attempts) = (Latencies::default(), Duration::ZERO, 0);
    let all = attached.len();
    for Attached { after, attempts: tried, renewal } in attached {
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

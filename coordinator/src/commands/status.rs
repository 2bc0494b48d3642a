//! `coordinator status`: prints the job and its workers as a table, or as one JSON object.

use std::{
    future::pending,
    io::{self, IsTerminal as _, Write},
    pin::Pin,
    time::Duration,
};

use serde::Serialize;
use shared::{
    backoff::Backoff,
    exit_code::Exit,
    job::JobStatus,
    job_line::{Screen, clock},
};
use tokio::time::{sleep, timeout};

use super::{AdminError, CommandError, classes, json, workers_table, write_line};
use crate::{
    concurrency::ConcurrencyStatus,
    config::StatusArgs,
    fleet::{self, Fleet, Phase, WorkerView},
    rpc::{
        admin::client::{Client, Overview},
        conversions::milliseconds,
    },
    wording::bytes,
};

/// Interval of `--watch`.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Backoff between attempts to reach a coordinator that does not respond. Workers use the same.
const RECONNECT_BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(250),
    cap: Duration::from_secs(5),
};
/// Moves the cursor to the top left and clears the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Prints the state of the fleet once, or until the job is done.
pub(super) async fn run(
    arguments: &StatusArgs,
    screen: &Screen,
    out: &mut impl Write,
) -> Result<Exit, CommandError> {
    let client = Client::new(&arguments.coordinator)?;
    // Without a terminal and with `--json`, the outputs follow one another.
    let clears = arguments.watch && !arguments.json && io::stdout().is_terminal();
    let clear = if clears { CLEAR } else { "" };
    let columns = workers_table::columns_of_terminal();
    let mut overview = client.fleet().await?;
    let mut watcher = Watcher { client, end: None };
    loop {
        let text = if arguments.json {
            json(&StatusJson::from(&overview))
        } else {
            text(&overview, columns)
        };
        write_line(out, &format!("{clear}{text}"))?;
        if arguments.classes {
            let job = &overview.fleet.job;
            classes::list(&watcher.client, job, arguments.json, out).await?;
        }
        if !arguments.watch || overview.fleet.phase == Phase::Done {
            return Ok(Exit::Done);
        }
        overview = watcher.next(overview, screen).await?;
    }
}

/// The job's final counts; `None` if the coordinator stops before.
type JobEnd = Pin<Box<dyn Future<Output = Option<JobStatus>> + Send>>;

/// Follows a job until it is done.
struct Watcher {
    client: Client,
    /// The job's end, as reported by the coordinator that responded last. A coordinator exits with
    /// its job, so it may not respond again.
    end: Option<JobEnd>,
}

impl Watcher {
    /// The next state of a job that is not done: after an interval, or at its end. If the
    /// coordinator does not respond, retries until one does: it may be restarted.
    async fn next(&mut self, before: Overview, screen: &Screen) -> Result<Overview, CommandError> {
        let Self { client, end } = self;
        if end.is_none() {
            *end = Some(Box::pin(client.done()));
        }
        tokio::select! {
            biased;
            job = ended(end) => return Ok(fetch_final(client, before, job).await),
            () = sleep(POLL_INTERVAL) => {}
        }
        let mut attempts = 0;
        loop {
            let answer = tokio::select! {
                biased;
                job = ended(end) => return Ok(fetch_final(client, before, job).await),
                answer = client.fleet() => answer,
            };
            match answer {
                Ok(overview) => {
                    if attempts > 0 {
                        screen.write_line("the coordinator answers again");
                    }
                    return Ok(overview);
                }
                Err(AdminError::Unreachable {
                    coordinator, why, ..
                }) => {
                    if attempts == 0 {
                        let line = format!(
                            "no answer from {coordinator} ({why}); trying again until there is one"
                        );
                        screen.write_line(&line);
                    }
                    sleep(RECONNECT_BACKOFF.delay(attempts, rand::random())).await;
                    attempts = attempts.saturating_add(1);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Waits for the job's end. Never returns if the coordinator stops before that.
async fn ended(end: &mut Option<JobEnd>) -> JobStatus {
    if let Some(done) = end {
        if let Some(job) = done.await {
            return job;
        }
        *end = None;
    }
    pending().await
}

/// The final state of a job that is done.
async fn fetch_final(client: &Client, before: Overview, job: JobStatus) -> Overview {
    let answer = timeout(POLL_INTERVAL, client.fleet()).await;
    final_overview(before, job, answer.ok().and_then(Result::ok))
}

/// Combines the final counts with the last response. If the coordinator has already exited, the
/// workers' last seconds are unknown; the former rows are omitted, because they would contradict
/// the counts.
fn final_overview(before: Overview, job: JobStatus, answer: Option<Overview>) -> Overview {
    let answer = answer.filter(|answer| answer.fleet.job.is_done());
    Overview {
        fleet: Fleet {
            job,
            phase: Phase::Done,
            origin: before.fleet.origin,
            workers: answer
                .map(|answer| answer.fleet.workers)
                .unwrap_or_default(),
        },
        ..before
    }
}

/// The state as text, on a terminal with `columns` columns.
fn text(overview: &Overview, columns: Option<usize>) -> String {
    let job = &overview.fleet.job;
    let origin = if overview.fleet.phase == Phase::Done {
        String::new()
    } else {
        let left = job.time_left.map(|left| format!("; {} left", clock(left)));
        fleet::in_words(&overview.fleet.origin) + &left.unwrap_or_default() + "\n"
    };
    let text = format!(
        "{}\n{} classes: {} success, {} skipped, {} failed, {} leased, {} pending; {} received\n{origin}run {}, start {}\n",
        overview.fleet.phase.in_words(),
        job.total,
        job.success,
        job.skipped,
        job.failed,
        job.leased,
        job.pending,
        bytes(job.received_bytes),
        overview.run_id,
        overview.epoch,
    );
    if overview.fleet.workers.is_empty() {
        return text + "no workers";
    }
    text + &workers_table::text(&overview.fleet.workers, columns)
}

/// The JSON output. The help documents the names of the fields, so they are stable.
#[derive(Serialize)]
struct StatusJson<'overview> {
    run_id: &'overview str,
    epoch: u32,
    phase: Phase,
    total: u64,
    success: u64,
    skipped: u64,
    failed: u64,
    leased: u64,
    pending: u64,
    received_bytes: u64,
    time_left_ms: Option<u64>,
    done: bool,
    origin: ConcurrencyStatus,
    workers: &'overview [WorkerView],
}

impl<'overview> From<&'overview Overview> for StatusJson<'overview> {
    fn from(overview: &'overview Overview) -> Self {
        let job = &overview.fleet.job;
        Self {
            run_id: &overview.run_id,
            epoch: overview.epoch,
            phase: overview.fleet.phase,
            total: job.total,
            success: job.success,
            skipped: job.skipped,
            failed: job.failed,
            leased: job.leased,
            pending: job.pending,
            received_bytes: job.received_bytes,
            time_left_ms: job.time_left.map(milliseconds),
            done: job.is_done(),
            origin: overview.fleet.origin,
            workers: &overview.fleet.workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::fleet::{WaitsFor, WorkerState};

    fn origin() -> ConcurrencyStatus {
        ConcurrencyStatus {
            limit: 8,
            open: 5,
            wanted: 20,
            bytes_per_second: 12_300_000,
            requests: 100,
            cuts: 4,
            refusals: 3,
            overloads: 2,
            ..ConcurrencyStatus::default()
        }
    }

    fn overview() -> Overview {
        let worker = |name: &str, state, received_bytes, silent| WorkerView {
            name: name.to_owned(),
            state,
            slots: 10,
            leased: 9,
            success: 8,
            skipped: 7,
            failed: 6,
            received_bytes,
            silent: Duration::from_millis(silent),
            storage: "5".to_owned(),
            build: "0.1.0".to_owned(),
            since: UNIX_EPOCH + Duration::from_millis(1_764_000_000_123),
            bytes_per_second: 250,
            disk_free: None,
            waits_for: Some(WaitsFor::Origin(Duration::from_millis(11_001))),
            host: "rack1-node1".to_owned(),
        };
        let job = JobStatus {
            total: 100,
            success: 16,
            skipped: 14,
            failed: 12,
            leased: 18,
            pending: 40,
            workers: 2,
            received_bytes: 1_200_000_950,
            time_left: Some(Duration::from_secs(130)),
        };
        let workers = vec![
            worker(
                "node1.example.org",
                WorkerState::Active,
                1_200_000_000,
                2500,
            ),
            worker("w", WorkerState::Quarantined, 950, 83_000),
        ];
        Overview {
            run_id: "5eed".to_owned(),
            epoch: 3,
            fleet: Fleet {
                job,
                phase: Phase::Running,
                origin: origin(),
                workers,
            },
        }
    }

    #[test]
    fn the_status_is_a_table() {
        assert_eq!(
            text(&overview(), None),
            "\
running
100 classes: 16 success, 14 skipped, 12 failed, 18 leased, 40 pending; 1.20GB received
origin: 5 of at most 8 connections, 12.3MB/s; 02:10 left
run 5eed, start 3
worker             state        slots  leased  success  skipped  failed  received  last heard of
node1.example.org  active          10       9        8        7       6    1.20GB         2s ago
w                  quarantined     10       9        8        7       6      950B      01:23 ago"
        );
        let mut quiet = overview();
        quiet.fleet.origin.pause = Duration::from_millis(3200);
        assert!(
            text(&quiet, None).contains("connections, 12.3MB/s, no requests for 4s; 02:10 left\n"),
            "{}",
            text(&quiet, None)
        );
        let mut alone = overview();
        alone.fleet.workers.clear();
        alone.fleet.phase = Phase::WaitingForWorkers;
        let output = text(&alone, None);
        assert!(
            output.starts_with("waiting for workers\n") && output.ends_with("\nno workers"),
            "{output}"
        );
    }

    #[test]
    fn the_final_status_is_consistent() {
        let job = JobStatus {
            total: 100,
            success: 58,
            skipped: 30,
            failed: 12,
            ..JobStatus::default()
        };
        let unreachable = final_overview(overview(), job, None);
        assert!(
            text(&unreachable, None).starts_with("done\n100 classes: 58 success, "),
            "{}",
            text(&unreachable, None)
        );
        assert!(
            text(&unreachable, None).ends_with("\nrun 5eed, start 3\nno workers"),
            "{}",
            text(&unreachable, None)
        );
        assert!(json(&StatusJson::from(&unreachable)).ends_with(r#","workers":[]}"#));
        // A response from before the end is ignored.
        assert_eq!(
            final_overview(overview(), job, Some(overview())),
            unreachable
        );

        let mut answer = overview();
        answer.fleet.job = job;
        answer.fleet.workers.truncate(1);
        answer.fleet.workers[0].leased = 0;
        let workers = answer.fleet.workers.clone();
        assert_eq!(
            final_overview(overview(), job, Some(answer)).fleet,
            Fleet {
                job,
                phase: Phase::Done,
                origin: origin(),
                workers
            }
        );
    }

    #[test]
    fn the_json_status_is_one_object() {
        let mut one = overview();
        one.fleet.workers.pop();
        let worker = r#"{"name":"node1.example.org","state":"active","slots":10,"leased":9,"success":8,"skipped":7,"failed":6,"received_bytes":1200000000,"silent_ms":2500,"storage_id":"5","build":"0.1.0","since_at_ms":1764000000123,"bytes_per_second":250,"disk_free":null,"waits_for":"origin asked for 12 s","host":"rack1-node1"}"#;
        let job = r#""total":100,"success":16,"skipped":14,"failed":12,"leased":18,"pending":40,"received_bytes":1200000950,"time_left_ms":130000,"done":false"#;
        let origin = r#""origin":{"connections":5,"limit":8,"wanted":20,"quiet_ms":0,"bytes_per_second":12300000,"requests":100,"cuts":4,"refusals":3,"overloads":2}"#;
        let expected = format!(
            r#"{{"run_id":"5eed","epoch":3,"phase":"running",{job},{origin},"workers":[{worker}]}}"#
        );
        assert_eq!(json(&StatusJson::from(&one)), expected);
    }
}

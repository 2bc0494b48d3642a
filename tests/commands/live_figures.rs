//! Figures that come with the observations of workers: they do not wait for heartbeats, tell which
//! worker is silent, and are the same in all outputs.

use std::fs;

use serde_json::{Value, json};
use tests::{
    archives::images,
    cluster::{Coordinator, Job, Table},
    http::Scrape,
    running::Signal,
};

use super::{SLOW, command, origin_of, status, status::status_when};

/// The worker of this name in a status.
fn worker<'status>(status: &'status Value, name: &str) -> Option<&'status Value> {
    let workers = status["workers"].as_array()?;
    workers.iter().find(|worker| worker["name"] == name)
}

/// The state of the worker of this name.
fn state<'status>(status: &'status Value, name: &str) -> &'status str {
    let state = worker(status, name).and_then(|worker| worker["state"].as_str());
    state.unwrap_or("none")
}

fn is_positive(value: &Value) -> bool {
    value.as_u64() > Some(0)
}

/// Waits until the job is done and the coordinator stays.
#[track_caller]
fn wait_until_done(coordinator: &mut Coordinator) {
    coordinator
        .running
        .wait_until("the job is done", |running| {
            running.stderr().contains("stays to tell").then_some(())
        });
}

/// Panics unless `status`, the metrics and the closing table contain the same.
#[track_caller]
fn assert_agree(job: &Job, coordinator: &Coordinator, table: Table) {
    let status = status(job, coordinator);
    let scrape = Scrape::of(coordinator.http).expect("the coordinator answers");
    assert_eq!(coordinator.running.stdout(), table.text());
    let of = |name: &str| status[name].as_u64().expect("a number");
    let shown = Table::of(of("success"), of("skipped"), of("failed"));
    assert_eq!(shown, table, "{status}");
    let metric = |sample: &str| scrape.value(sample).to_string();
    for name in ["success", "skipped", "failed", "leased", "pending"] {
        let sample = format!("imagenet_classes{{state=\"{name}\"}}");
        assert_eq!(metric(&sample), of(name).to_string(), "{name}: {status}");
    }
    let received = of("received_bytes").to_string();
    assert_eq!(metric("imagenet_received_bytes_total"), received);
    let workers = status["workers"].as_array().expect("a list");
    for state in ["active", "draining", "quarantined", "silent", "lost"] {
        let sample = format!("imagenet_workers{{state=\"{state}\"}}");
        let shown = workers.iter().filter(|worker| worker["state"] == state);
        assert_eq!(metric(&sample), shown.count().to_string(), "{state}");
    }
}

/// With this time to live the first heartbeat comes after minutes.
#[test]
fn bytes_are_shown_without_a_heartbeat_and_agree_at_the_end() {
    let (origin, wnids) = origin_of(6);
    origin.limit_rate(2 * SLOW);
    let rows = wnids.iter().map(String::as_str).chain(["n99999999"]);
    let job = Job::new().classes(rows).origin(&origin).args([
        "--delete-tar",
        "--stay",
        "--lease-ttl=10m",
        "--max-connections=1",
    ]);
    let mut coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let running = job.start_worker_at(&connect, "w1", 4, job.target_path());
    let live = status_when(
        &job,
        &mut coordinator,
        "all live figures are shown",
        |status| {
            let is_live = |worker: &Value| {
                ["received_bytes", "bytes_per_second", "disk_free"]
                    .iter()
                    .all(|name| is_positive(&worker[name]))
            };
            is_positive(&status["received_bytes"]) && worker(status, "w1").is_some_and(is_live)
        },
    );
    let shown = worker(&live, "w1").expect("it was there a moment ago");
    assert_eq!(shown["waits_for"], json!("limit of 1 connection"), "{live}");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has this file");
    assert_eq!(shown["host"], json!(host.trim_end()), "{live}");
    let arguments = ["status", "--json", "--classes", "--connect", &connect];
    coordinator
        .running
        .wait_until("the offset of a class is shown", |_| {
            let listed = command(&job, arguments).stdout;
            let classes = listed.lines().skip(1);
            classes
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .any(|class| is_positive(&class["bytes"]) && is_positive(&class["length"]))
                .then_some(())
        });
    let scrape = Scrape::of(coordinator.http).expect("the coordinator answers");
    assert!(
        scrape.value("imagenet_received_bytes_total") > 0.5,
        "{}",
        scrape.text
    );
    assert!(
        scrape.value("imagenet_classes{state=\"success\"}") < 5.5
            && scrape.sum("imagenet_rpc_seconds_count{service=\"Coordinator\",method=\"Renew\"")
                < 0.5,
        "{}",
        scrape.text
    );

    origin.limit_rate(0);
    assert_eq!(running.wait().code, Some(0));
    wait_until_done(&mut coordinator);
    assert_agree(&job, &coordinator, Table::of(6, 0, 1));
    let lengths = wnids.iter().zip(1..);
    let lengths = lengths.map(|(wnid, seed)| images(wnid, 5, 10_000..20_000, seed).len() as u64);
    let received = status(&job, &coordinator)["received_bytes"].as_u64();
    assert_eq!(received, Some(lengths.sum()), "each byte once");
}

#[test]
fn a_stopped_worker_is_silent_then_lost_and_active_when_it_is_back() {
    let (origin, wnids) = origin_of(6);
    origin.limit_rate(2 * SLOW);
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar", "--stay", "--lease-ttl=3s"]);
    let mut coordinator = job.start_coordinator();
    let connect = format!("http://{}", coordinator.address);
    let [works, stopped, killed] = ["works", "stopped", "killed"]
        .map(|name| job.start_worker_at(&connect, name, 2, job.target_path()));
    status_when(&job, &mut coordinator, "all workers are busy", |status| {
        let is_busy = |name| worker(status, name).is_some_and(|it| is_positive(&it["leased"]));
        ["works", "stopped", "killed"].into_iter().all(is_busy)
    });
    stopped.signal(Signal::STOP);
    killed.kill();
    let away = ["stopped", "killed"];
    let silent = status_when(&job, &mut coordinator, "both are silent", |status| {
        assert!(
            away.iter().all(|name| state(status, name) != "lost"),
            "lost before it was silent: {status}"
        );
        away.iter().all(|name| state(status, name) == "silent")
    });
    assert_eq!(state(&silent, "works"), "active", "{silent}");
    for name in away {
        let shown = worker(&silent, name).expect("it is silent");
        assert!(is_positive(&shown["leased"]), "its leases last: {silent}");
        assert_eq!(shown["bytes_per_second"], json!(0), "{silent}");
        assert!(shown["silent_ms"].as_u64() > Some(6_000), "{silent}");
    }
    let lost = status_when(&job, &mut coordinator, "both are lost", |status| {
        away.iter().all(|name| state(status, name) == "lost")
    });
    assert_eq!(state(&lost, "works"), "active", "{lost}");
    stopped.signal(Signal::CONT);
    status_when(
        &job,
        &mut coordinator,
        "the stopped one is back",
        |status| state(status, "stopped") == "active",
    );

    origin.limit_rate(0);
    for running in [works, stopped] {
        let ended = running.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    wait_until_done(&mut coordinator);
    assert_agree(&job, &coordinator, Table::of(6, 0, 0));
    assert_eq!(state(&status(&job, &coordinator), "killed"), "lost");
}

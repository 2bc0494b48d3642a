//! One connection budget for the origin, shared by all workers.

use std::time::Duration;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::{Job, Table},
    http::Scrape,
    origin::Origin,
    wait::wait_for,
};

use crate::scripted_coordinator::{BudgetStream, ScriptedCoordinator, lease};

const TIMEOUT: Duration = Duration::from_secs(20);

/// An origin with `classes` classes of 75 to 100 kB, and a job for them.
fn fixture(classes: usize, args: &[&str]) -> (Origin, Job) {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=classes)
        .map(|number| format!("n{number:08}"))
        .collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 5, 15_000..20_000, 1));
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin);
    (origin, job.args([&["--delete-tar"], args].concat()))
}

#[test]
fn the_connection_limit_applies_to_all_workers_together() {
    let (origin, job) = fixture(20, &["--max-connections", "3"]);
    origin.limit_rate(50_000);
    let coordinator = job.start_coordinator();
    let http = coordinator.http;
    let scrape = || Scrape::of(http).expect("the coordinator answers");
    let workers =
        ["one", "two"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    wait_for("the limit is reached", TIMEOUT, || {
        scrape().value("imagenet_coordinator_origin_connections_open") > 2.5
    });
    let busy = scrape();
    let limit = busy.value("imagenet_coordinator_origin_connections_limit");
    assert!((limit - 3.0).abs() < 0.1, "{}", busy.text);
    assert!(
        busy.value("imagenet_coordinator_origin_connections_wanted") > 3.5,
        "{}",
        busy.text
    );
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(20, 0, 0));
    assert_eq!(origin.most_transfers(), 3);
    // Includes connections that are being closed.
    assert!(
        origin.most_connections() <= 6,
        "{} connections, including idle ones",
        origin.most_connections()
    );
    assert_eq!(origin.all_requests().len(), 20);
}

#[test]
fn the_rate_limit_applies_to_all_workers_together() {
    let (origin, job) = fixture(10, &["--max-rate", "200kB/s", "--max-connections", "2"]);
    let coordinator = job.start_coordinator();
    let workers =
        ["one", "two"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(10, 0, 0));
    let requests = origin.all_requests();
    let first = requests
        .iter()
        .map(|request| request.at)
        .min()
        .expect("there were requests");
    // Each of the two connections may be ahead by a tar, which arrives in one read, and nothing
    // waits after the last ones.
    let took = first.elapsed().as_secs_f64();
    let least = 6.0 * 92_000.0 / 200_000.0;
    assert!(
        origin.bytes_sent() > 900_000 && took > least,
        "{took} s for {} bytes",
        origin.bytes_sent()
    );
}

#[test]
fn a_retry_after_to_one_worker_delays_all_workers() {
    let (origin, job) = fixture(30, &["--retries", "2"]);
    // A class takes 0.25 s, so that every worker has some left to request.
    origin.limit_rate(400_000);
    let coordinator = job.start_coordinator();
    let workers = ["one", "two", "three"].map(|name| {
        let url = format!("http://{}", coordinator.address);
        job.start_worker_at(&url, name, 1, job.target_path())
    });
    wait_for("all workers are downloading", TIMEOUT, || {
        origin.most_transfers() > 2
    });
    let next = (1..=30)
        .map(|number| format!("n{number:08}"))
        .filter(|wnid| origin.gets(wnid).is_empty())
        .nth(12);
    let next = next.expect("some classes are left");
    origin
        .script_of(&next)
        .expect("the class is served")
        .script([Answer::too_many_requests(5)]);
    for worker in workers {
        assert_eq!(worker.wait().code, Some(0));
    }
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(30, 0, 0));
    let rejected_at = origin.gets(&next)[0].at;
    let requests = origin.all_requests();
    let later: Vec<_> = requests
        .iter()
        .filter(|it| it.at > rejected_at)
        .map(|it| (it.at - rejected_at).as_millis())
        .collect();
    assert!(!later.is_empty());
    // A request may have been in transit when the answer arrived.
    assert_eq!(
        later
            .iter()
            .filter(|after| (100..4900).contains(*after))
            .count(),
        0,
        "{later:?}"
    );
}

#[test]
fn a_worker_sends_no_request_before_its_first_budget_and_keeps_the_last_one_when_the_stream_breaks()
{
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=6).map(|number| format!("n{number:08}")).collect();
    for wnid in &wnids {
        origin.class(wnid, images(wnid, 5, 15_000..20_000, 1));
    }
    origin.limit_rate(200_000);
    let job = Job::new();
    let coordinator = ScriptedCoordinator::start(&origin);
    coordinator.answers().budget_stream = BudgetStream::Silent;
    coordinator.answers().leases = wnids.iter().map(|wnid| lease(wnid, 5)).collect();
    let worker = job.start_worker_at(&coordinator.url(), "w", 6, job.target_path());
    coordinator.wait_for("it reports its demand", |seen| {
        seen.observations.last().is_some_and(|it| it.wanted == 6)
    });
    assert_eq!(origin.all_requests().len(), 0);

    let budget = proto::Budget {
        version: 3,
        connections: 2,
        observe_ms: 50,
        ..proto::Budget::default()
    };
    coordinator.answers().budget_stream = BudgetStream::Budget(budget);
    coordinator.wait_for("it keeps to its budget", |seen| {
        seen.observations
            .last()
            .is_some_and(|it| (it.budget_version, it.open, it.flowing) == (3, 2, 2))
    });
    coordinator.answers().budget_stream = BudgetStream::Broken;
    let before = coordinator.calls().reports.len();
    coordinator.wait_for("it continues", |seen| seen.reports.len() > before + 1);
    let observed = coordinator.calls().observations.len();
    coordinator.answers().budget_stream = BudgetStream::Budget(proto::Budget {
        version: 4,
        connections: 1,
        ..budget
    });
    coordinator.wait_for("it has reconnected and reports what it uses", |seen| {
        seen.observations
            .get(observed)
            .is_some_and(|first| first.budget_version == 3 && first.session_id == 7)
    });
    coordinator.wait_for("all classes are reported", |seen| seen.results().len() == 6);
    coordinator.answers().job_done = true;
    assert_eq!(worker.wait().code, Some(0));
    assert_eq!(origin.most_transfers(), 2);
    for wnid in &wnids {
        assert_class_is(&images(wnid, 5, 15_000..20_000, 1), &job.class_folder(wnid));
    }
    let observations = coordinator.calls().observations;
    let last = observations.last().expect("there were observations");
    assert_eq!((last.requests, last.cuts, last.refusals), (6, 0, 0));
    assert!(
        observations
            .iter()
            .all(|it| it.session_id == 7 && it.open <= 2),
        "{observations:#?}"
    );
}

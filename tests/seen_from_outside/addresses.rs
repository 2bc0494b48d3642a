//! The address of the HTTP port: as given, a free port, or an error message with a remedy.

use std::{net::TcpListener, sync::LazyLock, thread::sleep, time::Duration};

use tests::{
    answer::Answer,
    cluster::{Job, Table},
    http::get,
    log::assert_lines,
    origin::Origin,
    running::Running,
    wait::wait_for,
};

use crate::{origin, wnids};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Keeps the default port occupied until all tests have ended, unless another process occupies it.
static DEFAULT_PORT: LazyLock<Option<TcpListener>> = LazyLock::new(|| {
    (0..200).find_map(|_| {
        let taken = TcpListener::bind("127.0.0.1:8080").ok();
        if taken.is_none() {
            // A program of another test has the port, and ends soon.
            sleep(Duration::from_millis(50));
        }
        taken
    })
});

/// A job of one class that stalls until the origin ends its stalls.
fn hanging_job(origin: &Origin, wnids: &[String]) -> Job {
    origin
        .script_of(&wnids[0])
        .expect("the class is served")
        .script([Answer::stall_at(10_000)]);
    Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(origin)
        .args(["--delete-tar"])
}

#[test]
fn port_0_takes_a_free_port_and_prints_it_in_one_line() {
    let wnids = wnids(1);
    let origin = origin(&wnids);
    let job = hanging_job(&origin, &wnids).args(["--http", "127.0.0.1:0"]);
    let mut running = job.start();
    let address = running.wait_for_http();
    assert_ne!(address.port(), 0);
    assert_eq!(get(address, "/healthz"), Some((200, "ok\n".to_owned())));
    origin.end_stalls();
    let finished = running.wait();
    assert_lines(&finished.stderr, 1, &[&address.to_string()]);
    job.assert_ended(&finished, 0, Table::of(1, 0, 0));
}

#[test]
fn runs_on_one_host_find_a_free_port_when_the_default_is_busy() {
    LazyLock::force(&DEFAULT_PORT);
    let wnids = wnids(1);
    let origin = origin(&wnids);
    let jobs = [(); 2].map(|()| hanging_job(&origin, &wnids));
    let mut running = jobs.each_ref().map(Job::start);
    let addresses = running.each_mut().map(Running::wait_for_http);
    assert_ne!(addresses[0], addresses[1]);
    for address in addresses {
        assert_ne!(address.port(), 8080);
        wait_for("the job is ready", TIMEOUT, || {
            get(address, "/readyz") == Some((200, "ok\n".to_owned()))
        });
    }
    origin.end_stalls();
    for (job, running) in jobs.iter().zip(running) {
        job.assert_ended(&running.wait(), 0, Table::of(1, 0, 0));
    }
}

#[test]
fn a_busy_port_is_an_error_if_configured_or_if_others_must_find_it() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let asked_for = busy.local_addr().expect("it is bound").to_string();
    LazyLock::force(&DEFAULT_PORT);
    let job = Job::new()
        .classes(["n00000001"])
        .url("http://127.0.0.1:9/x");
    let csv = job.folder().join("data.csv");
    let csv = csv.to_str().expect("a plain path");
    for (args, address) in [
        (
            vec!["--dev", "--fname", csv, "--http", &asked_for],
            asked_for.as_str(),
        ),
        (
            vec!["--listen", "127.0.0.1:0", "--fname", csv],
            "127.0.0.1:8080",
        ),
    ] {
        let finished = job.start_with(args.iter().copied()).wait();
        job.assert_could_not_run(
            &finished,
            &[
                &format!("listen on {address}"),
                "in use",
                "another address with --http",
            ],
        );
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
}

#[test]
fn an_address_that_other_machines_reach_causes_one_warning() {
    let wnids = wnids(1);
    let origin = origin(&wnids);
    let job = hanging_job(&origin, &wnids).args(["--http", "0.0.0.0:0"]);
    let mut running = job.start();
    let address = running.wait_for_http();
    assert!(address.ip().is_unspecified());
    assert_eq!(
        get(([127, 0, 0, 1], address.port()).into(), "/healthz"),
        Some((200, "ok\n".to_owned()))
    );
    origin.end_stalls();
    let finished = running.wait();
    let warnings: Vec<&str> = finished
        .stderr
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("open to other machines"),
        "{}",
        finished.stderr
    );
    job.assert_ended(&finished, 0, Table::of(1, 0, 0));
}

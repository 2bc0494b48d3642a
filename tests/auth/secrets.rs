//! Secrets are never shown (S22): not in a log, not on the terminal, not in the list of processes,
//! at any log level.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tests::{cluster::Table, wait::wait_until};

use super::{Cluster, text};

/// Libraries log only if they are named.
const TRACE_ALL: &str = "trace,h2=trace,hyper=trace,hyper_util=trace,mio=trace,reqwest=trace,\
                         rustls=trace,tonic=trace,tower=trace";

/// All secrets, by file name: the last part of each token, and the lines of each key.
fn secrets(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut secrets = BTreeMap::new();
    for name in ["worker.token", "viewer.token", "admin.token"] {
        let token = cluster.secret(name);
        secrets.insert(
            name.to_owned(),
            token
                .rsplit('.')
                .next()
                .expect("a token has parts")
                .to_owned(),
        );
    }
    for name in ["ca.key", "server.key"] {
        let key = cluster.secret(name);
        for (number, line) in key
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .enumerate()
        {
            secrets.insert(format!("{name}:{number}"), line.to_owned());
        }
    }
    secrets
}

/// The text of every file below a folder, without the file or folder `except`.
fn texts(folder: &Path, except: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == except {
            continue;
        }
        if path.is_dir() {
            texts(&path, except, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((text(&path), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

/// The command lines of these processes in the list of processes.
fn command_lines(processes: &[u32]) -> Vec<(String, String)> {
    let of = |process: &u32| {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        (
            format!("the command line of {process}"),
            String::from_utf8_lossy(&line).into_owned(),
        )
    };
    processes.iter().map(of).collect()
}

/// A key file in the place of the tokens, and a token with an additional letter: the error is
/// reported without the contents.
#[track_caller]
fn assert_unusable_tokens_are_not_shown(cluster: &Cluster) {
    let damaged = cluster.job.folder().join("trust").join("damaged");
    std::fs::write(&damaged, format!("{}x\n", cluster.secret("worker.token")))
        .expect("the folder is ours");
    for wrong in [text(&damaged), cluster.path("server.key")] {
        let worker = ["--connect", "https://127.0.0.1:1", "--token-file", &wrong];
        cluster.job.assert_could_not_run(
            &cluster.job.start_worker_with(worker).wait(),
            &["use the token in"],
        );
    }
    for wrong in [text(&damaged), cluster.path("server.key")] {
        let coordinator = cluster
            .job
            .start_with(["--listen", "127.0.0.1:0", "--token-file", &wrong])
            .wait();
        cluster
            .job
            .assert_could_not_run(&coordinator, &["use the tokens in", "line 1"]);
    }
}

#[test]
fn no_secret_is_shown_at_any_log_level() {
    let cluster = Cluster::of(3);
    cluster.origin.limit_rate(200_000);
    let secrets = secrets(&cluster);
    assert!(
        secrets.values().all(|secret| secret.len() >= 16),
        "{secrets:?}"
    );
    assert_unusable_tokens_are_not_shown(&cluster);

    let job = cluster.job;
    let cluster = Cluster {
        job: job.variable("RUST_LOG", TRACE_ALL),
        ..cluster
    };
    let (cluster, coordinator) = cluster.start(&[]);
    let refused = cluster
        .worker(
            "w0",
            &coordinator,
            &["--token-file", &cluster.path("admin.token")],
        )
        .wait();
    cluster
        .job
        .assert_could_not_run(&refused, &["the role admin"]);
    let worker = cluster.worker(
        "w1",
        &coordinator,
        &["--token-file", &cluster.path("worker.token")],
    );
    // Just after its start a process has no command line yet.
    let shown = || Some(command_lines(&[coordinator.running.id(), worker.id()]));
    let all =
        |lines: &Vec<(String, String)>| lines.iter().all(|(_, line)| line.contains("--token-file"));
    let mut seen = wait_until(Duration::from_secs(20), || shown().filter(all))
        .expect("both processes have a command line");
    assert_eq!(worker.wait().code, Some(0));
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(3, 0, 0));

    texts(
        cluster.job.folder(),
        &cluster.job.folder().join("trust"),
        &mut seen,
    );
    for log in [
        "target/imagenet_downloader.log",
        "w1/imagenet_downloader.w1.log",
    ] {
        let text = seen
            .iter()
            .find(|(name, _)| name.ends_with(log))
            .map(|(_, text)| text);
        assert!(
            text.is_some_and(|text| text.contains("TRACE")),
            "{log} has trace messages"
        );
    }
    for (place, text) in &seen {
        for (name, secret) in &secrets {
            assert!(!text.contains(secret), "{name} is shown in {place}");
        }
    }
}

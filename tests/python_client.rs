//! The protocol is independent of the language: a worker generated from `coordinator.proto` with
//! stock `grpcio` does its part of a job alongside a worker of this repository, and queries the
//! server's health as orchestrators do.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tests::{
    archives::images,
    cluster::{Coordinator, Job, Table},
    folders::classes,
    origin::Origin,
    running::{Running, Signal},
};

const CLASSES: u64 = 8;

/// A Python with the packages in `requirements.txt`; `.ci/run` installs it here.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the workspace");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Some(target.join("python_client/bin/python")).filter(|python| python.is_file())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Starts the Python client, and waits until it prints its leases.
fn start_client(python: PathBuf, job: &Job, coordinator: &Coordinator) -> (Running, Value) {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python_client/client.py"));
    command.args(["--connect", &coordinator.address.to_string()]);
    let mut client = job.start_program(command);
    let holds = client.wait_until("it prints its leases", |client| {
        lines(&client.stdout()).into_iter().next()
    });
    (client, holds)
}

#[test]
fn a_python_client_works_alongside_a_worker_of_this_repository() {
    let Some(python) = python() else {
        eprintln!(
            "skipped: no Python client; python3 -m venv target/python_client && \
             target/python_client/bin/pip install -r tests/python_client/requirements.txt"
        );
        return;
    };
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=CLASSES)
        .map(|number| format!("n{number:08}"))
        .collect();
    for (seed, wnid) in (1..).zip(&wnids) {
        origin.class(wnid, images(wnid, 3, 1000..5000, seed));
    }
    let job = Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        .args(["--delete-tar", "--stay"]);
    let coordinator = job.start_coordinator();
    // It starts first, so that it gets classes regardless of the other worker's speed.
    let (client, holds) = start_client(python, &job, &coordinator);
    let worker = job.start_worker("ours", &coordinator, job.target_path());
    let client = client.wait();
    assert_eq!(
        client.code,
        Some(0),
        "{}\n--- stderr\n{}",
        client.stdout,
        client.stderr
    );
    let output = lines(&client.stdout);
    let [_, done] = output.as_slice() else {
        panic!("{output:?}")
    };
    let counts = ["success", "skipped", "failures", "total"]
        .map(|name| done[name].as_u64().expect("a count"));
    assert_eq!(counts, [CLASSES - 1, 0, 1, CLASSES]);

    assert_eq!(worker.wait().code, Some(0));
    coordinator.running.signal(Signal::TERM);
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(CLASSES - 1, 0, 1));
    let [published, failed, released] = ["published", "failed", "released"]
        .map(|name| done[name].as_str().expect("a class").to_owned());
    assert_eq!(
        holds["holds"],
        Value::from(
            [published.as_str(), &failed, &released]
                .map(str::to_owned)
                .to_vec()
        )
    );
    assert_eq!(
        job.failures(),
        [format!(
            "{failed} - HTTPError: 404 Client Error: from Python"
        )]
    );
    let ours = wnids
        .into_iter()
        .filter(|wnid| ![&published, &failed].contains(&wnid));
    assert_eq!(
        classes(job.target_path()),
        ours.collect::<Vec<_>>(),
        "the other worker downloads exactly what the client released"
    );
    for wnid in [&published, &failed] {
        assert!(
            origin.gets(wnid).is_empty(),
            "{wnid} was downloaded although the client held it"
        );
    }
}

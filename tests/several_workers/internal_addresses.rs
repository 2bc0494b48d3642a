//! Addresses that a coordinator may not direct a worker to: no packet is sent there.

use std::net::Ipv4Addr;

use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::Job,
    hosts::{Host, Network},
    origin::Origin,
    running::Running,
};

use crate::{
    answer_changes::AnswerChanges,
    scripted_coordinator::{ScriptedCoordinator, WNID, lease},
};

/// The metadata address, at which cloud providers serve credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The message about an address that is asked with no flag.
const NEVER: &str = "has a link-local or reserved address, which is never asked";
/// The message about an address that is asked with a flag only.
const ONLY_IF_ALLOWED: &str = "start the worker with --allow-private-origin";

/// Starts a worker in the network namespace of a host.
fn worker_on(
    host: &Host,
    job: &Job,
    coordinator: &ScriptedCoordinator,
    flags: &[&'static str],
) -> Running {
    let connect = coordinator.url();
    let target = job.target_path().to_str().expect("a plain path");
    let args = ["--connect", &connect, "--name", "w", "--workers", "1"];
    let args = args.into_iter().chain(["--target", target]);
    host.start_worker(job, args.chain(flags.iter().copied()))
}

/// Starts an origin with one class in the network namespace of a host.
fn origin_on(host: &Host, address: Ipv4Addr) -> Origin {
    let origin = host.on(|| Origin::listen(&format!("{address}:0")));
    let origin = origin.expect("a free port");
    origin.class(WNID, images(WNID, 10, 8000..12_000, 1));
    origin
}

/// Starts a worker whose coordinator names this origin and host: it ends with this message and
/// opens no connection.
#[track_caller]
fn assert_not_asked(
    name: &str,
    origin: &Origin,
    host: &Host,
    coordinator: &ScriptedCoordinator,
    message: &str,
) {
    let url = format!("http://{name}:{}/{{wnid}}.tar", origin.address().port());
    coordinator.answers().changes =
        AnswerChanges::in_the_job(move |job| job.url_template.clone_from(&url));
    let flags = if message == NEVER {
        &["--allow-private-origin"][..]
    } else {
        &[]
    };
    let job = Job::new();
    let finished = worker_on(host, &job, coordinator, flags).wait();
    job.assert_could_not_run(&finished, &["failed to ask the origin: ", message]);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert_eq!(
        origin.most_connections(),
        0,
        "the worker connected to {name}"
    );
}

#[test]
fn a_remote_coordinator_cannot_direct_a_worker_to_internal_addresses() {
    let Some((_network, [host, elsewhere])) = Network::of(["worker", "elsewhere"]) else {
        return;
    };
    host.add_address(METADATA);
    host.know(&format!(
        "{METADATA} metadata.test\n{} inside.test\n127.0.0.1 here.test\n",
        host.address
    ));
    let metadata = origin_on(&host, METADATA);
    let inside = origin_on(&host, host.address);
    let here = origin_on(&host, Ipv4Addr::LOCALHOST);
    let coordinator = elsewhere.on(|| ScriptedCoordinator::start_at(elsewhere.address, &inside));
    let mut tried = 0;
    for (origin, names, message) in [
        (
            &metadata,
            &[
                "169.254.169.254",
                "2852039166",
                "[::ffff:a9fe:a9fe]",
                "metadata.test",
            ][..],
            NEVER,
        ),
        (
            &inside,
            &["10.77.0.1", "[::ffff:10.77.0.1]", "inside.test"],
            ONLY_IF_ALLOWED,
        ),
        (
            &here,
            &[
                "127.0.0.1",
                "localhost",
                "0x7f.1",
                "[::ffff:127.0.0.1]",
                "here.test",
            ],
            ONLY_IF_ALLOWED,
        ),
    ] {
        for name in names {
            assert_not_asked(name, origin, &host, &coordinator, message);
            tried += 1;
        }
    }
    assert!(
        coordinator
            .calls()
            .leave_requests
            .iter()
            .all(|request| request.reason.contains("ask the origin"))
    );
    println!("addresses: {tried} tried, {tried} passed");
}

#[test]
fn a_worker_with_allow_private_origin_connects_to_it_and_follows_no_redirect_from_it() {
    let Some((_network, [host, elsewhere])) = Network::of(["worker", "elsewhere"]) else {
        return;
    };
    host.add_address(METADATA);
    host.know(&format!("{METADATA} metadata.test\n"));
    let metadata = origin_on(&host, METADATA);
    let inside = origin_on(&host, host.address);
    let tar = images(WNID, 10, 8000..12_000, 1);
    let port = metadata.address().port();
    for name in [
        "",
        "169.254.169.254",
        "metadata.test",
        "[::ffff:a9fe:a9fe]",
        "127.0.0.1",
    ] {
        if !name.is_empty() {
            let there = Answer::redirect(&format!("http://{name}:{port}/{WNID}.tar"));
            inside.class(WNID, tar.clone()).forever(there);
        }
        let job = Job::new();
        let coordinator =
            elsewhere.on(|| ScriptedCoordinator::start_at(elsewhere.address, &inside));
        coordinator.answers().leases = vec![lease(WNID, 5)];
        let worker = worker_on(&host, &job, &coordinator, &["--allow-private-origin"]);
        coordinator.wait_for("the class is reported", |calls| !calls.reports.is_empty());
        coordinator.answers().job_done = true;
        assert_eq!(worker.wait().code, Some(0));
        match coordinator.calls().results()[0]
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.kind.clone())
        {
            Some(proto::outcome::Kind::Success(_)) if name.is_empty() => {
                assert_class_is(&tar, &job.class_folder(WNID));
            }
            Some(proto::outcome::Kind::Failure(failure)) if !name.is_empty() => {
                assert!(
                    failure
                        .message
                        .starts_with("redirect to another host refused: "),
                    "{}",
                    failure.message
                );
            }
            other => panic!("{name:?}: {other:?}"),
        }
        assert_eq!(
            metadata.most_connections(),
            0,
            "the worker connected to {name}"
        );
    }
}

//! Joining a cluster (S14, S15): a worker token is sufficient and necessary, and it is sent to no
//! other server than the cluster's.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tests::{
    archives::assert_class_is,
    cluster::{Job, Table},
};

use super::{Cluster, init, text};

#[test]
fn the_files_of_init_are_all_that_both_programs_need() {
    let (cluster, coordinator) = Cluster::of(3).start(&[]);
    let worker = cluster.worker(
        "w1",
        &coordinator,
        &["--token-file", &cluster.path("worker.token")],
    );
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(3, 0, 0));
    for (wnid, tar) in &cluster.classes {
        assert_class_is(tar, &cluster.job.folder().join("w1").join(wnid));
    }
}

#[test]
fn the_commands_that_init_prints_name_the_files_that_it_made() {
    let job = Job::new();
    let folder = job.folder().join("trust");
    let output = init(&job, &folder);
    let folder = text(&folder);
    for words in [
        format!(
            "--tls-cert {folder}/server.pem --tls-key {folder}/server.key --token-file \
             {folder}/tokens"
        ),
        "worker --connect https://127.0.0.1:50051 --token-file worker.token".to_owned(),
        format!("--token-file {folder}/viewer.token"),
    ] {
        assert!(output.contains(&words), "no {words} in:\n{output}");
    }
    let again = job.start_with(["init", "--dir", &folder]).wait();
    job.assert_could_not_run(
        &again,
        &["ca.pem is there already and nothing is ever overwritten"],
    );
}

#[test]
fn a_worker_without_a_valid_token_ends_with_a_remedy() {
    let (cluster, coordinator) = Cluster::of(1).start(&[]);
    let word = cluster.job.folder().join("word");
    std::fs::write(&word, "0123456789abcdef").expect("the folder is ours");
    let word = text(&word);
    let authority = cluster.path("ca.pem");
    let admin = cluster.path("admin.token");
    for (flags, words) in [
        (
            vec![],
            "without proof: give the token that `coordinator init` wrote with --token-file",
        ),
        (
            vec!["--tls-ca", &authority],
            "a token is needed here: give the file with one of this cluster's with --token-file",
        ),
        (
            vec!["--tls-ca", &authority, "--token-file", &word],
            "the token is not one of this cluster's",
        ),
        (
            vec!["--token-file", &admin],
            "this takes a token for the role worker, and the one given is for the role admin",
        ),
    ] {
        let finished = cluster.worker("w1", &coordinator, &flags).wait();
        cluster.job.assert_could_not_run(&finished, &[words]);
    }
    assert_eq!(cluster.origin.all_requests().len(), 0);
}

#[test]
fn the_token_is_never_sent_to_another_cluster() {
    let ours = Cluster::of(1);
    let theirs = ours.job.folder().join("theirs");
    init(&ours.job, &theirs);
    let (address, received) = listen_as(&theirs);
    let connect = format!("https://{address}");
    let token = ours.path("worker.token");
    let worker = ours.job.start_worker_with([
        "--connect",
        &connect,
        "--name",
        "w1",
        "--token-file",
        &token,
    ]);
    ours.job.assert_could_not_run(
        &worker.wait(),
        &[
            "the coordinator could not prove itself",
            "give this cluster's token with --token-file",
        ],
    );
    assert_eq!(
        received.join().expect("the listener does not panic"),
        Vec::<u8>::new()
    );
}

#[test]
fn a_join_token_is_never_sent_in_plaintext_and_another_is_with_a_warning() {
    let cluster = Cluster::of(1);
    let word = cluster.job.folder().join("word");
    std::fs::write(&word, "0123456789abcdef").expect("the folder is ours");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let port = listener.local_addr().expect("it is bound").port();
    // Not a loopback address, but still this machine.
    let connect = format!("http://0.0.0.0:{port}");
    let admin = cluster.path("admin.token");
    let words = ["is never sent in plaintext over a network; give --connect https://"];
    let status = cluster
        .job
        .start_with(["status", "--connect", &connect, "--token-file", &admin])
        .wait();
    cluster.job.assert_could_not_run(&status, &words);
    let worker = [
        "--connect",
        &connect,
        "--token-file",
        &cluster.path("worker.token"),
    ];
    cluster
        .job
        .assert_could_not_run(&cluster.job.start_worker_with(worker).wait(), &words);
    listener.set_nonblocking(true).expect("a plain listener");
    assert!(listener.accept().is_err(), "the worker must not connect");
    drop(listener);

    let warning = "the token goes over the network in plaintext";
    let word = text(&word);
    let status = cluster
        .job
        .start_with(["status", "--connect", &connect, "--token-file", &word])
        .wait();
    assert!(status.stderr.contains(warning), "{}", status.stderr);
    let mut worker = cluster
        .job
        .start_worker_with(["--connect", &connect, "--token-file", &word]);
    worker.wait_until("it warns", |worker| {
        worker.stderr().contains(warning).then_some(())
    });
    let away = format!("no answer from the coordinator at {connect}, trying again until 20");
    worker.wait_until("it says who is away", |worker| {
        let output = worker.stderr();
        (output.contains(&away) && output.contains("Z: Connection refused")).then_some(())
    });
    worker.kill();
}

/// A server with the certificate in this folder; it accepts one connection and returns the bytes
/// that it receives.
fn listen_as(folder: &std::path::Path) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let chain = CertificateDer::pem_file_iter(folder.join("server.pem")).expect("init created it");
    let chain = chain
        .collect::<Result<Vec<_>, _>>()
        .expect("init wrote PEM");
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("init created it");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .expect("rustls has default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let address = listener.local_addr().expect("it is bound");
    let received = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the worker connects");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a valid time");
        let connection =
            ServerConnection::new(Arc::new(config)).expect("the configuration is complete");
        let mut received = Vec::new();
        // The client's alert ends the connection.
        drop(StreamOwned::new(connection, stream).read_to_end(&mut received));
        received
    });
    (address, received)
}

#[test]
fn on_loopback_a_token_file_requires_tokens_too() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let refused = job
        .start_worker("w1", &coordinator, job.target_path())
        .wait();
    job.assert_could_not_run(&refused, &["a token is needed here"]);
    let connect = format!("http://{}", coordinator.address);
    let worker = job
        .start_worker_with(["--connect", &connect, "--token-file", &tokens, "--insecure"])
        .wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
}

#[test]
fn a_mismatch_of_tls_and_plaintext_is_reported() {
    let (cluster, encrypted) = Cluster::of(1).start(&[]);
    let token = cluster.path("worker.token");
    let connect = format!("http://{}", encrypted.address);
    let args = ["--connect", &connect, "--token-file", &token, "--insecure"];
    let worker = cluster.job.start_worker_with(args).wait();
    cluster.job.assert_could_not_run(
        &worker,
        &["the coordinator speaks TLS: give --connect https://"],
    );
    encrypted.running.kill();
    let job = cluster.job.args(["--token-file", &token]);
    let plain = job.start_coordinator();
    let connect = format!("https://{}", plain.address);
    let worker = job
        .start_worker_with(["--connect", &connect, "--token-file", &token])
        .wait();
    job.assert_could_not_run(
        &worker,
        &["the coordinator speaks plaintext: give --connect http://"],
    );
    plain.running.kill();
}

#[test]
fn an_address_that_others_reach_requires_tls_and_tokens() {
    let cluster = Cluster::of(1);
    let files = ["server.pem", "server.key", "tokens"].map(|name| cluster.path(name));
    let [certificate, key, tokens] = files.each_ref().map(String::as_str);
    let csv = text(&cluster.job.folder().join("data.csv"));
    let start = |flags: &[&str]| {
        let own = [
            "--fname",
            &csv,
            "--listen",
            "0.0.0.0:0",
            "--http",
            "127.0.0.1:0",
        ];
        cluster
            .job
            .start_with(own.into_iter().chain(flags.iter().copied()))
    };
    for flags in [&[][..], &["--token-file", tokens]] {
        let words = [
            "in plaintext",
            "coordinator init",
            "--tls-cert",
            "--token-file",
            "--listen 127.0.0.1",
            "--insecure",
        ];
        cluster
            .job
            .assert_could_not_run(&start(flags).wait(), &words);
    }
    let finished = start(&["--tls-cert", certificate, "--tls-key", key]).wait();
    cluster.job.assert_could_not_run(
        &finished,
        &[
            "any program that reaches the port could join",
            "--token-file",
            "--tls-client-ca",
        ],
    );
    let closed = [
        "--tls-cert",
        certificate,
        "--tls-key",
        key,
        "--token-file",
        tokens,
    ];
    for (flags, output) in [
        (&closed[..], "worker --connect https://"),
        (&["--insecure"], "the wire is plaintext"),
    ] {
        let mut running = start(flags);
        running.wait_until("it prints how it listens", |running| {
            running.stderr().contains(output).then_some(())
        });
        running.kill();
    }
}

#[test]
fn a_registered_worker_waits_for_a_token_that_is_replaced_too_late() {
    let cluster = Cluster::of(6);
    cluster.origin.limit_rate(40_000);
    let token = cluster.job.folder().join("token");
    std::fs::copy(cluster.file("worker.token"), &token).expect("init created it");
    let (cluster, coordinator) = cluster.start(&["--lease-ttl", "3s"]);
    let mut worker = cluster.worker(
        "w1",
        &coordinator,
        &["--token-file", &text(&token), "--workers", "1"],
    );
    worker.wait_until("it downloads a class", |_| {
        (!cluster.origin.all_requests().is_empty()).then_some(())
    });
    let old = cluster.secret("worker.token");
    let new = "another-token-0123456789";
    let tokens = std::fs::read_to_string(cluster.file("tokens")).expect("init created it");
    std::fs::write(cluster.file("tokens"), tokens.replace(&old, new)).expect("the folder is ours");
    worker.wait_until("its token is rejected", |worker| {
        worker
            .stderr()
            .contains("not one of this cluster's")
            .then_some(())
    });
    // Both tokens are valid again, as in a correct replacement.
    std::fs::write(cluster.file("tokens"), format!("worker {new}\n{tokens}"))
        .expect("the folder is ours");
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(6, 0, 0));
}

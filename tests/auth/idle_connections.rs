//! Connections that send nothing, or begin a handshake and do not end it (S20): their number, time
//! and memory are bounded.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tests::{cluster::Table, log::has_line, memory, wait::wait_for};
use tonic::transport::Channel;

use super::{Cluster, abusive_clients::MAX_GROWTH, client::Client};

/// Maximum number of pending connections of the coordinator.
const MAX_PENDING: usize = 500;

/// Connections that send nothing.
const IDLE: usize = 1500;

/// Connections that begin a handshake and do not continue it.
const SLOW: usize = 250;

/// Connections of viewers that make one call each and then stay open.
const VIEWERS: usize = 1300;

/// Opens a connection that sends these bytes and nothing more.
fn idle_client(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the coordinator listens");
    // The coordinator may have closed the connection already.
    drop(stream.write_all(words));
    stream
        .set_nonblocking(true)
        .expect("a socket can be non-blocking");
    stream
}

/// Whether the coordinator has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .map(Iterator::count)
        .unwrap_or_default()
}

/// On a busy machine the worker may register again for its existing session; a second session would
/// mean that its connection was closed.
#[track_caller]
fn assert_keeps_its_session(log: &str) {
    let session = |line: &str| {
        line.split_once("registered worker=\"w1\" session=")?
            .1
            .split(' ')
            .next()
            .map(str::to_owned)
    };
    let sessions: HashSet<String> = log.lines().filter_map(session).collect();
    assert_eq!(
        sessions.len(),
        1,
        "the first worker keeps its session: {log}"
    );
}

#[test]
fn unauthenticated_connections_are_bounded_and_keep_no_worker_out() {
    let cluster = Cluster::of(12);
    cluster.origin.limit_rate(10_000);
    let (cluster, coordinator) = cluster.start(&["--lease-ttl", "3s"]);
    let token = cluster.path("worker.token");
    let first = cluster.worker(
        "w1",
        &coordinator,
        &["--token-file", &token, "--workers", "1"],
    );
    wait_for(
        "the first worker downloads",
        Duration::from_secs(20),
        || !cluster.origin.all_requests().is_empty(),
    );
    let process = coordinator.running.id();
    let before = open_files(process);

    let mut idle: Vec<TcpStream> = Vec::new();
    // The beginning of a TLS record with a stated length of 512 bytes.
    let hello: &[u8] = &[22, 3, 1, 2, 0, 1, 0];
    for number in 0..IDLE + SLOW {
        idle.push(idle_client(
            coordinator.address,
            if number % (IDLE / SLOW + 1) == 0 {
                hello
            } else {
                &[]
            },
        ));
        let open = open_files(process);
        // A few more: the workers' connections, and those that are being closed.
        assert!(
            open <= before + MAX_PENDING + 10,
            "{open} files are open, of which {before} were before"
        );
    }
    // A new worker with a token registers while the idle connections are open.
    let second = cluster.worker(
        "w2",
        &coordinator,
        &["--token-file", &token, "--workers", "1"],
    );
    wait_for("another worker registers", Duration::from_secs(30), || {
        has_line(&cluster.job.log(), &["registered worker=\"w2\""])
    });
    wait_for(
        "all idle connections are closed",
        Duration::from_secs(30),
        || {
            idle.retain_mut(|stream| !is_closed(stream));
            idle.is_empty()
        },
    );

    cluster.origin.limit_rate(100_000_000);
    for worker in [first, second] {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(12, 0, 0));
    let log = cluster.job.log();
    assert_keeps_its_session(&log);
}

#[test]
fn unfinished_handshake_messages_on_all_pending_connections_cost_at_most_64_mib() {
    let (cluster, coordinator) = Cluster::of(1).start(&[]);
    let process = coordinator.running.id();
    let held = || memory::of(process).expect("the coordinator runs");
    let idle = held().now;
    memory::reset_peak(process).expect("the process is ours");
    let record = |length: u16, content: &[u8]| {
        let header = [22, 3, 1, length.to_be_bytes()[0], length.to_be_bytes()[1]];
        [&header, content].concat()
    };
    // A ClientHello of 65,520 bytes whose last record lacks 1,000 bytes.
    let begin = [&[1, 0, 0xFF, 0xF0][..], &[0; 16_000]].concat();
    let mut hello = record(16_004, &begin);
    hello.extend(record(16_000, &[0; 16_000]).repeat(2));
    hello.extend(record(16_000, &[0; 15_000]));
    for _ in 0..3 {
        let connections: Vec<_> = (0..MAX_PENDING + 100)
            .map(|_| idle_client(coordinator.address, &hello))
            .collect();
        let open = open_files(process);
        assert!(
            open > MAX_PENDING - 100,
            "{open} files are open, {} connections",
            connections.len()
        );
        let grown = held().peak.saturating_sub(idle);
        assert!(grown <= MAX_GROWTH, "{grown} bytes above idle");
    }
    drop(cluster);
    coordinator.running.kill();
}

#[test]
fn in_plaintext_an_idle_connection_is_closed_too() {
    let cluster = Cluster::of(1);
    let coordinator = cluster.job.start_coordinator();
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut idle: Vec<TcpStream> = (0..40)
        .map(|number| {
            idle_client(
                coordinator.address,
                if number % 2 == 0 { preface } else { &[] },
            )
        })
        .collect();
    wait_for(
        "the connections are closed",
        Duration::from_secs(20),
        || {
            idle.retain_mut(|stream| !is_closed(stream));
            idle.is_empty()
        },
    );
    coordinator.running.kill();
}

#[test]
fn idle_connections_of_viewers_are_bounded_and_keep_no_worker_out() {
    let cluster = Cluster::of(2);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("viewer.token");
    let token = cluster.path("worker.token");
    // A common limit on open files of a service.
    let limited = ["sh", "-c", "ulimit -n 1200 && exec \"$0\" \"$@\""];
    let job = cluster.job.under(limited).args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let before = open_files(coordinator.running.id());
    let viewer = Client::new(coordinator.address, Some(&secret));
    let connections: Vec<Channel> = (0..VIEWERS)
        .map_while(|_| viewer.fleet_and_stay().ok())
        .collect();
    assert_eq!(
        connections.len(),
        VIEWERS,
        "the last viewers are accepted too"
    );
    // The 1,200 files without the reserved ones, divided by sixteen: 67.
    wait_for(
        "the idle connections are closed",
        Duration::from_secs(20),
        || open_files(coordinator.running.id()) <= before + 70,
    );
    let connect = format!("http://{}", coordinator.address);
    let worker =
        job.start_worker_with(["--connect", &connect, "--token-file", &token, "--insecure"]);
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    job.assert_ended(&coordinator.running.wait(), 0, Table::of(2, 0, 0));
}

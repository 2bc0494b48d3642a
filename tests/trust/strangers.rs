//! What strangers may cost (S20, S21): a bounded number of connections for a bounded time, and no memory.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tests::{cluster::Table, wait::wait_for};
use tonic::Code;

use super::{Cluster, roles::Client};

/// Connections that have not proved who they are.
const SEATS: usize = 1000;
/// How many only sit there.
const IDLE: usize = 3000;
/// How many begin a handshake and do not go on.
const SLOW: usize = 500;

/// A connection that says this much and no more.
fn stranger(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the coordinator listens");
    // It may have been turned away already.
    drop(stream.write_all(words));
    stream.set_nonblocking(true).expect("it is a socket");
    stream
}

/// Whether the coordinator has closed it.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count).unwrap_or_default()
}

#[test]
fn a_crowd_that_only_sits_there_is_bounded_and_keeps_nobody_out() {
    let cluster = Cluster::of(12);
    cluster.origin.limit_rate(10_000);
    let (cluster, coordinator) = cluster.start(&["--lease-ttl", "3s"]);
    let token = cluster.path("worker.token");
    let first = cluster.worker("w1", &coordinator, &["--token-file", &token, "--workers", "1"]);
    wait_for("the first worker downloads", Duration::from_secs(20), || !cluster.origin.all_requests().is_empty());
    let process = coordinator.running.id();
    let before = open_files(process);

    let mut crowd: Vec<TcpStream> = Vec::new();
    // The beginning of a record that is said to have 512 bytes.
    let hello: &[u8] = &[22, 3, 1, 2, 0, 1, 0];
    for number in 0..IDLE + SLOW {
        crowd.push(stranger(coordinator.address, if number % (IDLE / SLOW + 1) == 0 { hello } else { &[] }));
        let open = open_files(process);
        // A few more: the workers', and those on their way out.
        assert!(open <= before + SEATS + 10, "{open} files are open, of which {before} were before");
    }
    // Newcomers with a token get in while it sits there.
    let second = cluster.worker("w2", &coordinator, &["--token-file", &token, "--workers", "1"]);
    let log = cluster.job.target_path().join("imagenet_downloader.log");
    wait_for("another worker gets in", Duration::from_secs(30), || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("registered worker=\"w2\"")
    });
    wait_for("all strangers are gone", Duration::from_secs(30), || {
        crowd.retain_mut(|stream| !is_closed(stream));
        crowd.is_empty()
    });

    cluster.origin.limit_rate(100_000_000);
    for worker in [first, second] {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    cluster.job.assert_ended(&coordinator.running.wait(), 0, Table::of(12, 0, 0));
    let log = std::fs::read_to_string(&log).expect("there is a log");
    // On a busy machine it may ask once more for the session that it has; a second one would mean that it was cut off.
    let session =
        |line: &str| line.split_once("registered worker=\"w1\" session=")?.1.split(' ').next().map(str::to_owned);
    let sessions: HashSet<String> = log.lines().filter_map(session).collect();
    assert_eq!(sessions.len(), 1, "the first worker was never cut off: {log}");
}

#[test]
fn in_plaintext_a_connection_that_says_nothing_is_closed_too() {
    let cluster = Cluster::of(1);
    let coordinator = cluster.job.start_coordinator();
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut crowd: Vec<TcpStream> =
        (0..40).map(|number| stranger(coordinator.address, if number % 2 == 0 { preface } else { &[] })).collect();
    wait_for("they are closed", Duration::from_secs(20), || {
        crowd.retain_mut(|stream| !is_closed(stream));
        crowd.is_empty()
    });
    coordinator.running.kill();
}

#[test]
fn a_message_of_100_mib_is_refused_by_its_length() {
    let cluster = Cluster::of(1);
    let (tokens, secret) = (cluster.path("tokens"), cluster.secret("worker.token"));
    let job = cluster.job.args(["--token-file", &tokens]);
    let mut coordinator = job.start_coordinator();
    let long = |length: usize| proto::ReportRequest {
        session_id: 1,
        results: vec![proto::Result { wnid: "n".repeat(length), ..Default::default() }],
    };
    let valid = Client::new(coordinator.address, Some(&secret));
    // What is small enough is looked at, and found to be no result.
    assert_eq!(valid.report(long(3 << 20)).expect_err("it is no class").code(), Code::InvalidArgument);
    assert!(coordinator.running.is_running());
    let before = peak_memory(coordinator.running.id());
    let refused = valid.report(long(100 << 20)).expect_err("it is too long");
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
    // Of a stranger nothing is looked at at all.
    let refused = Client::new(coordinator.address, None).report(long(100 << 20)).expect_err("there is no token");
    assert!(matches!(refused.code(), Code::Unauthenticated | Code::Unknown | Code::Internal), "{refused:?}");
    let grown = peak_memory(coordinator.running.id()) - before;
    assert!(grown < 10 << 20, "the coordinator took {grown} bytes more");
    assert!(valid.register("known").is_ok(), "it goes on");
    coordinator.running.kill();
}

#[test]
fn a_message_that_is_nested_without_end_is_refused() {
    let cluster = Cluster::of(1);
    let mut coordinator = cluster.job.start_coordinator();
    let client = Client::new(coordinator.address, None);
    // The beginning of a group, field 15, in itself for a million times; then a field that claims to be longer than it is.
    for message in [vec![0x7b; 1_000_000], vec![0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
        let refused = client.raw("/imagenet.v1.Coordinator/Report", message).expect_err("it is no message");
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    }
    assert!(coordinator.running.is_running() && client.register("known").is_ok(), "it goes on");
    coordinator.running.kill();
}

/// The most memory that a process ever held, in bytes.
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

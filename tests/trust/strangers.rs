//! Limits on unauthenticated and abusive clients (S20, S21): bounded connections, time and memory.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use tests::{
    cluster::Table,
    largest_report::largest_report,
    log::has_line,
    memory,
    running::Running,
    stranger::{AbusiveClients, Attack, Kind, Style},
    wait::wait_for,
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use super::{Cluster, roles::Client};

/// Maximum number of pending connections of the coordinator.
const MAX_PENDING: usize = 500;
/// Connections that send nothing.
const IDLE: usize = 1500;
/// Connections that begin a handshake and do not continue it.
const SLOW: usize = 250;

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
    // On a busy machine the worker may register again for its existing session; a second session
    // would mean that its connection was closed.
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
fn a_message_of_100_mib_is_rejected_by_its_length() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let mut coordinator = job.start_coordinator();
    let long = |length: usize| proto::ReportRequest {
        session_id: 1,
        results: vec![proto::Result {
            wnid: "n".repeat(length),
            ..Default::default()
        }],
        ..Default::default()
    };
    let valid = Client::new(coordinator.address, Some(&secret));
    // A message within the limit is decoded, and rejected for its contents.
    assert_eq!(
        valid
            .report(long(3 << 20))
            .expect_err("the text is not a class")
            .code(),
        Code::InvalidArgument
    );
    assert!(coordinator.running.is_running());
    let before = memory::of(coordinator.running.id())
        .expect("the coordinator runs")
        .peak;
    let refused = valid
        .report(long(100 << 20))
        .expect_err("the message is too long");
    assert!(
        matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{refused:?}"
    );
    // Without a valid token the message is not decoded.
    let refused = Client::new(coordinator.address, None)
        .report(long(100 << 20))
        .expect_err("there is no token");
    assert!(
        matches!(
            refused.code(),
            Code::Unauthenticated | Code::Unknown | Code::Internal
        ),
        "{refused:?}"
    );
    let grown = memory::of(coordinator.running.id())
        .expect("the coordinator runs")
        .peak
        - before;
    assert!(
        grown < 10 << 20,
        "the coordinator used {grown} additional bytes"
    );
    assert!(
        valid.register("known").is_ok(),
        "the coordinator still answers"
    );
    coordinator.running.kill();
}

#[test]
fn a_deeply_nested_message_is_rejected() {
    let cluster = Cluster::of(1);
    let mut coordinator = cluster.job.start_coordinator();
    let client = Client::new(coordinator.address, None);
    // The start of a group (field 15), nested a million times; then a field that claims to be
    // longer than it is.
    for message in [
        vec![0x7b; 1_000_000],
        vec![0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ] {
        let refused = client
            .raw("/imagenet.v1.Coordinator/Report", message)
            .expect_err("the bytes are not a message");
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    }
    assert!(
        coordinator.running.is_running() && client.register("known").is_ok(),
        "the coordinator still answers"
    );
    coordinator.running.kill();
}

/// Duration of each kind of frames in the tests; the benchmark sends longer.
const ATTACK: Duration = Duration::from_secs(1);
/// Frames on a connection that is held open: more than the streams allowed per connection.
const HELD_FRAMES: usize = 400;
/// Maximum growth above the coordinator's idle memory, in bytes.
const MAX_GROWTH: u64 = 64 << 20;
/// How much of that the allocator may keep afterwards, in bytes.
const MAX_KEPT: u64 = 32 << 20;
/// Maximum size of the log after all kinds, in bytes.
const MAX_LOG: usize = 64 << 10;
/// Maximum duration of a viewer's status call during an attack. On a busy machine the fastest of
/// several calls counts.
const MAX_STATUS: Duration = Duration::from_secs(1);

#[test]
fn connections_without_a_token_cost_at_most_64_mib_and_no_log_whatever_they_send() {
    let coordinator = cost_of(None);
    let log = std::fs::read_to_string(&coordinator.log).expect("the log exists");
    assert!(
        log.len() <= MAX_LOG,
        "the attack wrote {} bytes into the log",
        log.len()
    );
    let stderr = coordinator.running.stderr();
    assert!(
        !stderr.contains("PING"),
        "the terminal output does not mention them: {stderr}"
    );
    coordinator.running.kill();
}

#[test]
fn connections_of_a_viewer_that_takes_no_answers_cost_at_most_64_mib() {
    cost_of(Some("viewer.token")).running.kill();
}

/// A coordinator after the attacks, and the path of its log.
struct AttackedCoordinator {
    running: Running,
    log: PathBuf,
    _cluster: Cluster,
}

/// Runs clients with this token and each kind of frames, and asserts limits on the coordinator's
/// costs.
fn cost_of(token: Option<&str>) -> AttackedCoordinator {
    let (cluster, coordinator) = Cluster::of(1).start(&[]);
    let process = coordinator.running.id();
    let held = || memory::of(process).expect("the coordinator runs");
    let connect = format!("https://{}", coordinator.address);
    let viewer = cluster.path("viewer.token");
    let status = || {
        let called_at = Instant::now();
        let status = cluster
            .job
            .start_with(["status", "--connect", &connect, "--token-file", &viewer])
            .wait();
        assert_eq!(status.code, Some(0), "{}", status.stderr);
        called_at.elapsed()
    };
    status();
    let idle = held().now;
    for kind in Kind::ALL {
        memory::reset_peak(process).expect("the process is ours");
        let endless = Attack {
            address: coordinator.address,
            authority: cluster.file("ca.pem"),
            token: token.map(|file| cluster.secret(file)),
            kind,
            style: Style::Endless,
        };
        let held_open = Attack {
            style: Style::Held(HELD_FRAMES),
            ..endless.clone()
        };
        let strangers = [
            AbusiveClients::start(&endless, 1),
            AbusiveClients::start(&held_open, 7),
        ];
        let begun = Instant::now();
        let mut fastest = Duration::MAX;
        while begun.elapsed() < ATTACK || fastest > MAX_STATUS {
            fastest = fastest.min(status());
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{kind}: the fastest status took {fastest:?}"
            );
        }
        let sent = strangers.map(AbusiveClients::stop);
        let grown = held().peak.saturating_sub(idle);
        assert!(
            sent.iter().all(|sent| sent.connections > 0),
            "{kind}: expected accepted connections: {sent:?}"
        );
        assert!(
            grown <= MAX_GROWTH,
            "{kind}: {grown} bytes above idle, {sent:?}"
        );
        wait_for("the memory is freed", Duration::from_secs(20), || {
            held().now <= idle + MAX_KEPT
        });
    }
    let log = cluster.job.target_path().join("imagenet_downloader.log");
    AttackedCoordinator {
        running: coordinator.running,
        log,
        _cluster: cluster,
    }
}

#[test]
fn a_connection_that_begins_with_the_largest_report_is_never_closed() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let worker = Client::new(coordinator.address, Some(&secret));
    let tries = std::env::var("FIRST_REPORTS").map_or(20, |tries| tries.parse().expect("a number"));
    for number in 1..=tries {
        let answer = worker.report(largest_report());
        assert!(answer.is_ok(), "report {number} of {tries}: {answer:?}");
    }
    coordinator.running.kill();
}

#[test]
fn a_message_of_two_million_empty_results_is_rejected_before_it_is_decoded() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let worker = Client::new(coordinator.address, Some(&secret));
    assert!(worker.report(largest_report()).is_ok());
    let held = || memory::of(coordinator.running.id()).expect("the coordinator runs");
    let before = held().peak;
    for _ in 0..3 {
        let refused = worker
            .raw("/imagenet.v1.Coordinator/Report", [0x12, 0].repeat(2 << 20))
            .expect_err("too many");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert_eq!(
            refused.message(),
            "a message may name 4096 classes, this one more"
        );
    }
    let grown = held().peak - before;
    assert!(
        grown < 16 << 20,
        "the coordinator used {grown} additional bytes"
    );
    coordinator.running.kill();
}

/// Connections of viewers that make one call each and then stay open.
const VIEWERS: usize = 1300;

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

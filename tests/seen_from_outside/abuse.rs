//! Probes are answered in time while other connections abuse the HTTP port of either program.
//!
//! A probe behaves like a kubelet's: one request on its own connection, with a total timeout of one
//! second. By default a few probes are sent during each kind of abuse; `PROBES=30` sends 30, one
//! per second.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use tests::{cluster::Job, origin::Origin, wait::wait_until};
use tokio::time::Instant;

/// Timeout of a probe: the kubelet's default.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most connections of an attack are open after this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A round of probes is repeated, because the test itself may be delayed on a busy machine.
const ROUNDS: usize = 20;

/// One kind of abuse: connections that are opened again as soon as the program closes them.
struct Abuse {
    name: &'static str,
    /// Concurrent connections of each thread.
    connections: usize,
    threads: usize,
    /// Sent at the beginning of each connection.
    opening: fn() -> Vec<u8>,
    /// Applied to the connections in turn; an error means that the program has closed the
    /// connection.
    step: fn(&mut TcpStream) -> io::Result<()>,
}

const KINDS: [Abuse; 8] = [
    Abuse {
        name: "silent",
        connections: 70,
        threads: 1,
        opening: Vec::new,
        step: is_open,
    },
    Abuse {
        name: "pipelined requests whose answers are never read",
        connections: 100,
        threads: 1,
        opening: || b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000),
        step: |connection| {
            send(
                connection,
                b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
            )
        },
    },
    Abuse {
        name: "idle after an answer, and back when they are closed",
        connections: 150,
        threads: 2,
        opening: || b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        step: |connection| read(connection, 4096),
    },
    Abuse {
        name: "headers byte by byte",
        connections: 150,
        threads: 1,
        opening: || b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ".to_vec(),
        step: |connection| is_open(connection).and_then(|()| send(connection, b"x")),
    },
    Abuse {
        name: "large headers",
        connections: 40,
        threads: 2,
        opening: || {
            [
                b"GET /healthz HTTP/1.1\r\nx-large: ".to_vec(),
                vec![b'x'; 1 << 20],
            ]
            .concat()
        },
        step: |connection| send(connection, &[b'x'; 1 << 16]),
    },
    Abuse {
        name: "metrics read byte by byte",
        connections: 150,
        threads: 1,
        opening: || b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000),
        step: |connection| read(connection, 1),
    },
    Abuse {
        name: "opened and closed at once",
        connections: 50,
        threads: 2,
        opening: Vec::new,
        step: |_| Err(ErrorKind::ConnectionAborted.into()),
    },
    Abuse {
        name: "a thousand",
        connections: 500,
        threads: 2,
        opening: Vec::new,
        step: is_open,
    },
];

/// Fails once the program has closed the connection.
fn is_open(connection: &mut TcpStream) -> io::Result<()> {
    match connection.peek(&mut [0]) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

fn send(connection: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match connection.write(bytes) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

fn read(connection: &mut TcpStream, length: usize) -> io::Result<()> {
    match connection.read(&mut vec![0; length]) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

/// Threads that abuse a port until they are dropped.
struct Attack {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Attack {
    fn start(abuse: &Abuse, address: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let opened = Arc::<AtomicUsize>::default();
        let threads = (0..abuse.threads).map(|_| {
            let stop = Arc::clone(&stop);
            let opened = Arc::clone(&opened);
            let connections = abuse.connections;
            let opening = (abuse.opening)();
            let act = abuse.step;
            spawn(move || {
                let mut all: Vec<Option<TcpStream>> = (0..connections).map(|_| None).collect();
                while !stop.load(Ordering::Relaxed) {
                    let before = opened.load(Ordering::Relaxed);
                    for place in &mut all {
                        if place
                            .as_mut()
                            .is_some_and(|connection| act(connection).is_ok())
                        {
                            continue;
                        }
                        *place = open(address, &opening).ok();
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                    if opened.load(Ordering::Relaxed) == before {
                        sleep(Duration::from_millis(1));
                    }
                }
            })
        });
        Self {
            stop: Arc::clone(&stop),
            opened: Arc::clone(&opened),
            threads: threads.collect(),
        }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn open(address: SocketAddr, opening: &[u8]) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    connection.set_nonblocking(true)?;
    send(&mut connection, opening)?;
    Ok(connection)
}

/// Checks that `/healthz` returns 200 within the timeout.
fn probe(address: SocketAddr) -> Result<(), String> {
    let begun = Instant::now();
    let request = || -> io::Result<String> {
        let mut connection = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
        connection.set_read_timeout(Some(PROBE_TIMEOUT))?;
        write!(
            connection,
            "GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match request() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") && begun.elapsed() <= PROBE_TIMEOUT => {
            Ok(())
        }
        other => Err(format!("{other:?} after {:?}", begun.elapsed())),
    }
}

/// Sends probes during each kind of abuse; returns a line for each kind, and the failures.
fn probe_during_abuse(address: SocketAddr) -> (Vec<String>, Vec<String>) {
    let probes = std::env::var("PROBES")
        .ok()
        .map(|count| count.parse::<usize>().expect("a number of probes"));
    let count = probes.unwrap_or(5);
    let interval = Duration::from_millis(if probes.is_some() { 1000 } else { 100 });
    let rounds = if probes.is_some() { 1 } else { ROUNDS };
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for abuse in &KINDS {
        let attack = Attack::start(abuse, address);
        let all = abuse.connections * abuse.threads;
        // A program may refuse some of the connections.
        wait_until(OPEN_TIMEOUT, || {
            (attack.opened.load(Ordering::Relaxed) >= all).then_some(())
        });
        let mut failures = Vec::new();
        for _ in 0..rounds {
            failures = (0..count)
                .filter_map(|_| {
                    sleep(interval);
                    probe(address).err()
                })
                .collect();
            if failures.is_empty() {
                break;
            }
        }
        let passed = count - failures.len();
        let opened = attack.opened.load(Ordering::Relaxed);
        lines.push(format!(
            "{} · {passed} of {count} probes · {opened} connections",
            abuse.name
        ));
        if !failures.is_empty() {
            failed.push(format!("{}: {failures:?}", abuse.name));
        }
    }
    (lines, failed)
}

#[test]
fn probes_of_the_coordinator_pass_during_each_kind_of_abuse() {
    let origin = Origin::start();
    let job = Job::new()
        .classes(["n00000001"])
        .origin(&origin)
        .deadline(Duration::from_mins(9));
    let coordinator = job.start_coordinator();
    let (lines, failed) = probe_during_abuse(coordinator.http);
    println!("coordinator\n{}", lines.join("\n"));
    assert!(failed.is_empty(), "{failed:#?}");
    coordinator.running.kill();
}

#[test]
fn probes_of_a_worker_pass_during_each_kind_of_abuse() {
    let job = Job::new().deadline(Duration::from_mins(9));
    // A port that is in use and does not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let connect = format!("http://{}", silent.local_addr().expect("it is bound"));
    let target = job.target_path().to_str().expect("a plain path");
    let mut worker = job.start_worker_with([
        "--connect",
        &connect,
        "--target",
        target,
        "--http",
        "127.0.0.1:0",
    ]);
    let address = worker.wait_for_http();
    let (lines, failed) = probe_during_abuse(address);
    println!("worker\n{}", lines.join("\n"));
    assert!(failed.is_empty(), "{failed:#?}");
    worker.kill();
}

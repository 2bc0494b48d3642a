//! Tests of the chaos proxy in front of an echo server.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    chaos_proxy::{ChaosProxy, Direction},
    wait::wait_for,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(60);

/// Starts an echo server; each of its threads ends with its connection.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                std::io::copy(&mut stream.try_clone().unwrap(), &mut { stream })
            });
        }
    });
    address
}

fn client(proxy: &ChaosProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

fn call(stream: &mut TcpStream, words: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(words)?;
    answer(stream, words.len())
}

fn answer(stream: &mut TcpStream, length: usize) -> std::io::Result<Vec<u8>> {
    let mut found = vec![0; length];
    stream.read_exact(&mut found)?;
    Ok(found)
}

fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SHORT)).unwrap();
    let silent = stream
        .read(&mut [0])
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    silent
}

#[test]
fn without_faults_the_proxy_carries_everything_and_counts_it() {
    let proxy = ChaosProxy::start(echo());
    let mut stream = client(&proxy);
    let words: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&words).unwrap());
        assert!(answer(&mut stream, words.len()).unwrap() == words);
    });
    assert_eq!((proxy.connections(), proxy.open_connections()), (1, 1));
    assert_eq!(
        [Direction::ToServer, Direction::ToClient].map(|direction| proxy.carried(direction)),
        [400_000; 2]
    );
    drop((stream, writer));
    wait_for("the connection is gone", TIMEOUT, || {
        proxy.open_connections() == 0
    });
}

#[test]
fn data_sent_into_a_blocked_direction_arrives_once_it_is_unblocked() {
    let proxy = ChaosProxy::start(echo());
    let mut stream = client(&proxy);
    call(&mut stream, b"hello").unwrap();
    for (direction, arrives) in [(Direction::ToServer, 5), (Direction::ToClient, 15)] {
        proxy.block(direction, true);
        stream.write_all(b"words").unwrap();
        assert!(is_silent(&mut stream), "{direction:?}");
        wait_for(
            "the proxy has carried what it lets pass",
            200 * SHORT,
            || proxy.carried(Direction::ToServer) == arrives,
        );
        proxy.block(direction, false);
        assert_eq!(answer(&mut stream, 5).unwrap(), b"words");
    }
}

#[test]
fn a_flapping_proxy_alternates_between_passing_and_blocking() {
    let proxy = ChaosProxy::start(echo());
    let mut stream = client(&proxy);
    proxy.flap(SHORT, 3 * SHORT);
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while longest <= 2 * SHORT && began.elapsed() < 200 * SHORT {
        let sent_at = Instant::now();
        call(&mut stream, b"!").unwrap();
        longest = longest.max(sent_at.elapsed());
    }
    assert!(longest > 2 * SHORT, "{longest:?}");
    proxy.flap(SHORT, Duration::ZERO);
    call(&mut stream, b"!").unwrap();
}

#[test]
fn delay_and_rate_limit_apply() {
    let proxy = ChaosProxy::start(echo());
    let mut stream = client(&proxy);
    proxy.delay(SHORT, Duration::from_millis(10));
    let sent_at = Instant::now();
    call(&mut stream, b"!").unwrap();
    assert!(
        sent_at.elapsed() >= Duration::from_millis(100),
        "round trip: {:?}",
        sent_at.elapsed()
    );
    proxy.delay(Duration::ZERO, Duration::ZERO);
    proxy.limit_rate(10_000);
    let sent_at = Instant::now();
    call(&mut stream, &[7; 2000]).unwrap();
    assert!(
        sent_at.elapsed() >= Duration::from_millis(190),
        "{:?}",
        sent_at.elapsed()
    );
}

#[test]
fn connections_are_reset_closed_frozen_or_refused() {
    let proxy = ChaosProxy::start(echo());
    let mut stream = client(&proxy);
    proxy.reset_after(Direction::ToClient, 8);
    assert_eq!(call(&mut stream, b"five!").unwrap(), b"five!");
    stream.write_all(b"five!").unwrap();
    assert_eq!(answer(&mut stream, 3).unwrap(), b"fiv");
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(!proxy.reset_is_pending(Direction::ToClient));

    let mut stream = client(&proxy);
    call(&mut stream, b"!").unwrap();
    proxy.cut();
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );

    let mut stream = client(&proxy);
    call(&mut stream, b"!").unwrap();
    proxy.close();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);

    let mut frozen = client(&proxy);
    call(&mut frozen, b"!").unwrap();
    proxy.freeze();
    frozen.write_all(b"!").unwrap();
    assert!(is_silent(&mut frozen));
    assert_eq!(call(&mut client(&proxy), b"!").unwrap(), b"!");

    proxy.refuse(true);
    assert!(call(&mut client(&proxy), b"!").is_err());
    proxy.refuse(false);
    proxy.forward_to(echo());
    assert_eq!(call(&mut client(&proxy), b"!").unwrap(), b"!");
}

#[test]
fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
    let proxy = ChaosProxy::start(echo());
    let mut silent = client(&proxy);
    let mut busy = client(&proxy);
    call(&mut silent, b"!").unwrap();
    proxy.close_when_silent(Some(40 * SHORT));
    let began = Instant::now();
    while began.elapsed() < 60 * SHORT {
        call(&mut busy, b"!").unwrap();
        is_silent(&mut busy);
    }
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    call(&mut busy, b"!").unwrap();
}

#[test]
fn goaway_is_sent_between_two_frames() {
    let proxy = ChaosProxy::start(echo());
    let mut stream = client(&proxy);
    // A frame header that announces three bytes, and two of them.
    let begun = [0, 0, 3, 0, 0, 0, 0, 0, 1, b'a', b'b'];
    call(&mut stream, &begun).unwrap();
    proxy.send_goaway();
    assert!(is_silent(&mut stream), "in the middle of a frame");
    stream.write_all(b"c").unwrap();
    let found = answer(&mut stream, 18).unwrap();
    assert!(found.starts_with(&[b'c', 0, 0, 8, 7]), "{found:?}");
}

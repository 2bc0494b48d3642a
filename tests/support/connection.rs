//! One connection of the origin: reads requests and answers each, until either side closes it.

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    sync::atomic::Ordering,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use tokio::time::Instant;

use crate::{
    figures,
    origin::State,
    reply::{self, AfterAnswer},
    request_log::Request,
};

const LONGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 64;
/// How often a waiting thread checks whether the origin stops.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Answers requests until the connection ends.
pub(crate) fn serve(stream: &TcpStream, id: u64, state: &State) {
    if stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(POLL_INTERVAL)))
        .is_err()
    {
        return;
    }
    let mut received = Vec::new();
    let mut hang_up = false;
    while let Some(request) = read_request(stream, &mut received, id, state) {
        let closes = request
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        match figures::answer(stream, state, &request) {
            Ok(true) if !closes => continue,
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
        let number = state.record(request.clone());
        if state.traffic.is_silent() {
            while state.traffic.is_silent() && !wait_for_disconnect(stream, state) {}
            return;
        }
        if hang_up {
            return;
        }
        match reply::answer(stream, state, &request, number) {
            Ok(AfterAnswer::Serve) if !closes => {}
            Ok(AfterAnswer::HangUp) => hang_up = true,
            Ok(AfterAnswer::Stall) => {
                while state.stalls() && !wait_for_disconnect(stream, state) {}
                return;
            }
            Ok(AfterAnswer::Reset) => {
                // Closing with a linger time of zero sends an RST.
                set_socket_linger(stream, Some(Duration::ZERO))
                    .expect("a socket has a linger option");
                return;
            }
            Ok(AfterAnswer::Serve | AfterAnswer::Close) | Err(_) => return,
        }
    }
}

/// Waits for at most [`POLL_INTERVAL`]; whether the client has disconnected or the origin stops.
pub(crate) fn wait_for_disconnect(mut stream: &TcpStream, state: &State) -> bool {
    let mut ignored = [0; 1024];
    let read = stream.read(&mut ignored);
    let waits = matches!(&read, Err(error) if is_timeout(error.kind()));
    state.stopping.load(Ordering::Relaxed) || !(waits || read.is_ok_and(|count| count > 0))
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn read_request(
    mut stream: &TcpStream,
    received: &mut Vec<u8>,
    id: u64,
    state: &State,
) -> Option<Request> {
    let mut buffer = [0; 4096];
    loop {
        if let Some((request, length)) = parse(received, id) {
            received.drain(..length);
            return Some(request);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) if received.len() < LONGEST_HEAD => {
                received.extend_from_slice(&buffer[..count]);
            }
            Err(error) if is_timeout(error.kind()) && !state.stopping.load(Ordering::Relaxed) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Parses the first request in the received bytes; also returns its length.
fn parse(received: &[u8], connection: u64) -> Option<(Request, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = head.parse(received) else {
        return None;
    };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| {
            (
                header.name.to_ascii_lowercase(),
                String::from_utf8_lossy(header.value).into_owned(),
            )
        })
        .collect();
    let value = |name| {
        headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.clone())
    };
    let path = head.path?.to_owned();
    let file = path
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let request = Request {
        method: head.method?.to_owned(),
        wnid: file.strip_suffix(".tar").unwrap_or(file).to_owned(),
        path,
        range: value("range"),
        if_range: value("if-range"),
        headers,
        at: Instant::now(),
        connection,
        status: 0,
        sent: 0,
    };
    Some((request, length))
}

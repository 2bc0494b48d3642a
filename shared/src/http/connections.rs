//! The connections of the HTTP port: how many there are, and how long each may take.
//!
//! Invariant: a new connection is always accepted at once. When the maximum number of connections
//! is open, the oldest one that is not being answered is reset. A probe needs its connection for
//! some milliseconds, so it is answered even if any number of idle connections is open.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::response::Response;
use http::{HeaderValue, Request, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{oneshot, watch},
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until},
};

/// Maximum number of concurrent connections, each with one open file. A new connection can be reset
/// after this many later ones. Measured at 15,000 connections a second: with a limit of 64, a
/// client that the system had suspended for 4 ms between connect and request was reset (2 of 30
/// probes).
pub const MAX_CONNECTIONS: usize = 256;
/// Maximum number of connections in the system's accept queue. The system drops connection attempts
/// beyond it, and the client retries after a second. This is the Linux default limit, because
/// bursts arrive while the process waits for a processor: a queue of 1024 was full after 60 ms.
const BACKLOG: u32 = 4096;
/// Limit for receiving the head of a request, and for the idle time between two requests.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit from the head of a request until the last byte of its answer is in the system's send
/// buffer. Prometheus times out after 10 s by default.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of requests per connection; the last answer announces that the connection is closed.
pub(super) const MAX_REQUESTS: usize = 8;
/// Size limit of a request's head in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Maximum number of connections accepted in one turn of the task. A connection is the oldest only
/// after `MAX_CONNECTIONS` others, so each connection, and thus a probe too, gets 32 turns before
/// it can be reset.
const ACCEPTS_EACH_TURN: usize = MAX_CONNECTIONS / 32;
/// Delay after a failed accept, for example because no file descriptor is free.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Binds the address. Must be called within a runtime.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Permits a port whose former connections are still closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until it is dropped. `answer` returns the answer to one request.
pub(super) async fn serve<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    // Oldest first.
    let mut connections: VecDeque<Connection> = VecDeque::new();
    let mut accepted_this_turn = 0;
    loop {
        if accepted_this_turn == ACCEPTS_EACH_TURN {
            accepted_this_turn = 0;
            yield_now().await;
        }
        tokio::select! {
            biased;
            Some(_) = tasks.join_next() => connections.retain(Connection::is_open),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    accepted_this_turn += 1;
                    if is_closed(&stream) {
                        continue;
                    }
                    if tasks.len() >= MAX_CONNECTIONS {
                        // If every connection of the older half is being answered, the oldest one
                        // is reset and not the newest, which may be a probe.
                        let mut older = connections.iter().take(MAX_CONNECTIONS / 2);
                        let oldest = older.position(|connection| !connection.is_answering());
                        drop(connections.remove(oldest.unwrap_or_default()));
                        tasks.join_next().await;
                        connections.retain(Connection::is_open);
                    }
                    let (end, ended) = oneshot::channel();
                    let answering = Arc::<AtomicBool>::default();
                    connections.push_back(Connection { end, answering: Arc::clone(&answering) });
                    tasks.spawn(serve_connection(stream, answer.clone(), answering, ended));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    sleep(RETRY_DELAY).await;
                }
            },
        }
    }
}

/// A connection whose task runs; it is reset when this is dropped.
struct Connection {
    end: oneshot::Sender<Infallible>,
    /// The head of its first request was received, and the answer is not complete yet. Later
    /// requests do not count: otherwise a client that pipelines requests could never be reset.
    answering: Arc<AtomicBool>,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.end.is_closed()
    }

    fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }
}

/// Whether the client has closed the connection without sending anything. Such connections come in
/// floods and are dropped at once.
fn is_closed(stream: &TcpStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(
        recv(stream.as_raw_fd(), &mut [0], flags),
        Ok(0) | Err(Errno::ECONNRESET)
    )
}

async fn serve_connection<A, F>(
    stream: TcpStream,
    answer: A,
    answering: Arc<AtomicBool>,
    ended: oneshot::Receiver<Infallible>,
) where
    A: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response> + Send,
{
    let (deadline, expiry) = watch::channel(Instant::now() + ANSWER_TIMEOUT);
    let requests = AtomicUsize::new(0);
    let service = service_fn(|request| {
        deadline.send_replace(Instant::now() + ANSWER_TIMEOUT);
        let earlier = requests.fetch_add(1, Ordering::Relaxed);
        let is_last = earlier + 1 >= MAX_REQUESTS;
        answering.store(earlier == 0, Ordering::Relaxed);
        let answer = answer(request);
        let answering = &answering;
        async move {
            // One answer per turn, so that connections with pipelined requests leave turns for the
            // others.
            if earlier > 0 {
                yield_now().await;
            }
            let mut answer = answer.await;
            answering.store(false, Ordering::Relaxed);
            if is_last {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let why = tokio::select! {
        served = &mut connection => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection over HTTP ended");
            }
            return;
        }
        () = expired(expiry) => "its answer took too long",
        _ = ended => "a new one took its place",
    };
    tracing::debug!("a connection over HTTP was reset: {why}");
    // The system also discards what the client has not read.
    connection
        .into_parts()
        .io
        .into_inner()
        .set_zero_linger()
        .ok();
}

/// Waits for the deadline, which each request extends.
async fn expired(mut deadline: watch::Receiver<Instant>) {
    loop {
        let end = *deadline.borrow_and_update();
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::response::IntoResponse as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
        time::timeout,
    };

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    /// More bytes than the system buffers for both ends of a connection.
    const LARGE: usize = 64 << 20;

    fn start(body_length: usize) -> (SocketAddr, JoinSet<()>) {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, move |_| async move {
            vec![b'x'; body_length].into_response()
        }));
        (address, task)
    }

    async fn open(address: SocketAddr, sent: &[u8]) -> TcpStream {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(sent).await.unwrap();
        connection
    }

    /// Whether the server has neither answered nor closed the connection.
    async fn is_waiting(connection: &mut TcpStream) -> bool {
        timeout(Duration::from_millis(1), connection.read(&mut [0]))
            .await
            .is_err()
    }

    #[tokio::test]
    async fn at_the_limit_the_oldest_connection_is_reset() {
        let (address, _task) = start(1);
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(open(address, b"").await);
        }
        assert!(is_waiting(&mut silent[0]).await);
        let mut newest = open(address, GET).await;
        newest.read_exact(&mut [0; 12]).await.unwrap();
        assert!(
            silent[0].read(&mut [0]).await.is_err(),
            "the oldest connection is reset"
        );
        assert!(is_waiting(&mut silent[1]).await);
        // A connection that has ended makes room for the next one.
        let last_of_its_connection =
            b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        for _ in 0..4 {
            drop(newest);
            newest = open(address, last_of_its_connection).await;
            newest.read_to_end(&mut Vec::new()).await.unwrap();
        }
        assert!(is_waiting(&mut silent[2]).await);
    }

    #[tokio::test]
    async fn a_connection_that_is_being_answered_is_not_reset() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Arc::new(Notify::new());
        let release = Arc::new(Notify::new());
        let handler = (Arc::clone(&begun), Arc::clone(&release));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, move |_| {
            let (begun, release) = handler.clone();
            async move {
                let released = release.notified();
                begun.notify_one();
                released.await;
                "answer".into_response()
            }
        }));
        let mut asking = open(address, GET).await;
        begun.notified().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(open(address, b"").await);
        }
        assert!(
            silent[0].read(&mut [0]).await.is_err(),
            "the oldest of the others is reset"
        );
        release.notify_waiters();
        let mut answer = [0; 12];
        asking.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn connections_that_are_closed_already_do_not_count() {
        let (address, _task) = start(1);
        let mut silent = open(address, b"").await;
        assert!(is_waiting(&mut silent).await);
        for _ in 0..MAX_CONNECTIONS * 2 {
            drop(std::net::TcpStream::connect(address).unwrap());
        }
        let mut newest = open(address, GET).await;
        newest.read_exact(&mut [0; 12]).await.unwrap();
        assert!(is_waiting(&mut silent).await);
    }

    #[tokio::test]
    async fn requests_per_connection_are_limited_and_the_last_answer_closes_it() {
        let (address, _task) = start(1);
        let mut connection = open(address, &GET.repeat(MAX_REQUESTS * 2)).await;
        let mut answers = Vec::new();
        // Bytes after the last request turn the close into a reset.
        drop(connection.read_to_end(&mut answers).await);
        let answers = String::from_utf8(answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), MAX_REQUESTS);
        assert_eq!(answers.matches("connection: close\r\n").count(), 1);
        let (_, last) = answers.rsplit_once("HTTP/1.1 200 ").unwrap();
        assert!(last.contains("connection: close\r\n"), "{last}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_is_reset() {
        let (address, _task) = start(LARGE);
        let mut connection = open(address, GET).await;
        connection.read_exact(&mut [0; 12]).await.unwrap();
        sleep(ANSWER_TIMEOUT + Duration::from_millis(100)).await;
        let mut rest = Vec::new();
        assert!(
            connection.read_to_end(&mut rest).await.is_err(),
            "{} bytes, and no reset",
            rest.len()
        );
        assert!(rest.len() < LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_of_a_connection_has_the_whole_time_limit() {
        let (address, _task) = start(1);
        let mut connection = open(address, GET).await;
        for _ in 0..4 {
            sleep(HEADER_TIMEOUT.mul_f64(0.9)).await;
            connection.write_all(GET).await.unwrap();
        }
        let mut answers = String::new();
        connection.read_to_string(&mut answers).await.unwrap();
        assert_eq!(
            answers.matches("HTTP/1.1 200 ").count(),
            5,
            "then the connection was idle for too long"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_of_a_request_has_a_time_limit_and_a_size_limit() {
        let (address, _task) = start(1);
        let begun = Instant::now();
        let mut slow = open(address, b"GET / HTTP/1.1\r\nx-slow: ").await;
        let ended = loop {
            sleep(Duration::from_millis(500)).await;
            if slow.write_all(b"x").await.is_err() || !is_waiting(&mut slow).await {
                break begun.elapsed();
            }
        };
        assert!(
            (HEADER_TIMEOUT..HEADER_TIMEOUT * 2).contains(&ended),
            "{ended:?}"
        );
        let mut large = open(
            address,
            &[
                &b"GET / HTTP/1.1\r\nx-large: "[..],
                &[b'x'; MAX_HEADER_BYTES],
            ]
            .concat(),
        )
        .await;
        let mut answer = [0; 12];
        large.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
}

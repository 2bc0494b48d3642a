//! The connections of the HTTP port: how many there are, and how long each may take.
//!
//! Invariant: a new connection is always accepted at once. When the maximum number of connections
//! is open, the oldest one that is not being answered is reset. A probe needs its connection for
//! some milliseconds, so it is answered even if any number of idle connections is open. Streams
//! have a limit of their own and do not count, so neither resets the other.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc, OnceLock,
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
    sys::socket::{MsgFlags, recv, setsockopt, sockopt::TcpUserTimeout},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use super::{
    TlsSource,
    deadline::{Deadline, STALL_TIMEOUT, WatchedWrites},
};

/// Maximum number of concurrent connections without those of streams, each with one open file. A
/// new connection can be reset after this many later ones. Measured at 15,000 connections a second:
/// with a limit of 64, a client that the system had suspended for 4 ms between connect and request
/// was reset (2 of 30 probes).
pub const MAX_CONNECTIONS: usize = 256;
/// Maximum number of concurrent streams, each with a connection of its own.
pub const MAX_STREAMS: usize = 64;
/// Maximum number of connections in the system's accept queue. The system drops connection attempts
/// beyond it, and the client retries after a second. This is the Linux default limit, because
/// bursts arrive while the process waits for a processor: a queue of 1024 was full after 60 ms.
const BACKLOG: u32 = 4096;
/// Bytes of the system's send buffer of each connection. Without it the system lets the buffer of a
/// stream whose client does not read grow to 4 MiB.
const SEND_BUFFER: u32 = 256 << 10;
/// Limit for receiving the head of a request, for a TLS handshake, and for the idle time between
/// two requests.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
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
/// First byte of a TLS connection: the type of a handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;
/// The answer to a request in plaintext on a port with TLS.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\n\r\nthis port has TLS: ask for it with https:// instead of http://\n";

/// Marks an answer as a stream, in its extensions: it has no time limit as a whole, and counts
/// towards [`MAX_STREAMS`].
#[derive(Debug, Clone, Copy)]
pub struct LongStream;

/// The connection of a request, in the extensions of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The address of the client, or of the last proxy.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub has_tls: bool,
}

/// What answers the requests of a port.
pub(super) trait Answers: Clone + Send + Sync + 'static {
    /// The answer to one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send;
    /// The answer in the place of a stream when [`MAX_STREAMS`] are open.
    fn too_many_streams(&self) -> Response;
}

/// Binds the address. Must be called within a runtime.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Permits a port whose former connections are still closing.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit both. The timeout ends streams to hosts that are gone.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    let timeout = u32::try_from(STALL_TIMEOUT.as_millis()).expect("it is less than a day");
    setsockopt(&socket, TcpUserTimeout, &timeout)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsSource>, answers: impl Answers) {
    let mut tasks = JoinSet::new();
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
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
                Ok((stream, address)) => {
                    accepted_this_turn += 1;
                    if is_closed(&stream) {
                        continue;
                    }
                    let open_streams = MAX_STREAMS - streams.available_permits();
                    if tasks.len() - open_streams.min(tasks.len()) >= MAX_CONNECTIONS {
                        reset_oldest(&mut connections);
                        tasks.join_next().await;
                        connections.retain(Connection::is_open);
                    }
                    let (end, ended) = oneshot::channel();
                    let state = Arc::<State>::default();
                    connections.push_back(Connection { end, state: Arc::clone(&state) });
                    let accepted = Accepted {
                        stream,
                        peer: Peer { address, has_tls: tls.is_some() },
                        tls: tls.as_ref().map(|config| TlsAcceptor::from(config())),
                        state,
                        streams: Arc::clone(&streams),
                    };
                    tasks.spawn(accepted.serve(answers.clone(), ended));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    sleep(RETRY_DELAY).await;
                }
            },
        }
    }
}

/// Resets the oldest connection that is neither a stream nor being answered. If every connection of
/// the older half is being answered, the oldest one is reset and not the newest, which may be a
/// probe.
fn reset_oldest(connections: &mut VecDeque<Connection>) {
    let ordinary = connections.iter().enumerate();
    let ordinary = ordinary.filter(|(_, connection)| !connection.state.is_stream());
    let mut older = ordinary.take(MAX_CONNECTIONS / 2).peekable();
    let oldest = older.peek().map(|(place, _)| *place);
    let idle = older.find(|(_, connection)| !connection.state.is_answering());
    if let Some(place) = idle.map(|(place, _)| place).or(oldest) {
        connections.remove(place);
    }
}

/// A connection whose task runs; it is reset when this is dropped.
struct Connection {
    end: oneshot::Sender<Infallible>,
    state: Arc<State>,
}

impl Connection {
    fn is_open(&self) -> bool {
        !self.end.is_closed()
    }
}

/// What a connection does, for the choice of the one to reset.
#[derive(Debug, Default)]
struct State {
    /// The head of its first request was received, and the answer is not complete yet. Later
    /// requests do not count: otherwise a client that pipelines requests could never be reset.
    answering: AtomicBool,
    /// Held while its answer is a stream.
    stream: OnceLock<OwnedSemaphorePermit>,
}

impl State {
    fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    fn is_stream(&self) -> bool {
        self.stream.get().is_some()
    }

    /// Whether the answer may be a stream. The first one of a connection is its last answer.
    fn begin_stream(&self, streams: &Arc<Semaphore>) -> bool {
        let permit = Arc::clone(streams).try_acquire_owned();
        permit.is_ok_and(|permit| self.stream.set(permit).is_ok())
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

/// A connection, with TLS or in plaintext.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// An accepted connection before its TLS handshake.
struct Accepted {
    stream: TcpStream,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    streams: Arc<Semaphore>,
}

impl Accepted {
    /// Answers the requests of the connection until it is closed, late or replaced.
    async fn serve(self, answers: impl Answers, mut ended: oneshot::Receiver<Infallible>) {
        let Self {
            stream,
            peer,
            tls,
            state,
            streams,
        } = self;
        let opened = tokio::select! {
            opened = timeout(HEADER_TIMEOUT, open(stream, tls)) => opened,
            _ = &mut ended => return,
        };
        let stream = match opened.map_err(io::Error::from).flatten() {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "no connection over HTTP"),
        };
        let deadline = Arc::new(Deadline::new());
        let requests = AtomicUsize::new(0);
        let service = service_fn(|mut request: Request<Incoming>| {
            deadline.answer_begins();
            request.extensions_mut().insert(peer);
            let earlier = requests.fetch_add(1, Ordering::Relaxed);
            let is_last = earlier + 1 >= MAX_REQUESTS;
            state.answering.store(earlier == 0, Ordering::Relaxed);
            let answer = answers.answer(request);
            let state = &state;
            let answers = &answers;
            let deadline = &deadline;
            let streams = &streams;
            async move {
                // One answer per turn, so that connections with pipelined requests leave turns for
                // the others.
                if earlier > 0 {
                    yield_now().await;
                }
                let mut answer = answer.await;
                state.answering.store(false, Ordering::Relaxed);
                let is_stream = answer.extensions().get::<LongStream>().is_some();
                if is_stream && state.begin_stream(streams) {
                    deadline.stream_begins();
                } else if is_stream {
                    answer = answers.too_many_streams();
                }
                if is_last || is_stream {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let io = WatchedWrites::new(stream, Arc::clone(&deadline));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(io), service);
        let why = tokio::select! {
            served = &mut connection => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection over HTTP ended");
                }
                return;
            }
            () = deadline.expired() => "its answer took too long",
            _ = ended => "a new one took its place",
        };
        tracing::debug!("a connection over HTTP was reset: {why}");
        reset(&connection.into_parts().io.into_inner().into_inner());
    }
}

/// Resets a connection: the system also discards what the client has not read.
fn reset(stream: &Stream) {
    let tcp = match stream {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    };
    tcp.set_zero_linger().ok();
}

/// Performs the TLS handshake, if the port has TLS.
async fn open(mut stream: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<Stream> {
    let Some(acceptor) = tls else {
        return Ok(Either::Left(stream));
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [TLS_HANDSHAKE] {
        stream.write_all(NOT_TLS).await?;
        stream.shutdown().await?;
        // A close with unread bytes would be a reset, and the client would lose the answer.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a request in plaintext",
        ));
    }
    Ok(Either::Right(Box::new(acceptor.accept(stream).await?)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::{body::Body, response::IntoResponse as _};
    use bytes::Bytes;
    use http::StatusCode;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::{Notify, watch},
        time::{Instant, timeout},
    };
    use tokio_stream::{StreamExt as _, wrappers::WatchStream};

    use super::{super::deadline::ANSWER_TIMEOUT, *};

    /// Answers by a function.
    #[derive(Clone)]
    struct By<A>(A);

    impl<A, F> Answers for By<A>
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send,
    {
        fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response> + Send {
            (self.0)(request)
        }

        fn too_many_streams(&self) -> Response {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    /// More bytes than the system buffers for both ends of a connection.
    const LARGE: usize = 64 << 20;

    fn start(body_length: usize) -> (SocketAddr, JoinSet<()>) {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        let answers = By(move |_| async move { vec![b'x'; body_length].into_response() });
        task.spawn(serve(listener, None, answers));
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
        let answers = By(move |_| {
            let (begun, release) = handler.clone();
            async move {
                let released = release.notified();
                begun.notify_one();
                released.await;
                "answer".into_response()
            }
        });
        task.spawn(serve(listener, None, answers));
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

    /// A port whose answers are streams, of the latest text in a channel.
    fn start_streams(text: &watch::Sender<Bytes>) -> (SocketAddr, JoinSet<()>) {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let text = text.clone();
        let answers = By(move |_| {
            let texts = WatchStream::new(text.subscribe());
            let body = Body::from_stream(texts.map(Ok::<_, Infallible>));
            let mut answer = Response::new(body);
            answer.extensions_mut().insert(LongStream);
            async move { answer }
        });
        let mut task = JoinSet::new();
        task.spawn(serve(listener, None, answers));
        (address, task)
    }

    /// Reads until the text has come.
    async fn read_until(connection: &mut TcpStream, text: &str) {
        let mut read = String::new();
        while !read.contains(text) {
            let mut buffer = [0; 256];
            let length = connection.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{text} did not come: {read}");
            read += std::str::from_utf8(&buffer[..length]).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_outlives_the_time_limit_of_an_answer() {
        let text = watch::Sender::new(Bytes::from_static(b"first"));
        let (address, _task) = start_streams(&text);
        let mut stream = open(address, GET).await;
        read_until(&mut stream, "first").await;
        sleep(ANSWER_TIMEOUT.max(STALL_TIMEOUT) * 3).await;
        text.send_replace(Bytes::from_static(b"second"));
        read_until(&mut stream, "second").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_does_not_read_is_reset() {
        let text = watch::Sender::new(Bytes::from(vec![b'x'; LARGE]));
        let (address, _task) = start_streams(&text);
        let mut stream = open(address, GET).await;
        sleep(STALL_TIMEOUT + Duration::from_secs(1)).await;
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).await.is_err(), "a reset");
        assert!(rest.len() < LARGE);
    }

    #[tokio::test]
    async fn streams_have_their_own_limit_and_new_connections_do_not_reset_them() {
        let text = watch::Sender::new(Bytes::from_static(b"first"));
        let (address, _task) = start_streams(&text);
        let mut streams = Vec::new();
        for _ in 0..MAX_STREAMS {
            let mut stream = open(address, GET).await;
            read_until(&mut stream, "first").await;
            streams.push(stream);
        }
        let mut refused = open(address, GET).await;
        read_until(&mut refused, "HTTP/1.1 503 ").await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(open(address, b"").await);
        }
        assert!(is_waiting(&mut silent[0]).await, "streams do not count");
        for _ in 0..MAX_CONNECTIONS {
            silent.push(open(address, b"").await);
        }
        assert!(silent[0].read(&mut [0]).await.is_err(), "the limit holds");
        text.send_replace(Bytes::from_static(b"second"));
        for stream in &mut streams {
            read_until(stream, "second").await;
        }
        // A stream that has ended makes room for the next one.
        drop(streams.pop());
        loop {
            let mut stream = open(address, GET).await;
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.unwrap();
            if &status == b"HTTP/1.1 200" {
                break;
            }
        }
    }
}

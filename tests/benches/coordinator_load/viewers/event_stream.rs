//! One viewer of the page: reads the server-sent events of `GET /api/v1/events`.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use http_body::Body as _;
use hyper::{Request, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::worker::LoadError;

/// Path of the stream.
const PATH: &str = "/api/v1/events";
/// Time until the head of the answer. An event comes within 5 s, so this is enough for that too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum length of one event in bytes.
const MAX_EVENT: usize = 64 << 20;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name, e.g. `snapshot`.
    pub(crate) name: String,
    /// The lines of its data, joined by line ends.
    pub(crate) data: String,
    /// Length of the whole event in the stream, in bytes.
    pub(crate) bytes: u64,
}

/// The events in a stream of bytes. Pure.
#[derive(Debug, Default)]
struct EventParser {
    buffer: Vec<u8>,
    /// The part of the buffer that contains no end of an event.
    scanned: usize,
}

/// An open stream.
pub(crate) struct EventStream {
    body: Incoming,
    parser: EventParser,
    /// The task of the connection, aborted with the stream.
    _connection: JoinSet<()>,
}

impl EventParser {
    fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Takes the first event that is complete.
    fn next(&mut self) -> Option<Event> {
        loop {
            let rest = &self.buffer[self.scanned..];
            let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") else {
                // The last byte may be the first one of the end.
                self.scanned = self.buffer.len().saturating_sub(1);
                return None;
            };
            let end = self.scanned + end + 2;
            let text: Vec<u8> = self.buffer.drain(..end).collect();
            self.scanned = 0;
            if let Some(event) = parse(&text) {
                return Some(event);
            }
        }
    }
}

/// Reads the lines of an event; `None` if it has no data, as a comment that keeps the stream alive.
fn parse(text: &[u8]) -> Option<Event> {
    let lines = String::from_utf8_lossy(text);
    let value = |line: &str, field: &str| {
        let value = line.strip_prefix(field)?.strip_prefix(':')?;
        Some(value.strip_prefix(' ').unwrap_or(value).to_owned())
    };
    let data: Vec<String> = lines
        .lines()
        .filter_map(|line| value(line, "data"))
        .collect();
    let name = lines.lines().find_map(|line| value(line, "event"));
    (!data.is_empty()).then(|| Event {
        name: name.unwrap_or_else(|| "message".to_owned()),
        data: data.join("\n"),
        bytes: text.len() as u64,
    })
}

impl EventStream {
    /// Opens the stream.
    ///
    /// # Errors
    /// There is no connection, or the answer is not a stream of events.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, LoadError> {
        let opened = timeout(ANSWER_TIMEOUT, Self::request(address)).await;
        opened.unwrap_or_else(|_| Err(unanswered(&"no answer in time")))
    }

    async fn request(address: SocketAddr) -> Result<Self, LoadError> {
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| unanswered(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| unanswered(&error))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The body of the answer has the same error.
            drop(connection.await);
        });
        let request = Request::get(PATH)
            .header("host", address.to_string())
            .header("accept", "text/event-stream")
            .body(String::new())
            .map_err(io::Error::other)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| unanswered(&error))?;
        let kind = answer.headers().get("content-type");
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if answer.status() != StatusCode::OK || !is_stream {
            let message = format!("GET {PATH} has the answer {} {kind:?}", answer.status());
            return Err(LoadError::Misbehaved(message));
        }
        Ok(Self {
            body: answer.into_body(),
            parser: EventParser::default(),
            _connection: tasks,
        })
    }

    /// The next event; `None` if it has not come by `end`.
    ///
    /// # Errors
    /// The stream breaks, ends, or sends an event that is too long.
    pub(crate) async fn next(&mut self, end: Instant) -> Result<Option<Event>, LoadError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            let body = &mut self.body;
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            let Ok(frame) = timeout_at(end, frame).await else {
                return Ok(None);
            };
            let frame = frame
                .ok_or_else(|| LoadError::Misbehaved("the stream of events ended".to_owned()))?
                .map_err(|error| unanswered(&error))?;
            self.parser
                .push(frame.data_ref().map_or(&[], AsRef::as_ref));
            if self.parser.buffer.len() > MAX_EVENT {
                let message = format!("an event has more than {MAX_EVENT} bytes");
                return Err(LoadError::Misbehaved(message));
            }
        }
    }
}

fn unanswered(why: &impl ToString) -> LoadError {
    LoadError::Unanswered {
        call: PATH,
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    const STREAM: &str = ": comment\n\nevent: snapshot\nid: 7.1\ndata: {\"a\":\ndata:1}\n\nevent: \
                          update\ndata: {}\n\ndata: la";

    fn event(name: &str, data: &str, bytes: u64) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
            bytes,
        }
    }

    /// The events of [`STREAM`].
    fn events() -> [Event; 2] {
        [
            event("snapshot", "{\"a\":\n1}", 45),
            event("update", "{}", 24),
        ]
    }

    #[test]
    fn events_are_the_same_in_pieces_of_any_size() {
        for size in 1..=STREAM.len() {
            let mut parser = EventParser::default();
            let mut found = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                parser.push(piece);
                found.extend(std::iter::from_fn(|| parser.next()));
            }
            assert_eq!(found, events(), "pieces of {size} bytes");
            assert_eq!(parser.buffer, b"data: la");
        }
    }

    /// Answers one request with these bytes and ends the connection.
    async fn server(answer: String) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a viewer");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let read = socket.read_buf(&mut request).await.expect("the request");
                assert!(read > 0, "the request ends early");
            }
            let sent = socket.write_all(answer.as_bytes()).await;
            sent.expect("the viewer reads");
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn a_stream_is_read_to_its_end_and_the_end_is_an_error() {
        let mut answer =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: \
                          chunked\r\n\r\n"
                .to_owned();
        for piece in STREAM.as_bytes().chunks(7) {
            let text = String::from_utf8_lossy(piece);
            answer += &["7\r\n", &format!("{text: <7}"), "\r\n"].concat();
        }
        answer += "0\r\n\r\n";
        let (address, _server) = server(answer).await;
        let mut stream = EventStream::open(address).await.expect("a stream");
        let end = Instant::now() + ANSWER_TIMEOUT;
        for wanted in events() {
            let found = stream.next(end).await.expect("no error");
            assert_eq!(found, Some(wanted));
        }
        let error = stream.next(end).await.expect_err("the end");
        assert!(error.to_string().contains("ended"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_stream_is_an_error_with_its_status() {
        let answer = "HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: \
                      2\r\n\r\n{}";
        let (address, _server) = server(answer.to_owned()).await;
        let Err(error) = EventStream::open(address).await else {
            panic!("there is no stream");
        };
        assert!(error.to_string().contains("503"), "{error}");
    }
}

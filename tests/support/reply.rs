//! Turns a scripted answer into bytes on the wire.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    answer::{Answer, Ending, Framing, HeadBehaviour, RangeBehaviour, Tag},
    content::Content,
    origin::{Class, State, Validators},
    request_log::Request,
    transfer_rate::{SLICE, TransferRate},
};

/// What happens to the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterAnswer {
    Serve,
    Close,
    HangUp,
    Stall,
    Reset,
}

const LAST_MODIFIED: [&str; 2] = [
    "Thu, 11 Mar 2021 10:00:00 GMT",
    "Fri, 12 Mar 2021 10:00:00 GMT",
];

/// An answer that is ready to be sent.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<dyn Content>,
    from: u64,
    /// Bytes of the body, regardless of the headers.
    length: u64,
    answer: Answer,
}

/// Answers a request.
pub(crate) fn answer(
    stream: &TcpStream,
    state: &State,
    request: &Request,
    number: usize,
) -> io::Result<AfterAnswer> {
    let is_get = request.method == "GET";
    let reply = state.take_answer(&request.wnid, is_get, |answer, class| {
        Reply::new(answer, class, request)
    });
    let reply = reply.unwrap_or_else(|| Reply::with_text(Answer::status(404)));
    state.note(number, reply.status, 0);
    if reply.send_head(stream, state)? == AfterAnswer::Stall {
        return Ok(AfterAnswer::Stall);
    }
    if is_get {
        reply.send_body(stream, state, request.connection, number)
    } else {
        Ok(AfterAnswer::Serve)
    }
}

impl Reply {
    fn new(answer: Answer, class: &Class, request: &Request) -> Self {
        if answer.status.is_some() {
            return Self::with_text(answer);
        }
        let body = answer
            .body
            .clone()
            .unwrap_or_else(|| Arc::clone(&class.content));
        let (etag, date) = validators(&answer, class, request);
        let whole = body.length();
        let range = requested_range(&answer, request, etag.as_deref(), date, whole);
        let mut headers = vec![("Content-Type".to_owned(), "application/x-tar".to_owned())];
        headers.push(("Accept-Ranges".to_owned(), "bytes".to_owned()));
        headers.extend(etag.map(|etag| ("ETag".to_owned(), etag)));
        headers.extend(date.map(|date| ("Last-Modified".to_owned(), date.to_owned())));
        let (status, from, length) = match range {
            RequestedRange::Whole if answer.range == RangeBehaviour::WholeCalledPart => {
                headers.push((
                    "Content-Range".to_owned(),
                    format!("bytes 0-{}/{whole}", whole - 1),
                ));
                (206, 0, whole)
            }
            RequestedRange::Whole => (200, 0, whole),
            RequestedRange::Beyond => {
                headers.push(("Content-Range".to_owned(), format!("bytes */{whole}")));
                (416, 0, 0)
            }
            RequestedRange::Part(from, to) => {
                let late = if let RangeBehaviour::StartsLate(bytes) = answer.range {
                    bytes
                } else {
                    0
                };
                let from = (from + late).min(to - 1);
                let total = if let RangeBehaviour::Total(bytes) = answer.range {
                    bytes
                } else {
                    whole
                };
                headers.push((
                    "Content-Range".to_owned(),
                    format!("bytes {from}-{}/{total}", to - 1),
                ));
                (
                    if answer.range == RangeBehaviour::CalledWhole {
                        200
                    } else {
                        206
                    },
                    from,
                    to - from,
                )
            }
        };
        Self {
            status,
            headers,
            body,
            from,
            length,
            answer,
        }
    }

    fn with_text(answer: Answer) -> Self {
        let body = answer.body.clone().unwrap_or_else(|| Arc::new(Vec::new()));
        let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
        Self {
            status: answer.status.unwrap_or(200),
            headers,
            length: body.length(),
            body,
            from: 0,
            answer,
        }
    }

    fn send_head(&self, mut stream: &TcpStream, state: &State) -> io::Result<AfterAnswer> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let framing = match self.answer.framing {
            Framing::Honest => Some(("Content-Length".to_owned(), self.length.to_string())),
            Framing::Stated(length) => Some(("Content-Length".to_owned(), length.to_string())),
            Framing::UntilClose => None,
            Framing::Chunked { .. } => Some(("Transfer-Encoding".to_owned(), "chunked".to_owned())),
        };
        let honest = self.headers.iter().chain(&framing).filter(|(name, _)| {
            !self
                .answer
                .headers
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(name))
        });
        for (name, value) in honest.chain(&self.answer.headers) {
            write!(head, "{name}: {value}\r\n").expect("a string takes all");
        }
        match self.answer.head {
            HeadBehaviour::Silent => return Ok(AfterAnswer::Stall),
            HeadBehaviour::Honest => {}
            HeadBehaviour::Padded(bytes) => {
                write!(head, "X-Padding: {}\r\n", "a".repeat(bytes)).expect("a string takes all");
            }
            HeadBehaviour::Endless => {
                while !state.stopping.load(Ordering::Relaxed) {
                    stream.write_all(head.as_bytes())?;
                    "X-Padding: aaaaaaaaaaaaaaaa\r\n"
                        .repeat(64)
                        .clone_into(&mut head);
                }
            }
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        Ok(AfterAnswer::Serve)
    }

    fn send_body(
        &self,
        mut stream: &TcpStream,
        state: &State,
        connection: u64,
        number: usize,
    ) -> io::Result<AfterAnswer> {
        let stop = match self.answer.ending {
            Ending::CutAt(bytes) | Ending::ResetAt(bytes) | Ending::StallAt(bytes) => {
                bytes.min(self.length)
            }
            Ending::KeepAlive | Ending::HangUp | Ending::HangUpOnNext => self.length,
        };
        let chunked = matches!(self.answer.framing, Framing::Chunked { .. });
        let mut rate = TransferRate::new(self.answer.drip, state);
        let mut transfer = Some(state.traffic.begin(connection, stream)?);
        let mut sent = 0;
        while sent < stop {
            let count = usize::try_from(stop - sent)
                .unwrap_or(SLICE)
                .min(rate.slice);
            if !rate.wait_for_slot(count as u64, stream) {
                return Ok(AfterAnswer::Close);
            }
            // Counted before the write: a client that has received the bytes never sees a count
            // without them.
            state.note(number, self.status, count as u64);
            if chunked {
                write!(stream, "{count:x}\r\n")?;
            }
            let is_last = sent + count as u64 == stop;
            self.body
                .send(self.from + sent, count - usize::from(is_last), stream)?;
            if is_last {
                // Ends before the last byte is sent: a client that has received it may begin its
                // next transfer.
                drop(transfer.take());
                self.body.send(self.from + stop - 1, 1, stream)?;
            }
            if chunked {
                stream.write_all(b"\r\n")?;
            }
            sent += count as u64;
            if !rate.wait_after(count as u64, stream) {
                return Ok(AfterAnswer::Close);
            }
        }
        if self.answer.framing == (Framing::Chunked { ended: true }) && stop == self.length {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(self.next())
    }

    fn next(&self) -> AfterAnswer {
        let ends_by_closing = match self.answer.framing {
            Framing::Honest | Framing::Chunked { ended: true } => false,
            Framing::Stated(length) => length != self.length,
            Framing::UntilClose | Framing::Chunked { ended: false } => true,
        };
        match self.answer.ending {
            Ending::StallAt(_) => AfterAnswer::Stall,
            Ending::ResetAt(_) => AfterAnswer::Reset,
            Ending::HangUp | Ending::CutAt(_) => AfterAnswer::Close,
            Ending::HangUpOnNext => AfterAnswer::HangUp,
            Ending::KeepAlive if ends_by_closing => AfterAnswer::Close,
            Ending::KeepAlive => AfterAnswer::Serve,
        }
    }
}

fn validators(
    answer: &Answer,
    class: &Class,
    request: &Request,
) -> (Option<String>, Option<&'static str>) {
    let strong = format!(
        "\"{}-v{}-{}\"",
        request.wnid,
        class.version,
        class.content.length()
    );
    let date = LAST_MODIFIED[usize::from(class.version > 1)];
    match (&answer.tag, class.validators) {
        (Tag::None, _) | (Tag::Honest, Validators::None) => (None, None),
        (Tag::Stated(etag), _) => (Some(etag.clone()), Some(date)),
        (Tag::Honest, Validators::Strong) => (Some(strong), Some(date)),
        (Tag::Honest, Validators::Weak) => (Some(format!("W/{strong}")), None),
        (Tag::Honest, Validators::Date) => (None, Some(date)),
    }
}

/// The range of a request; `Part` is from the first byte to the one after the last.
enum RequestedRange {
    Whole,
    Part(u64, u64),
    Beyond,
}

fn requested_range(
    answer: &Answer,
    request: &Request,
    etag: Option<&str>,
    date: Option<&str>,
    whole: u64,
) -> RequestedRange {
    if matches!(
        answer.range,
        RangeBehaviour::Ignored | RangeBehaviour::WholeCalledPart
    ) {
        return RequestedRange::Whole;
    }
    let strong =
        etag.filter(|etag| etag.starts_with('"') && answer.range != RangeBehaviour::ByDate);
    let same = |validator: &str| Some(validator) == strong || Some(validator) == date;
    let conditional = matches!(
        answer.range,
        RangeBehaviour::Honest | RangeBehaviour::ByDate
    );
    if conditional
        && request
            .if_range
            .as_deref()
            .is_some_and(|validator| !same(validator))
    {
        return RequestedRange::Whole;
    }
    let parsed = request.range.as_deref().and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let to = if to.is_empty() {
            whole
        } else {
            to.parse::<u64>().ok()?.saturating_add(1).min(whole)
        };
        Some((from.parse::<u64>().ok()?, to))
    });
    match parsed {
        None => RequestedRange::Whole,
        Some((from, to)) if from >= to => RequestedRange::Beyond,
        Some((from, to)) => RequestedRange::Part(from, to),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

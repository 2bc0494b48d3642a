//! Refuses messages that are too long, or that name too many classes, before any part of them is
//! decoded.
//!
//! A decoded entry takes up to fifty times its encoded bytes, so the length alone does not bound
//! the memory. The messages of each method have at most one field that may be repeated without
//! limit. Its entries are counted while the bytes pass on their way to the decoder.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Body, extract::State, middleware::Next};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use shared::protocol::{MAX_BATCH, MAX_REPORT, method};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::request_memory::{RequestMemory, Reservation};
use crate::{auth::Peer, rpc::conversions::too_many};

/// For [`MAX_BATCH`] entries of `Held`; the rest is for names and for fields to come.
const MAX_HELD: usize = 256 << 10;
/// For the ids of [`MAX_BATCH`] classes.
const MAX_NAMES: usize = 64 << 10;
/// One sentence, whose length the worker does not limit.
const MAX_SENTENCE: usize = 64 << 10;
/// Messages of a few numbers or one name.
const MAX_SHORT: usize = 4 << 10;
/// From the first byte of a message to its last. The longest message takes this long at 1.1 Mbit/s.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A varint has at most 64 bits.
const VARINT_BITS: u32 = 64;
/// Bytes of an entry of `Held` with the largest numbers.
const HELD: usize = 46;
/// Bytes of the id of a class in a message.
const NAME: usize = 11;

const _: () = {
    assert!(
        MAX_BATCH * HELD <= MAX_HELD,
        "a message may name as many leases as the protocol says"
    );
    assert!(
        MAX_BATCH * NAME <= MAX_NAMES,
        "a message may name as many classes as the protocol says"
    );
};

/// The limits of one message of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    bytes: usize,
    /// The number of the repeated field.
    repeated: Option<u64>,
}

impl Limit {
    fn of(path: &str) -> Self {
        let (bytes, repeated) = match path.strip_prefix('/') {
            Some(method::REPORT) => (MAX_REPORT, Some(2)),
            Some(method::REGISTER) => (MAX_HELD, Some(6)),
            Some(method::RENEW) => (MAX_HELD, Some(2)),
            Some(method::ACQUIRE) => (MAX_HELD, Some(3)),
            Some(method::LEAVE) => (MAX_SENTENCE, None),
            Some(method::RETRY_FAILED) => (MAX_NAMES, Some(1)),
            _ => (MAX_SHORT, None),
        };
        Self { bytes, repeated }
    }
}

/// Answers a call whose messages are limited.
pub(super) async fn limited(
    State(memory): State<RequestMemory>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    // The memory is reserved until the call is answered.
    let reservation = Arc::new(memory.reservation(request.extensions().get::<Peer>()));
    let messages = Messages::new(Limit::of(request.uri().path()), Arc::clone(&reservation));
    let limited = request.map(|body| {
        Body::new(Limited {
            body,
            messages,
            timeout: None,
        })
    });
    next.run(limited).await
}

/// A request body whose messages are counted while they are read.
struct Limited {
    body: Body,
    messages: Messages,
    /// The timeout of a message that has begun and not ended.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let Some(timeout) = &mut self.timeout else {
                return Poll::Pending;
            };
            ready!(timeout.as_mut().poll(context));
            let late = Status::deadline_exceeded("the message did not end in time");
            return Poll::Ready(Some(Err(late.into())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
            && let Err(refused) = self.messages.take(bytes)
        {
            return Poll::Ready(Some(Err(refused.into())));
        }
        if !self.messages.is_in_the_middle() {
            self.timeout = None;
        } else if self.timeout.is_none() {
            self.timeout = Some(Box::pin(sleep(MESSAGE_TIMEOUT)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The state of the messages of one stream, up to the last received byte.
struct Messages {
    limit: Limit,
    at: Position,
    /// Bytes of the current message that were not received yet.
    left: usize,
    /// Entries of the repeated field so far.
    entries: usize,
    /// The memory reserved for the current message.
    reservation: Arc<Reservation>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Position {
    /// gRPC's prefix: one byte for compression, four for the length.
    Prefix { known: usize, length: usize },
    /// The number and the type of a field.
    Tag(Varint),
    /// A number as a field's content.
    Number,
    /// The length of a field's content.
    Length(Varint),
    /// Content, with the number of bytes that were not received yet.
    Content(u64),
}

impl Position {
    /// Before a message.
    const START: Self = Self::Prefix {
        known: 0,
        length: 0,
    };
    /// Before a field of a message.
    const FIELD: Self = Self::Tag(Varint { value: 0, bits: 0 });
}

/// A partly received varint.
#[derive(Clone, Copy, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    /// Adds a byte. Returns whether it was the last one.
    fn with(self, byte: u8) -> (Self, bool) {
        let value = self.value | u64::from(byte & 0x7F).checked_shl(self.bits).unwrap_or(0);
        let bits = self.bits + 7;
        (Self { value, bits }, byte < 0x80 || bits >= VARINT_BITS)
    }
}

impl Messages {
    fn new(limit: Limit, reservation: Arc<Reservation>) -> Self {
        Self {
            limit,
            at: Position::START,
            left: 0,
            entries: 0,
            reservation,
        }
    }

    /// Whether a message has begun and not ended.
    fn is_in_the_middle(&self) -> bool {
        !matches!(self.at, Position::Prefix { known: 0, .. })
    }

    /// Counts the bytes that follow those of the last call.
    ///
    /// # Errors
    /// If a message is longer than the method's limit, or has too many entries.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let Position::Prefix { known, length } = self.at {
                bytes = rest;
                self.prefix(known, length, byte)?;
                continue;
            }
            let used = match self.at {
                Position::Content(left) => bytes
                    .len()
                    .min(self.left)
                    .min(usize::try_from(left).unwrap_or(usize::MAX)),
                _ => 1,
            };
            bytes = &bytes[used..];
            self.left -= used;
            self.at = self.after(byte, used)?;
            if self.left == 0 {
                self.at = Position::START;
            }
        }
        Ok(())
    }

    fn prefix(&mut self, known: usize, length: usize, byte: u8) -> Result<(), Status> {
        let length = if known == 0 {
            0
        } else {
            length << 8 | usize::from(byte)
        };
        if known < 4 {
            self.at = Position::Prefix {
                known: known + 1,
                length,
            };
            return Ok(());
        }
        if length > self.limit.bytes {
            let most = self.limit.bytes;
            return Err(Status::out_of_range(format!(
                "a message of this method has at most {most} bytes, this one {length}"
            )));
        }
        self.reservation.replace(length)?;
        self.left = length;
        self.entries = 0;
        self.at = if length == 0 {
            Position::START
        } else {
            Position::FIELD
        };
        Ok(())
    }

    /// The position in the message after `used` bytes, of which `byte` was the first.
    fn after(&mut self, byte: u8, used: usize) -> Result<Position, Status> {
        let next = Position::FIELD;
        Ok(match self.at {
            Position::Prefix { .. } => next,
            Position::Tag(varint) => match varint.with(byte) {
                (varint, false) => Position::Tag(varint),
                (varint, true) => self.field(varint.value)?,
            },
            Position::Number if byte < 0x80 => next,
            Position::Number => Position::Number,
            Position::Length(varint) => match varint.with(byte) {
                (varint, false) => Position::Length(varint),
                (Varint { value: 0, .. }, true) => next,
                (varint, true) => Position::Content(varint.value),
            },
            Position::Content(left) => match left.saturating_sub(used as u64) {
                0 => next,
                left => Position::Content(left),
            },
        })
    }

    /// The position after the tag of a field.
    fn field(&mut self, tag: u64) -> Result<Position, Status> {
        let number = tag >> 3;
        let wire_type = tag & 7;
        Ok(match wire_type {
            0 => Position::Number,
            1 => Position::Content(8),
            2 => {
                self.entries += usize::from(Some(number) == self.limit.repeated);
                if self.entries > MAX_BATCH {
                    return Err(too_many("more"));
                }
                Position::Length(Varint::default())
            }
            // Groups have no content of their own; their fields count like fields outside.
            3 | 4 => Position::FIELD,
            5 => Position::Content(4),
            // This type does not exist: the decoder refuses the message at this position.
            _ => Position::Content(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests;

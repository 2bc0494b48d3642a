//! One scripted answer of the origin. What the script does not change stays a correct answer.

use std::{fmt, sync::Arc, time::Duration};

use crate::content::Content;

/// A scripted answer. [`Answer::plain`] is the correct one; each method introduces one fault.
#[derive(Clone, Default)]
pub struct Answer {
    /// `None`: 200 or 206, depending on the request.
    pub(crate) status: Option<u16>,
    /// Added to the correct headers; replaces a correct header of the same name.
    pub(crate) headers: Vec<(String, String)>,
    /// `None`: the class's tar.
    pub(crate) body: Option<Arc<dyn Content>>,
    pub(crate) framing: Framing,
    pub(crate) ending: Ending,
    pub(crate) drip: Option<(usize, Duration)>,
    pub(crate) range: RangeBehaviour,
    pub(crate) head: HeadBehaviour,
    pub(crate) tag: Tag,
    pub(crate) replaced_by: Option<Arc<dyn Content>>,
}

/// How the answer delimits its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The correct `Content-Length`.
    #[default]
    Honest,
    /// This `Content-Length`, regardless of how many bytes are sent.
    Stated(u64),
    /// No length: the end of the connection ends the body.
    UntilClose,
    /// Chunked transfer coding; without `ended` the last chunk is missing.
    Chunked { ended: bool },
}

/// What happens to the connection after the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Kept open for the next request.
    #[default]
    KeepAlive,
    /// Closed after the answer, without a `Connection: close` header.
    HangUp,
    /// Kept open; the next request on it closes it without an answer.
    HangUpOnNext,
    /// Closed with a FIN after this many bytes of the body.
    CutAt(u64),
    /// Reset with an RST after this many bytes of the body.
    ResetAt(u64),
    /// Nothing is sent after this many bytes of the body, until the client disconnects.
    StallAt(u64),
}

/// How a `Range` request is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RangeBehaviour {
    #[default]
    Honest,
    /// 200 with the complete tar.
    Ignored,
    /// 206 even if `If-Range` names another version.
    Unconditional,
    /// 206 only if `If-Range` equals the `Last-Modified`.
    ByDate,
    /// 206 with the complete tar and a matching `Content-Range`.
    WholeCalledPart,
    /// The requested range and its `Content-Range`, but status 200.
    CalledWhole,
    /// 206 with a range that begins this many bytes later than requested, and the `Content-Range`
    /// of the range sent.
    StartsLate(u64),
    /// 206 with this total length in `Content-Range`.
    Total(u64),
}

/// Which `ETag` and `Last-Modified` the answer has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Those of the class.
    #[default]
    Honest,
    /// This `ETag`.
    Stated(String),
    /// Neither.
    None,
}

/// How the head of the answer is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HeadBehaviour {
    #[default]
    Honest,
    /// Neither head nor body is sent.
    Silent,
    /// Header lines without end.
    Endless,
    /// A head that is this many bytes longer.
    Padded(usize),
}

impl Answer {
    /// The correct answer.
    pub fn plain() -> Self {
        Self::default()
    }

    /// An answer with this status and a short text as its body.
    pub fn status(code: u16) -> Self {
        Self {
            status: Some(code),
            ..Self::default()
        }
        .with_body(format!("status {code}\n").into_bytes())
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(seconds: u64) -> Self {
        Self::status(429).header("Retry-After", &seconds.to_string())
    }

    /// 302 to a `Location`.
    pub fn redirect(location: &str) -> Self {
        Self::status(302).header("Location", location)
    }

    /// 200 with an HTML page, like a login or maintenance page.
    pub fn html() -> Self {
        let page = "<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>URL not \
                    valid</body></html>\n";
        Self::body(page.as_bytes().to_vec()).header("Content-Type", "text/html; charset=utf-8")
    }

    /// 200 with other bytes than the tar of the class.
    pub fn body(bytes: impl Content + 'static) -> Self {
        Self {
            range: RangeBehaviour::Ignored,
            ..Self::default()
        }
        .with_body(bytes)
    }

    /// Closes the connection with a FIN after `bytes` bytes of this answer's body.
    pub fn cut_at(bytes: u64) -> Self {
        Self {
            ending: Ending::CutAt(bytes),
            ..Self::default()
        }
    }

    /// Resets the connection after `bytes` bytes of this answer's body.
    pub fn reset_at(bytes: u64) -> Self {
        Self {
            ending: Ending::ResetAt(bytes),
            ..Self::default()
        }
    }

    /// Sends nothing more after `bytes` bytes of this answer's body.
    pub fn stall_at(bytes: u64) -> Self {
        Self {
            ending: Ending::StallAt(bytes),
            ..Self::default()
        }
    }

    /// Sends `bytes` bytes at a time and pauses for the time of `every` after each portion.
    pub fn drip(bytes: usize, every: Duration) -> Self {
        Self {
            drip: Some((bytes, every)),
            ..Self::default()
        }
    }

    /// Reads the request and never answers.
    pub fn silence() -> Self {
        Self {
            head: HeadBehaviour::Silent,
            ..Self::default()
        }
    }

    /// Sends header lines without end.
    pub fn endless_header() -> Self {
        Self {
            head: HeadBehaviour::Endless,
            ..Self::default()
        }
    }

    /// A correct answer with a head that is `bytes` bytes longer.
    pub fn padded_header(bytes: usize) -> Self {
        Self {
            head: HeadBehaviour::Padded(bytes),
            ..Self::default()
        }
    }

    /// Answers a `Range` request with 200 and the complete tar.
    #[must_use]
    pub fn ignoring_range(mut self) -> Self {
        self.range = RangeBehaviour::Ignored;
        self
    }

    /// Answers a `Range` request with 206 even if the version has changed.
    #[must_use]
    pub fn ignoring_if_range(mut self) -> Self {
        self.range = RangeBehaviour::Unconditional;
        self
    }

    /// Answers a `Range` request with 206 if its condition is the `Last-Modified`, with 200 and the
    /// complete tar if it is the `ETag`.
    #[must_use]
    pub fn honouring_dates_only(mut self) -> Self {
        self.range = RangeBehaviour::ByDate;
        self
    }

    /// Answers every request with 206, the complete tar and its `Content-Range`.
    #[must_use]
    pub fn calling_the_whole_a_part(mut self) -> Self {
        self.range = RangeBehaviour::WholeCalledPart;
        self
    }

    /// Answers a `Range` request with the requested range, but with status 200.
    #[must_use]
    pub fn calling_a_part_whole(mut self) -> Self {
        self.range = RangeBehaviour::CalledWhole;
        self
    }

    /// Answers a `Range` request with a range that begins later than requested.
    #[must_use]
    pub fn starting_late(mut self, bytes: u64) -> Self {
        self.range = RangeBehaviour::StartsLate(bytes);
        self
    }

    /// Answers a `Range` request with another total length.
    #[must_use]
    pub fn with_total(mut self, bytes: u64) -> Self {
        self.range = RangeBehaviour::Total(bytes);
        self
    }

    /// Sends another `ETag` than that of the class.
    #[must_use]
    pub fn with_etag(mut self, etag: &str) -> Self {
        self.tag = Tag::Stated(etag.to_owned());
        self
    }

    /// Sends neither `ETag` nor `Last-Modified`.
    #[must_use]
    pub fn without_validators(mut self) -> Self {
        self.tag = Tag::None;
        self
    }

    /// Adds a header, or replaces the correct one of this name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends this `Content-Length`, which may be wrong. If the body is shorter, the connection is
    /// closed with a FIN after it.
    #[must_use]
    pub fn stating_length(mut self, length: u64) -> Self {
        self.framing = Framing::Stated(length);
        self
    }

    /// Sends no `Content-Length`: the end of the connection ends the body.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self
    }

    /// Uses the chunked transfer coding.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked { ended: true };
        self
    }

    /// Uses the chunked transfer coding and never sends the last chunk.
    #[must_use]
    pub fn chunked_without_end(mut self) -> Self {
        self.framing = Framing::Chunked { ended: false };
        self
    }

    /// Closes the connection after the answer, without a `Connection: close` header.
    #[must_use]
    pub fn hanging_up(mut self) -> Self {
        self.ending = Ending::HangUp;
        self
    }

    /// Closes the connection instead of answering the next request on it.
    #[must_use]
    pub fn hanging_up_on_the_next(mut self) -> Self {
        self.ending = Ending::HangUpOnNext;
        self
    }

    /// After this answer the class has another tar with another `ETag`.
    #[must_use]
    pub fn then_replaced_by(mut self, tar: impl Content + 'static) -> Self {
        self.replaced_by = Some(Arc::new(tar));
        self
    }

    fn with_body(mut self, body: impl Content + 'static) -> Self {
        self.body = Some(Arc::new(body));
        self
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Answer")
            .field("status", &self.status)
            .field("framing", &self.framing)
            .field("ending", &self.ending)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

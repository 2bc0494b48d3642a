//! One scripted answer of the origin: honest in all that the script leaves alone.

use std::{fmt, sync::Arc, time::Duration};

use crate::content::Content;

/// An answer. [`Answer::plain`] is the honest one; each method spoils one thing.
#[derive(Clone, Default)]
pub struct Answer {
    /// `None`: 200 or 206, as the request asks.
    pub(crate) status: Option<u16>,
    /// Added, or put in the place of the honest ones.
    pub(crate) headers: Vec<(String, String)>,
    /// `None`: the class's tar.
    pub(crate) body: Option<Arc<dyn Content>>,
    pub(crate) framing: Framing,
    pub(crate) ending: Ending,
    pub(crate) drip: Option<(usize, Duration)>,
    pub(crate) range: RangeManners,
    pub(crate) head: HeadManners,
    pub(crate) tag: Tag,
    pub(crate) replaced_by: Option<Arc<dyn Content>>,
}

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The right `Content-Length`.
    #[default]
    Honest,
    /// This `Content-Length`, whatever is sent.
    Stated(u64),
    /// Not at all: the connection ends.
    UntilClose,
    /// In chunks, and the last one may be missing.
    Chunked { ended: bool },
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Kept for the next request.
    #[default]
    KeepAlive,
    /// Closed after the answer, which does not say so.
    HangUp,
    /// Kept, but the next request on it is answered by closing it.
    HangUpOnNext,
    /// Closed in an orderly way after so many bytes of the body.
    CutAt(u64),
    /// Reset after so many bytes of the body.
    ResetAt(u64),
    /// Silent after so many bytes of the body, until the client goes.
    StallAt(u64),
}

/// How a `Range` is understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RangeManners {
    #[default]
    Honest,
    /// 200 and all of the tar.
    Ignored,
    /// 206 although `If-Range` names another version.
    Unconditional,
    /// 206 only where `If-Range` is the `Last-Modified`.
    ByDate,
    /// The whole as a part: 206 with the `Content-Range` of all of the tar.
    WholeCalledPart,
    /// The right part with its `Content-Range`, but as 200.
    CalledWhole,
    /// 206, but of a part that begins so many bytes later than asked for, and says so.
    StartsLate(u64),
    /// 206 with this total length.
    Total(u64),
}

/// Which validators are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The class's.
    #[default]
    Honest,
    /// This `ETag`.
    Stated(String),
    /// None at all.
    None,
}

/// How the head is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum HeadManners {
    #[default]
    Honest,
    /// Nothing is ever sent.
    Silent,
    /// Header lines without end.
    Endless,
    /// A header of so many bytes more.
    Padded(usize),
}

impl Answer {
    /// The honest answer.
    pub fn plain() -> Self {
        Self::default()
    }

    /// A status, with a short text as its body.
    pub fn status(code: u16) -> Self {
        Self { status: Some(code), ..Self::default() }.with_body(format!("status {code}\n").into_bytes())
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(seconds: u64) -> Self {
        Self::status(429).header("Retry-After", &seconds.to_string())
    }

    /// 302 to a `Location`.
    pub fn redirect(location: &str) -> Self {
        Self::status(302).header("Location", location)
    }

    /// 200 with a page, as a login or a maintenance page comes.
    pub fn html() -> Self {
        let page = "<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>URL not valid</body></html>\n";
        Self::body(page.as_bytes().to_vec()).header("Content-Type", "text/html; charset=utf-8")
    }

    /// 200 with other bytes than the class's tar.
    pub fn body(bytes: impl Content + 'static) -> Self {
        Self { range: RangeManners::Ignored, ..Self::default() }.with_body(bytes)
    }

    /// Closed in an orderly way after so many bytes of this answer's body.
    pub fn cut_at(bytes: u64) -> Self {
        Self { ending: Ending::CutAt(bytes), ..Self::default() }
    }

    /// Reset after so many bytes of this answer's body.
    pub fn reset_at(bytes: u64) -> Self {
        Self { ending: Ending::ResetAt(bytes), ..Self::default() }
    }

    /// Silent after so many bytes of this answer's body.
    pub fn stall_at(bytes: u64) -> Self {
        Self { ending: Ending::StallAt(bytes), ..Self::default() }
    }

    /// So many bytes at a time, with a pause after each.
    pub fn drip(bytes: usize, every: Duration) -> Self {
        Self { drip: Some((bytes, every)), ..Self::default() }
    }

    /// Takes the request and answers nothing.
    pub fn silence() -> Self {
        Self { head: HeadManners::Silent, ..Self::default() }
    }

    /// Header lines without end.
    pub fn endless_header() -> Self {
        Self { head: HeadManners::Endless, ..Self::default() }
    }

    /// An honest answer whose head is so many bytes longer.
    pub fn padded_header(bytes: usize) -> Self {
        Self { head: HeadManners::Padded(bytes), ..Self::default() }
    }

    /// A `Range` is answered with 200 and all of the tar.
    #[must_use]
    pub fn ignoring_range(mut self) -> Self {
        self.range = RangeManners::Ignored;
        self
    }

    /// A `Range` is answered with 206 although the version has changed.
    #[must_use]
    pub fn ignoring_if_range(mut self) -> Self {
        self.range = RangeManners::Unconditional;
        self
    }

    /// A `Range` with the `ETag` as its condition is answered with 200 and all of the tar, one with the `Last-Modified` with 206.
    #[must_use]
    pub fn honouring_dates_only(mut self) -> Self {
        self.range = RangeManners::ByDate;
        self
    }

    /// All of the tar is sent with 206 and its `Content-Range`, whatever is asked for.
    #[must_use]
    pub fn calling_the_whole_a_part(mut self) -> Self {
        self.range = RangeManners::WholeCalledPart;
        self
    }

    /// A `Range` is answered with the part that is asked for, but with 200.
    #[must_use]
    pub fn calling_a_part_whole(mut self) -> Self {
        self.range = RangeManners::CalledWhole;
        self
    }

    /// A `Range` is answered with a part that begins later than asked for.
    #[must_use]
    pub fn starting_late(mut self, bytes: u64) -> Self {
        self.range = RangeManners::StartsLate(bytes);
        self
    }

    /// A `Range` is answered with another total length.
    #[must_use]
    pub fn with_total(mut self, bytes: u64) -> Self {
        self.range = RangeManners::Total(bytes);
        self
    }

    /// Another `ETag` than the class's.
    #[must_use]
    pub fn with_etag(mut self, etag: &str) -> Self {
        self.tag = Tag::Stated(etag.to_owned());
        self
    }

    /// Neither `ETag` nor `Last-Modified`.
    #[must_use]
    pub fn without_validators(mut self) -> Self {
        self.tag = Tag::None;
        self
    }

    /// A header more, or in the place of the honest one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A `Content-Length` that need not be right. The body that is too short for it is followed by an orderly close.
    #[must_use]
    pub fn stating_length(mut self, length: u64) -> Self {
        self.framing = Framing::Stated(length);
        self
    }

    /// No `Content-Length`: the body ends with the connection.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self
    }

    /// In chunks.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked { ended: true };
        self
    }

    /// In chunks, the last of which never comes.
    #[must_use]
    pub fn chunked_without_end(mut self) -> Self {
        self.framing = Framing::Chunked { ended: false };
        self
    }

    /// The connection is closed after the answer, which does not say so.
    #[must_use]
    pub fn hanging_up(mut self) -> Self {
        self.ending = Ending::HangUp;
        self
    }

    /// The next request on the connection gets no answer but its end.
    #[must_use]
    pub fn hanging_up_on_the_next(mut self) -> Self {
        self.ending = Ending::HangUpOnNext;
        self
    }

    /// Once this answer is given the class has another tar, with another `ETag`.
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

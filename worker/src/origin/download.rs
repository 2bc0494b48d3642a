//! One tar as a sequence of pieces, whatever happens to the connections underneath.
//!
//! Invariant: the bytes handed out since the last [`Piece::Begin`] are a prefix of one version of the tar.

use std::{
    error::Error as _,
    io, iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Response, header};
use shared::origin_address::origin_address;
use tokio::{task::yield_now, time::Instant};
use url::Url;

use crate::source::shown;
use crate::{
    origin::{
        Opened, Origin, Part, Question,
        attempts::Attempts,
        download_error::DownloadError,
        limiter::{Priority, Transfer},
        retry::refuses_the_rest_only,
    },
    source::Source,
};

/// Slower than this, averaged over half of `--timeout`, is as good as dead.
const SLOWEST_BYTES_PER_SECOND: f64 = 1024.0;
/// What comes next of a tar.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The tar begins (again): forget what came before.
    Begin(Source),
    /// The bytes that follow.
    Bytes(Bytes),
    /// All of the announced length has come, or the origin ended a body of unknown length.
    End,
}

/// Where a download is to end, unless the tar ends before: a position, which may change while it runs. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Until(Arc<AtomicU64>);

impl Default for Until {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Until {
    pub(crate) fn set(&self, position: u64) {
        self.0.store(position, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A download that survives its connections.
#[derive(Debug)]
pub(crate) struct Download<'origin> {
    origin: &'origin Origin,
    url: Url,
    retries: u32,
    source: Option<Source>,
    /// The rest is asked for by `Last-Modified`, because by `ETag` it did not come.
    by_date: bool,
    position: u64,
    until: Until,
    transfer: Option<Transfer>,
    /// Where the body that comes ends, if it ends before the tar.
    asked_until: u64,
    priority: Option<Priority>,
    floor: SpeedFloor,
    attempts: Attempts,
}

impl<'origin> Download<'origin> {
    /// Prepares a download; `resume`: the version of which so many bytes are already here.
    pub(crate) fn new(origin: &'origin Origin, url: Url, retries: u32, resume: Option<(Source, u64)>) -> Self {
        let (source, position) = resume.map_or((None, 0), |(source, position)| (Some(source), position));
        let floor = SpeedFloor::new(origin.timeout() / 2);
        let attempts = Attempts::beyond(position);
        Self {
            origin,
            url,
            retries,
            by_date: source.as_ref().is_some_and(|source: &Source| source.by_date),
            source,
            position,
            until: Until::default(),
            transfer: None,
            asked_until: u64::MAX,
            priority: None,
            floor,
            attempts,
        }
    }

    /// Only the bytes before a position are wanted. Where that is known when a connection is made, no others are asked for.
    pub(crate) fn end_at(&mut self, until: Until) {
        self.until = until;
    }

    /// Lets others go first, or not.
    pub(crate) fn set_priority(&mut self, priority: Priority) {
        self.priority = Some(priority);
    }

    /// Goes on at a position: where it is, or where the unpacker has got to by other means.
    pub(crate) fn go_to(&mut self, position: u64) {
        if position != self.position {
            self.transfer = None;
            self.position = position;
            self.attempts = Attempts::beyond(position);
        }
    }

    /// From now on asks for the rest by `Last-Modified`.
    pub(crate) fn ask_by_date(&mut self) {
        self.by_date = true;
        if let Some(source) = &mut self.source {
            source.by_date = true;
        }
    }

    /// Whether it asks for the rest by `Last-Modified` although there is an `ETag`.
    pub(crate) fn asks_by_date(&self) -> bool {
        self.by_date
    }

    /// Whether the open connection brings more than was wanted so far.
    pub(crate) fn can_go_on(&self) -> bool {
        self.transfer.is_some()
    }

    /// Does without the open connection, which is closed at once and not only when there is nothing else to do.
    pub(crate) async fn hang_up(&mut self) {
        self.transfer = None;
        yield_now().await;
    }

    /// Whether the version that it began with is still what it fetches.
    pub(crate) fn is_under_way(&self) -> bool {
        self.source.is_some()
    }

    /// The next piece. An error is final: whatever could help has been tried.
    ///
    /// Cancel safe in the sense that a dropped call loses at most bytes that the next connection asks for again.
    pub(crate) async fn next(&mut self) -> Result<Piece, DownloadError> {
        loop {
            if let Some(piece) = self.step().await? {
                return Ok(piece);
            }
        }
    }

    /// The next piece, or one step on the way to it.
    pub(crate) async fn step(&mut self) -> Result<Option<Piece>, DownloadError> {
        if self.is_complete() {
            return Ok(Some(Piece::End));
        }
        let step = match self.transfer.take() {
            None => self.connect().await,
            Some(transfer) => self.read(transfer).await,
        };
        match step {
            Err(error) => self.wait_or_give_up(error).await.map(|()| None),
            step => step,
        }
    }

    /// The tar turned out to be incomplete although its body ended: starts anew if attempts are left.
    pub(crate) async fn begin_again(&mut self) -> Result<(), DownloadError> {
        let cut = DownloadError::Cut { received: self.position, length: None };
        self.forget();
        self.origin.failed(&cut);
        self.wait_or_give_up(cut).await
    }

    fn is_complete(&self) -> bool {
        let length = self.source.as_ref().and_then(|source| source.length);
        length.is_some_and(|length| self.position >= length.min(self.until.get()))
    }

    fn forget(&mut self) {
        self.source = None;
        self.position = 0;
        self.transfer = None;
    }

    /// Opens a connection where the last one broke; `None`: it goes on there.
    async fn connect(&mut self) -> Result<Option<Piece>, DownloadError> {
        if self.source.as_ref().is_some_and(|source| source.validator().is_none()) {
            self.forget();
        }
        let known = self.source.as_ref().map(|source| (source, self.position));
        let length = self.source.as_ref().and_then(|source| source.length);
        let until = Some(self.until.get()).filter(|until| length.is_some_and(|length| *until < length));
        self.asked_until = until.unwrap_or(u64::MAX);
        let priority = self.priority.unwrap_or(if known.is_some() { Priority::GoingOn } else { Priority::New });
        let mut opened = match self.origin.open(&self.url, known, until, priority).await {
            Err(error) if known.is_some() && refuses_the_rest_only(&error) => {
                self.forget();
                return Ok(None);
            }
            opened => opened?,
        };
        self.learn_from(&opened);
        opened.source.by_date = self.by_date;
        self.floor.restart();
        match (opened.part, &self.source) {
            (Part::Whole, _) => {
                self.position = 0;
                self.source = Some(opened.source.clone());
                self.transfer = Some(opened.transfer);
                Ok(Some(Piece::Begin(opened.source)))
            }
            (Part::From(from), Some(source)) if from == self.position && source.is_continued_by(&opened.source) => {
                self.transfer = Some(opened.transfer);
                Ok(None)
            }
            // Another part, or of another version: never a mix. The next request asks for all of it.
            (Part::From(_) | Part::Unclear, Some(_)) => {
                self.forget();
                Ok(None)
            }
            (Part::From(_) | Part::Unclear, None) => Err(DownloadError::Connection {
                why: format!("{} sent a part of the tar when asked for all of it", origin_address(&self.url)),
            }),
        }
    }

    /// Finds out that the origin does not go on by the `ETag` although it has the same version.
    fn learn_from(&mut self, opened: &Opened) {
        let Some(source) = &self.source else { return };
        let goes_on = match opened.part {
            Part::Whole => false,
            Part::From(from) => from != self.position || source.is_continued_by(&opened.source),
            Part::Unclear => true,
        };
        if !goes_on && source.was_asked_in_vain_by_tag(&opened.source) {
            tracing::info!(
                url = %shown(&self.url),
                "the origin did not send the rest by its ETag, although Last-Modified and length are the same: if this \
                 connection breaks too, the rest is asked for by Last-Modified"
            );
            self.by_date = true;
        }
    }

    async fn read(&mut self, mut transfer: Transfer) -> Result<Option<Piece>, DownloadError> {
        transfer.room().await;
        // While the transfer still has its permit, so that nobody is let in whom this keeps out.
        let received = self.receive(&mut transfer).await.inspect_err(|error| self.origin.failed(error))?;
        let Some(mut bytes) = received else { return Ok(Some(Piece::End)) };
        let wanted = usize::try_from(self.until.get().saturating_sub(self.position)).unwrap_or(usize::MAX);
        let is_wanted = bytes.len() <= wanted;
        bytes.truncate(wanted);
        self.position += bytes.len() as u64;
        let length = self.source.as_ref().and_then(|source| source.length);
        self.attempts.received(self.position, length);
        // With its last byte the connection is free for others.
        let ends = length.map_or(u64::MAX, |length| length.min(self.asked_until));
        self.transfer = (is_wanted && self.position < ends).then_some(transfer);
        Ok(Some(Piece::Bytes(bytes)))
    }

    /// The next bytes of a body; `None` at the end of one whose length nobody has said.
    async fn receive(&mut self, transfer: &mut Transfer) -> Result<Option<Bytes>, DownloadError> {
        let started = Instant::now();
        let chunk = tokio::time::timeout(self.origin.timeout(), transfer.chunk()).await;
        let length = self.source.as_ref().and_then(|source| source.length);
        let cut = DownloadError::Cut { received: self.position, length };
        match chunk {
            Err(_) => Err(DownloadError::Timeout { after: self.origin.timeout() }),
            Ok(Err(error)) if error.is_timeout() => Err(DownloadError::Timeout { after: self.origin.timeout() }),
            // TLS that was not closed in an orderly way. Whether this was the end, the tar tells.
            Ok(Err(error)) if ends_with_connection(transfer.response()) && is_end_of_connection(&error) => Ok(None),
            Ok(Err(error)) => {
                tracing::debug!(url = %shown(&self.url), %error, "connection broke");
                Err(cut)
            }
            Ok(Ok(None)) if length.is_some() => Err(cut),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(bytes))) => {
                self.floor.check(bytes.len(), started.elapsed())?;
                Ok(Some(bytes))
            }
        }
    }

    async fn wait_or_give_up(&mut self, error: DownloadError) -> Result<(), DownloadError> {
        self.transfer = None;
        self.attempts.wait_or_give_up(error, &self.url, self.retries, &self.origin.retries).await
    }
}

/// Whether the body of an answer has no other end than that of its connection (RFC 9112 §6.3).
fn ends_with_connection(response: &Response) -> bool {
    let headers = response.headers();
    !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// Whether a connection was closed, and neither reset nor broken in another way.
fn is_end_of_connection(error: &reqwest::Error) -> bool {
    let mut causes = iter::successors(error.source(), |cause| (**cause).source());
    causes.any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    })
}

/// Asks for a tar's length and validators with a `GET`, as often as for the tar itself.
pub(crate) async fn describe(origin: &Origin, url: &Url, retries: u32) -> Result<Source, DownloadError> {
    let mut attempts = Attempts::default();
    loop {
        match origin.describe(url, Question::FirstByte).await {
            Ok(source) => return Ok(source),
            Err(error) => attempts.wait_or_give_up(error, url, retries, &origin.retries).await?,
        }
    }
}

/// A floor under the speed of one connection, over the time spent waiting for the origin and not for our own disk.
#[derive(Debug)]
struct SpeedFloor {
    window: Duration,
    waited: Duration,
    received: usize,
}

impl SpeedFloor {
    fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, received: 0 }
    }

    fn restart(&mut self) {
        *self = Self::new(self.window);
    }

    fn check(&mut self, bytes: usize, waited: Duration) -> Result<(), DownloadError> {
        self.received += bytes;
        self.waited += waited;
        if self.waited < self.window {
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "compared with a rough floor")]
        let rate = self.received as f64 / self.waited.as_secs_f64();
        self.restart();
        if rate < SLOWEST_BYTES_PER_SECOND { Err(DownloadError::TooSlow { over: self.window }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_an_average_over_the_window() {
        let mut floor = SpeedFloor::new(Duration::from_mins(1));
        for _ in 0..59 {
            assert!(floor.check(1, Duration::from_secs(1)).is_ok());
        }
        assert_eq!(
            floor.check(1, Duration::from_secs(1)),
            Err(DownloadError::TooSlow { over: Duration::from_mins(1) })
        );
        assert!(floor.check(61 << 10, Duration::from_mins(1)).is_ok());
    }
}

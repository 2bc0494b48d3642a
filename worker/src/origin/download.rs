//! Downloads one tar as a sequence of pieces. Interrupted connections are replaced and resumed.
//!
//! Invariant: the bytes returned since the last [`Piece::Begin`] are a prefix of one version of the
//! tar.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use reqwest::{Response, header};
use shared::{origin_address::origin_address, telemetry::trace};
use tokio::{task::yield_now, time::Instant};
use url::Url;

use crate::{
    origin::{
        Origin, Question,
        attempts::Attempts,
        client_error::causes,
        download_error::DownloadError,
        limiter::{Priority, Transfer},
        retry::refuses_only_the_range,
        speed_floor::SpeedFloor,
    },
    source::{BodyRange, Source, shown},
};

/// The next part of a tar's byte sequence.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The tar begins, again if pieces came before: those must be discarded.
    Begin(Source),
    /// The bytes that follow.
    Bytes(Bytes),
    /// All of the announced length was received, or the origin ended a body of unknown length.
    End,
}

/// The position at which a download ends if the tar is longer. It may change while the download
/// runs. Clones share it.
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

/// A download that survives interrupted connections.
#[derive(Debug)]
pub(crate) struct Download<'origin> {
    origin: &'origin Origin,
    url: Url,
    retries: u32,
    source: Option<Source>,
    /// The rest is requested with `Last-Modified`, because the origin did not honour the `ETag`.
    pub(crate) by_date: bool,
    position: u64,
    until: Until,
    transfer: Option<Transfer>,
    /// The end of the range that the current request asks for; `u64::MAX` without an end.
    asked_until: u64,
    /// The priority of the requests; `None`: continued transfers before new ones.
    pub(crate) priority: Option<Priority>,
    floor: SpeedFloor,
    attempts: Attempts,
}

impl<'origin> Download<'origin> {
    /// Prepares a download of the bytes before `until`; a request that is sent after a change of
    /// `until` does not ask for bytes after it. `resume`: the version of the tar, and how many of
    /// its bytes are already here.
    pub(crate) fn new(
        origin: &'origin Origin,
        url: Url,
        retries: u32,
        resume: Option<(Source, u64)>,
        until: Until,
    ) -> Self {
        let (source, position) = resume.unzip();
        let position = position.unwrap_or_default();
        Self {
            origin,
            url,
            retries,
            by_date: source.as_ref().is_some_and(|source| source.by_date),
            source,
            position,
            until,
            transfer: None,
            asked_until: u64::MAX,
            priority: None,
            floor: SpeedFloor::new(origin.timeout / 2),
            attempts: Attempts::starting_at(position),
        }
    }

    /// Continues at a position. The open connection is kept only if the position is unchanged; the
    /// unpacker may have received bytes from another connection.
    pub(crate) fn go_to(&mut self, position: u64) {
        if position != self.position {
            self.transfer = None;
            self.position = position;
            self.attempts = Attempts::starting_at(position);
        }
    }

    /// Whether a connection is open that can deliver further bytes.
    pub(crate) fn can_go_on(&self) -> bool {
        self.transfer.is_some()
    }

    /// Closes the open connection. Yields to the runtime, so that the connection's task closes it
    /// at once.
    pub(crate) async fn hang_up(&mut self) {
        self.transfer = None;
        yield_now().await;
    }

    /// Whether the version of the tar is known, so that the download continues it.
    pub(crate) fn is_under_way(&self) -> bool {
        self.source.is_some()
    }

    /// The next piece. An error is final: all retries were made.
    ///
    /// Cancel safe: a dropped call loses at most bytes that the next connection requests again.
    pub(crate) async fn next(&mut self) -> Result<Piece, DownloadError> {
        loop {
            if let Some(piece) = self.step().await? {
                return Ok(piece);
            }
        }
    }

    /// Makes one step: returns the next piece, or `None` if a further step is needed.
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

    /// Starts anew if retries are left: the body ended, but the tar in it is incomplete.
    pub(crate) async fn begin_again(&mut self) -> Result<(), DownloadError> {
        let cut = DownloadError::Cut {
            received: self.position,
            length: None,
        };
        self.reset();
        self.origin.failed(&cut);
        self.wait_or_give_up(cut).await
    }

    fn is_complete(&self) -> bool {
        self.length()
            .is_some_and(|length| self.position >= length.min(self.until.get()))
    }

    /// The length of the tar, if the origin has announced it.
    fn length(&self) -> Option<u64> {
        self.source.as_ref()?.length
    }

    fn reset(&mut self) {
        self.source = None;
        self.position = 0;
        self.transfer = None;
    }

    /// Opens a connection at the current position. `None`: the body continues there, or the next
    /// request starts anew.
    async fn connect(&mut self) -> Result<Option<Piece>, DownloadError> {
        if let Some(source) = &mut self.source {
            source.by_date = self.by_date;
            if source.validator().is_none() {
                self.reset();
            }
        }
        let length = self.length();
        let until =
            Some(self.until.get()).filter(|until| length.is_some_and(|length| *until < length));
        self.asked_until = until.unwrap_or(u64::MAX);
        let known = self.source.as_ref().map(|source| (source, self.position));
        let usual = known.map_or(Priority::New, |_| Priority::GoingOn);
        let priority = self.priority.unwrap_or(usual);
        trace::attempt(self.position);
        let mut opened = match self.origin.open(&self.url, known, until, priority).await {
            Err(error) if known.is_some() && refuses_only_the_range(&error) => {
                self.reset();
                return Ok(None);
            }
            opened => opened?,
        };
        self.floor.restart();
        let is_whole = opened.body == BodyRange::Whole;
        let is_rest = opened.body == BodyRange::From(self.position);
        if let Some(source) = &self.source {
            if is_rest && source.is_continued_by(&opened.source) {
                trace::resumed(self.position);
                self.transfer = Some(opened.transfer);
                return Ok(None);
            }
            if (is_whole || is_rest) && source.etag_is_ignored_by(&opened.source) {
                tracing::info!(
                    url = %shown(&self.url),
                    "the origin did not send the rest by its ETag, although Last-Modified and length are the same: if \
                     this connection breaks too, the rest is asked for by Last-Modified"
                );
                self.by_date = true;
            }
        }
        if is_whole {
            opened.source.by_date = self.by_date;
            self.position = 0;
            self.source = Some(opened.source.clone());
            self.transfer = Some(opened.transfer);
            return Ok(Some(Piece::Begin(opened.source)));
        }
        if self.source.is_none() {
            let address = origin_address(&self.url);
            return Err(DownloadError::Connection {
                why: format!("{address} sent a part of the tar when asked for all of it"),
            });
        }
        // Another range or another version: never mix versions. The next request asks for the whole
        // tar.
        self.reset();
        Ok(None)
    }

    async fn read(&mut self, mut transfer: Transfer) -> Result<Option<Piece>, DownloadError> {
        transfer.wait_for_rate().await;
        // The permit is still held when a failure is counted, so no request that the failure would
        // delay is admitted before that.
        let received = self
            .receive(&mut transfer)
            .await
            .inspect_err(|error| self.origin.failed(error))?;
        let Some(mut bytes) = received else {
            return Ok(Some(Piece::End));
        };
        let wanted = self.until.get().saturating_sub(self.position);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let is_wanted = bytes.len() <= wanted;
        bytes.truncate(wanted);
        self.position += bytes.len() as u64;
        let length = self.length();
        self.attempts.received(self.position, length);
        // Release the connection with the last byte.
        let ends = length.map_or(u64::MAX, |length| length.min(self.asked_until));
        self.transfer = (is_wanted && self.position < ends).then_some(transfer);
        Ok(Some(Piece::Bytes(bytes)))
    }

    /// The next bytes of a body; `None` at the end of a body of unknown length.
    async fn receive(&mut self, transfer: &mut Transfer) -> Result<Option<Bytes>, DownloadError> {
        let started = Instant::now();
        let after = self.origin.timeout;
        let length = self.length();
        let cut = DownloadError::Cut {
            received: self.position,
            length,
        };
        match tokio::time::timeout(after, transfer.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.floor.check(bytes.len(), started.elapsed())?;
                Ok(Some(bytes))
            }
            Ok(Ok(None)) if length.is_none() => Ok(None),
            Ok(Ok(None)) => Err(cut),
            Err(_) => Err(DownloadError::Timeout { after }),
            Ok(Err(error)) if error.is_timeout() => Err(DownloadError::Timeout { after }),
            // TLS without `close_notify`. The end marker of the tar decides whether the body was
            // complete.
            Ok(Err(error))
                if ends_with_connection(transfer.response()) && is_end_of_connection(&error) =>
            {
                Ok(None)
            }
            Ok(Err(error)) => {
                tracing::debug!(url = %shown(&self.url), %error, "connection broke");
                Err(cut)
            }
        }
    }

    async fn wait_or_give_up(&mut self, error: DownloadError) -> Result<(), DownloadError> {
        self.transfer = None;
        self.attempts
            .wait_or_give_up(error, &self.url, self.retries, self.origin)
            .await
    }
}

/// Whether only the end of the connection delimits the body (RFC 9112 §6.3).
fn ends_with_connection(response: &Response) -> bool {
    let headers = response.headers();
    !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// Whether a connection was closed, rather than reset or broken in another way.
fn is_end_of_connection(error: &reqwest::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// Requests a tar's length and validators with a `GET`. Retries are the same as for the tar itself.
pub(crate) async fn describe(
    origin: &Origin,
    url: &Url,
    retries: u32,
) -> Result<Source, DownloadError> {
    let mut attempts = Attempts::default();
    loop {
        let error = match origin.describe(url, Question::FirstByte).await {
            Err(error) => error,
            described => return described,
        };
        attempts
            .wait_or_give_up(error, url, retries, origin)
            .await?;
    }
}

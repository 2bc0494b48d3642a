//! When a connection is ended: an answer has a time limit as a whole, a stream one for each time
//! that its client takes no bytes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, sleep_until},
};

/// Limit from the head of a request until the last byte of its answer is in the system's send
/// buffer. Prometheus times out after 10 s by default.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit for which a stream may wait until its client takes bytes.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The deadline of a connection; `None` while a stream waits for its program and not for its
/// client.
#[derive(Debug)]
pub(super) struct Deadline {
    at: watch::Sender<Option<Instant>>,
    is_stream: AtomicBool,
}

impl Deadline {
    /// The deadline of a new connection.
    pub(super) fn new() -> Self {
        Self {
            at: watch::Sender::new(Some(Instant::now() + ANSWER_TIMEOUT)),
            is_stream: AtomicBool::new(false),
        }
    }

    /// The head of a request was received.
    pub(super) fn answer_begins(&self) {
        self.at.send_replace(Some(Instant::now() + ANSWER_TIMEOUT));
    }

    /// The answer is a stream. It is the last one of its connection.
    pub(super) fn stream_begins(&self) {
        self.is_stream.store(true, Ordering::Relaxed);
        self.at.send_replace(None);
    }

    fn wrote(&self, progress: bool) {
        if !self.is_stream.load(Ordering::Relaxed) {
            return;
        }
        self.at.send_if_modified(|at| {
            let changes = at.is_some() == progress;
            if changes {
                *at = (!progress).then(|| Instant::now() + STALL_TIMEOUT);
            }
            changes
        });
    }

    /// Waits for the deadline, which may change meanwhile.
    pub(super) async fn expired(&self) {
        let mut changes = self.at.subscribe();
        loop {
            let end = *changes.borrow_and_update();
            if end.is_some_and(|end| end <= Instant::now()) {
                return;
            }
            let expiry = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expiry => {}
                // The sender lives as long as `self`.
                _ = changes.changed() => {}
            }
        }
    }
}

/// A connection that reports to its deadline whether the client takes bytes.
#[derive(Debug)]
pub(super) struct WatchedWrites<IO> {
    io: IO,
    deadline: Arc<Deadline>,
}

impl<IO> WatchedWrites<IO> {
    pub(super) fn new(io: IO, deadline: Arc<Deadline>) -> Self {
        Self { io, deadline }
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }

    fn report<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.deadline.wrote(written.is_ready());
        Poll::Ready(ready!(written))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for WatchedWrites<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WatchedWrites<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.report(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.report(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// TLS writes its records here, so a flush waits for the client too.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.report(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.io).poll_shutdown(context);
        self.report(ended)
    }
}

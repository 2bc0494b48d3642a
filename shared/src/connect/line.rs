//! The byte stream of a connection, with or without TLS. It records the reason for which the other
//! side closed the connection, which HTTP/2 reports only as a generic error.

use std::{
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// First byte of the alert with which a TLS server answers anything but a handshake.
const TLS_ALERT: u8 = 21;

/// A byte stream with or without TLS.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// The reason for which the other side closed the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// A TLS server received plaintext.
    SpeaksTls,
    /// A TLS alert after the end of the handshake on the client's side. In TLS 1.3 a server
    /// verifies the client's certificate only then.
    Alert(AlertDescription),
}

/// The close reason of the newest connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct LastCloseReason(Arc<Mutex<Option<CloseReason>>>);

impl LastCloseReason {
    pub(super) fn get(&self) -> Option<CloseReason> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called when a new connection begins.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn set(&self, reason: CloseReason) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }
}

/// A byte stream that records its close reason.
pub(super) struct RecordingStream<L> {
    stream: L,
    close_reason: LastCloseReason,
    /// Whether no byte was received yet. The first one tells whether the other side is a TLS
    /// server.
    is_first: bool,
}

impl<L> RecordingStream<L> {
    /// In plaintext. A TLS alert differs from HTTP/2, whose first byte is the high byte of a small
    /// length.
    pub(super) fn plain(stream: L, close_reason: LastCloseReason) -> Self {
        Self {
            stream,
            close_reason,
            is_first: true,
        }
    }

    /// After the TLS handshake.
    pub(super) fn encrypted(stream: L, close_reason: LastCloseReason) -> Self {
        Self {
            stream,
            close_reason,
            is_first: false,
        }
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for RecordingStream<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match &read {
            Ok(()) => {
                if mem::take(&mut self.is_first) && buffer.filled().get(before) == Some(&TLS_ALERT)
                {
                    self.close_reason.set(CloseReason::SpeaksTls);
                }
            }
            Err(error) => {
                if let Some(alert) = alert(error) {
                    self.close_reason.set(CloseReason::Alert(alert));
                }
            }
        }
        Poll::Ready(read)
    }
}

/// The alert that ended a connection, if an alert ended it.
pub(super) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for RecordingStream<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

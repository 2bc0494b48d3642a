//! The byte stream of a connection, with or without TLS. It records the reason for which the other
//! side closed the connection, which HTTP/2 reports only as a generic error.

use std::{
    io, mem,
    sync::{Arc, Mutex},
};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{lock::lock, observed_stream::StreamObserver};

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
        *lock(&self.0)
    }

    /// `None` when a new connection begins.
    pub(super) fn set(&self, reason: Option<CloseReason>) {
        *lock(&self.0) = reason;
    }
}

/// Records the close reason of a byte stream.
pub(super) struct CloseReasonObserver {
    close_reason: LastCloseReason,
    /// Whether the stream is plaintext and no byte was received yet. The first one tells whether
    /// the other side is a TLS server: its alert differs from HTTP/2, whose first byte is the high
    /// byte of a small length.
    awaits_first: bool,
}

impl CloseReasonObserver {
    pub(super) fn new(is_plaintext: bool, close_reason: LastCloseReason) -> Self {
        Self {
            close_reason,
            awaits_first: is_plaintext,
        }
    }
}

impl StreamObserver for CloseReasonObserver {
    fn after_read(&mut self, read: Result<&[u8], &io::Error>) -> io::Result<()> {
        let reason = match read {
            Ok(bytes) => {
                let is_alert =
                    mem::take(&mut self.awaits_first) && bytes.first() == Some(&TLS_ALERT);
                is_alert.then_some(CloseReason::SpeaksTls)
            }
            Err(error) => alert(error).map(CloseReason::Alert),
        };
        if reason.is_some() {
            self.close_reason.set(reason);
        }
        Ok(())
    }
}

/// The alert that ended a connection, if an alert ended it.
pub(super) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

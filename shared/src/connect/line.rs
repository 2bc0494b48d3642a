//! What a connection is made of: with TLS or without, it listens for a last word of the other side that HTTP/2 would make a
//! riddle of.

use std::{
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first byte of what a TLS server answers to something else than a handshake.
const TLS_ALERT: u8 = 21;

/// With TLS or without.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// What the other side said before it hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// In TLS, to plaintext.
    SpeaksTls,
    /// After the handshake, as the client sees it: in TLS 1.3 a server looks at the client's certificate only then.
    Alert(AlertDescription),
}

/// The last word on the newest connection; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWord(Arc<Mutex<Option<Word>>>);

impl LastWord {
    pub(super) fn get(&self) -> Option<Word> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection begins.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn set(&self, word: Word) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(word);
    }
}

/// A line that listens for a last word.
pub(super) struct Attentive<L> {
    line: L,
    last_word: LastWord,
    /// The first byte is still to come, and may be that of a TLS server.
    is_first: bool,
}

impl<L> Attentive<L> {
    /// In plaintext. TLS is told apart from HTTP/2, whose first byte is that of a small length.
    pub(super) fn plain(line: L, last_word: LastWord) -> Self {
        Self { line, last_word, is_first: true }
    }

    /// After the handshake.
    pub(super) fn encrypted(line: L, last_word: LastWord) -> Self {
        Self { line, last_word, is_first: false }
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for Attentive<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.line).poll_read(context, buffer));
        match &read {
            Ok(()) => {
                if mem::take(&mut self.is_first) && buffer.filled().get(before) == Some(&TLS_ALERT) {
                    self.last_word.set(Word::SpeaksTls);
                }
            }
            Err(error) => {
                if let Some(alert) = alert(error) {
                    self.last_word.set(Word::Alert(alert));
                }
            }
        }
        Poll::Ready(read)
    }
}

/// The alert that ended a connection, if it was one.
pub(super) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for Attentive<L> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.is_write_vectored()
    }
}

//! A byte stream with an observer, which sees what is read and may end the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Observes a byte stream. An error of a method becomes that of the operation.
pub trait StreamObserver: Unpin {
    /// Called before each read, write and flush.
    ///
    /// # Errors
    /// If the connection has to be closed.
    fn before(&mut self, _: &mut Context<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Called after each read, with the bytes or the error.
    ///
    /// # Errors
    /// If the connection has to be closed.
    fn after_read(&mut self, _: Result<&[u8], &io::Error>) -> io::Result<()> {
        Ok(())
    }

    /// Called after each complete flush.
    fn after_flush(&mut self) {}
}

/// A byte stream with its observer.
#[derive(Debug)]
pub struct ObservedStream<S, O> {
    stream: S,
    /// Dropped after the stream.
    observer: O,
}

impl<S, O> ObservedStream<S, O> {
    /// Reports to `observer` what happens on `stream`.
    pub fn new(stream: S, observer: O) -> Self {
        Self { stream, observer }
    }
}

impl<S, O: Connected> Connected for ObservedStream<S, O> {
    type ConnectInfo = O::ConnectInfo;

    fn connect_info(&self) -> O::ConnectInfo {
        self.observer.connect_info()
    }
}

impl<S: AsyncRead + Unpin, O: StreamObserver> AsyncRead for ObservedStream<S, O> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.observer.before(context)?;
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let seen = read.as_ref().map(|()| &buffer.filled()[before..]);
        self.observer.after_read(seen)?;
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin, O: StreamObserver> AsyncWrite for ObservedStream<S, O> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.observer.before(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.observer.before(context)?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.observer.after_flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.observer.before(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

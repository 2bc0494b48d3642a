//! A connection from outside, with or without TLS. It counts the bytes that it carries. It is
//! closed when [`Connections`] cuts it or when its peer sends requests without reading responses.
//!
//! [`Connections`]: super::connections::Connections

use std::{
    future::Future as _,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll, ready},
};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{
    either::Either,
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};
use tonic::transport::server::Connected;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{
    Role,
    connections::{Begun, ConnectionEntry, MAX_COST},
    frame_cost::FrameCost,
};

/// What the connection itself shows about its peer. It is stored in the extensions of each request.
#[derive(Debug, Clone)]
pub struct Peer(Arc<PeerFacts>);

/// The shared state behind a [`Peer`].
#[derive(Debug)]
struct PeerFacts {
    address: IpAddr,
    /// Names in the verified certificate.
    names: Option<Arc<[String]>>,
    entry: ConnectionEntry,
    /// Bytes of request messages whose calls are not answered yet.
    request_bytes: Arc<AtomicUsize>,
}

impl Peer {
    /// The peer of a new connection.
    pub(super) fn new(address: IpAddr, names: Option<Vec<String>>, entry: ConnectionEntry) -> Self {
        Self(Arc::new(PeerFacts {
            address,
            names: names.map(Into::into),
            entry,
            request_bytes: Arc::default(),
        }))
    }

    /// The counter of request bytes whose calls are not answered yet.
    pub(crate) fn request_bytes(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0.request_bytes)
    }

    pub(super) fn address(&self) -> IpAddr {
        self.0.address
    }

    /// The names in its certificate, if it has shown one.
    pub(super) fn names(&self) -> Option<Arc<[String]>> {
        self.0.names.clone()
    }

    /// The peer has shown a valid credential for this role; `revoked` is cancelled when it is
    /// revoked.
    pub(super) fn admit(&self, role: Role, revoked: &CancellationToken) {
        self.0.entry.admit(role, revoked, Instant::now());
    }

    /// Whether no valid credential was shown yet, or the last one was revoked.
    pub(super) fn is_pending(&self) -> bool {
        self.0.entry.is_pending()
    }

    /// Counts a call of an admitted connection until the returned value is dropped.
    ///
    /// # Errors
    /// If the connection has too many calls already.
    pub(super) fn call(&self) -> Result<Option<OpenCall>, TooManyCalls> {
        match self.0.entry.begin_call(Instant::now()) {
            Begun::CallMetricsLayer => Ok(Some(OpenCall(self.clone()))),
            Begun::Uncounted => Ok(None),
            Begun::TooMany => Err(TooManyCalls),
        }
    }
}

/// An observer's connection has too many concurrent calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooManyCalls;

/// A call on a connection, from its head to the last byte of its response.
#[derive(Debug)]
pub(super) struct OpenCall(Peer);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.0.entry.end_call(Instant::now());
    }
}

/// Removes the entry when the connection is closed, even while one of its calls is still being
/// answered.
struct Registered(Peer);

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.0.entry.remove();
    }
}

/// A connection from outside.
pub struct Connection {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    /// Dropped after the stream.
    peer: Registered,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    frames: FrameCost,
    /// Cost of what an admitted peer has sent since the last complete flush of responses.
    unanswered: u64,
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, address: IpAddr, entry: ConnectionEntry) -> Self {
        Self::new(Either::Left(stream), address, None, entry)
    }

    /// A connection after its TLS handshake.
    pub(super) fn encrypted(
        stream: TlsStream<TcpStream>,
        address: IpAddr,
        entry: ConnectionEntry,
    ) -> Self {
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let names = certificate.map(names);
        Self::new(Either::Right(stream), address, names, entry)
    }

    fn new(
        stream: Either<TcpStream, TlsStream<TcpStream>>,
        address: IpAddr,
        names: Option<Vec<String>>,
        entry: ConnectionEntry,
    ) -> Self {
        let cut = Box::pin(entry.cut().clone().cancelled_owned());
        let peer = Registered(Peer::new(address, names, entry));
        Self {
            stream,
            peer,
            cut,
            frames: FrameCost::default(),
            unanswered: 0,
        }
    }

    /// Returns an error when the connection has to be closed.
    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Counts bytes that were read. Returns an error if they exceed a limit.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        let cost = self.frames.of(bytes);
        let entry = &self.peer.0.0.entry;
        if self.peer.0.is_pending() {
            entry.charge(cost);
            self.unanswered = 0;
        } else {
            self.unanswered += cost;
        }
        if entry.cut().is_cancelled() || self.unanswered > MAX_COST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    }
}

/// The common name and the DNS names. A certificate that cannot be parsed has no names: the
/// handshake has verified it, so it is unusual but not forged.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let common = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    let dns = alternative.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    common.chain(dns).map(str::to_owned).collect()
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.0.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.count(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.unanswered = 0;
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
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

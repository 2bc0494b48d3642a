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
    task::{Context, Poll},
};

use rustls::pki_types::CertificateDer;
use shared::observed_stream::{ObservedStream, StreamObserver};
use tokio::{net::TcpStream, time::Instant};
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
    connections::{ConnectionEntry, MAX_COST, TooManyCalls},
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
        let is_counted = self.0.entry.begin_call(Instant::now())?;
        Ok(is_counted.then(|| OpenCall(self.clone())))
    }
}

/// A call on a connection, from its head to the last byte of its response.
#[derive(Debug)]
pub(super) struct OpenCall(Peer);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.0.entry.end_call(Instant::now());
    }
}

/// A connection from outside.
pub type Connection = ObservedStream<Either<TcpStream, TlsStream<TcpStream>>, ConnectionObserver>;

pub(super) fn plain(stream: TcpStream, address: IpAddr, entry: ConnectionEntry) -> Connection {
    let peer = Peer::new(address, None, entry);
    Connection::new(Either::Left(stream), ConnectionObserver::new(peer))
}

/// A connection after its TLS handshake.
pub(super) fn encrypted(
    stream: TlsStream<TcpStream>,
    address: IpAddr,
    entry: ConnectionEntry,
) -> Connection {
    let certificates = stream.get_ref().1.peer_certificates();
    let names = certificates.and_then(|chain| chain.first()).map(names);
    let peer = Peer::new(address, names, entry);
    Connection::new(Either::Right(stream), ConnectionObserver::new(peer))
}

/// Counts what a connection carries, and ends it when it has to be closed.
#[derive(Debug)]
pub struct ConnectionObserver {
    peer: Peer,
    must_close: Pin<Box<WaitForCancellationFutureOwned>>,
    frames: FrameCost,
    /// Cost of what an admitted peer has sent since the last complete flush of responses.
    unanswered: u64,
}

impl ConnectionObserver {
    fn new(peer: Peer) -> Self {
        Self {
            must_close: Box::pin(peer.0.entry.close_token().clone().cancelled_owned()),
            peer,
            frames: FrameCost::default(),
            unanswered: 0,
        }
    }
}

impl Drop for ConnectionObserver {
    /// Removes the entry when the connection is closed, even while one of its calls is still being
    /// answered.
    fn drop(&mut self) {
        self.peer.0.entry.remove();
    }
}

impl StreamObserver for ConnectionObserver {
    fn before(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.must_close.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn after_read(&mut self, read: Result<&[u8], &io::Error>) -> io::Result<()> {
        let cost = self.frames.of(read.unwrap_or_default());
        let entry = &self.peer.0.entry;
        if self.peer.is_pending() {
            entry.charge(cost);
            self.unanswered = 0;
        } else {
            self.unanswered += cost;
        }
        if entry.close_token().is_cancelled() || self.unanswered > MAX_COST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    }

    fn after_flush(&mut self) {
        self.unanswered = 0;
    }
}

impl Connected for ConnectionObserver {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
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

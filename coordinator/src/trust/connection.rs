//! A connection from outside: with TLS or without, cut when it has sat in the lobby for too long.

use std::{
    future::Future as _,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::lobby::Seat;

/// Who is at the other end, as far as the connection itself tells. Goes with each of its requests.
#[derive(Debug, Clone)]
pub struct Peer(Arc<PeerFacts>);

#[derive(Debug)]
struct PeerFacts {
    address: IpAddr,
    /// Those of a certificate that was verified.
    names: Option<Arc<[String]>>,
    seat: Seat,
}

impl Peer {
    pub(super) fn address(&self) -> IpAddr {
        self.0.address
    }

    /// The names in its certificate, if it has shown one.
    pub(super) fn names(&self) -> Option<Arc<[String]>> {
        self.0.names.clone()
    }

    /// It has proved who it is.
    pub(super) fn admit(&self) {
        self.0.seat.leave();
    }
}

/// The seat of a connection that is there: free once it is closed, also while a call that came by it is still being answered.
struct Seated(Peer);

impl Drop for Seated {
    fn drop(&mut self) {
        self.0.0.seat.leave();
    }
}

/// A connection from outside.
pub struct Connection {
    line: Either<TcpStream, TlsStream<TcpStream>>,
    /// Dropped after the line.
    peer: Seated,
    /// While it is in the lobby.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Connection {
    pub(super) fn plain(line: TcpStream, address: IpAddr, seat: Seat) -> Self {
        Self::new(Either::Left(line), address, None, seat)
    }

    /// After the handshake.
    pub(super) fn encrypted(line: TlsStream<TcpStream>, address: IpAddr, seat: Seat) -> Self {
        let certificate = line.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let names = certificate.map(names);
        Self::new(Either::Right(line), address, names, seat)
    }

    fn new(
        line: Either<TcpStream, TlsStream<TcpStream>>,
        address: IpAddr,
        names: Option<Vec<String>>,
        seat: Seat,
    ) -> Self {
        let cut = Some(Box::pin(seat.cut.clone().cancelled_owned()));
        let peer = Seated(Peer(Arc::new(PeerFacts { address, names: names.map(Into::into), seat })));
        Self { line, peer, cut }
    }

    /// An error when it has to go.
    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(cut) = &mut self.cut else { return Ok(()) };
        if self.peer.0.0.seat.has_left() {
            self.cut = None;
        } else if cut.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// The common name and the DNS names. What cannot be read has no name: the handshake has verified it, so it is odd rather
/// than forged.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.iter().flat_map(|extension| &extension.value.general_names);
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
        Pin::new(&mut self.line).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
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
        self.poll_cut(context)?;
        Pin::new(&mut self.line).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.is_write_vectored()
    }
}

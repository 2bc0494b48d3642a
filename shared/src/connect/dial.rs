//! One connection to a coordinator: TCP, then the handshake in which the server proves itself.

use std::{
    error::Error,
    io, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{ClientConfig, InvalidMessage, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::Service as _;

/// For both parts together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The first byte of what a TLS server answers to something else than a handshake.
const TLS_ALERT: u8 = 21;

/// How a connection is made.
#[derive(Debug, Clone)]
pub(super) enum Security {
    Tls(Arc<ClientConfig>),
    /// Plaintext; set when the other side turns out to speak TLS.
    Plaintext(Arc<AtomicBool>),
}

/// What a connection is made of, with TLS or without.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connect: {0}")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    #[error("connect: no answer for {}s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the TLS handshake: {0}")]
    Handshake(io::Error),
    /// Somebody else answers there, or the proof is out of date.
    #[error(
        "the coordinator could not prove itself ({0}): give this cluster's token with --token-file, or its authority with --tls-ca"
    )]
    Untrusted(rustls::Error),
    #[error("the coordinator speaks TLS: give --connect https://…")]
    SpeaksTls,
    #[error("the coordinator speaks plaintext: give --connect http://… if that is as it should be")]
    SpeaksPlaintext,
}

/// A plaintext line that looks at the first byte of the answer. Told apart from HTTP/2, whose first byte is that of a small
/// length, so that a wrong address is no riddle.
struct Plaintext {
    line: TcpStream,
    speaks_tls: Arc<AtomicBool>,
    is_first: bool,
}

impl AsyncRead for Plaintext {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.line).poll_read(context, buffer))?;
        if mem::take(&mut self.is_first) && buffer.filled().get(before) == Some(&TLS_ALERT) {
            self.speaks_tls.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Plaintext {
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

pub(super) async fn dial(address: Uri, security: Security) -> Result<TokioIo<Box<dyn Line>>, DialError> {
    timeout(CONNECT_TIMEOUT, connect(address, security)).await.unwrap_or(Err(DialError::Timeout))
}

async fn connect(address: Uri, security: Security) -> Result<TokioIo<Box<dyn Line>>, DialError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let line = connector.call(address).await.map_err(|error| DialError::Connect(error.into()))?.into_inner();
    let tls = match security {
        Security::Tls(tls) => tls,
        Security::Plaintext(speaks_tls) => {
            return Ok(TokioIo::new(Box::new(Plaintext { line, speaks_tls, is_first: true })));
        }
    };
    let name = ServerName::try_from(host).map_err(|error| DialError::Connect(error.into()))?;
    match TlsConnector::from(tls).connect(name, line).await {
        Ok(line) => Ok(TokioIo::new(Box::new(line))),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(untrusted @ rustls::Error::InvalidCertificate(_)) => DialError::Untrusted(untrusted.clone()),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => DialError::SpeaksPlaintext,
        _ => DialError::Handshake(error),
    }
}

/// Whether a call failed because the two do not fit: the server could not prove that it is the coordinator, or one of them
/// speaks TLS and the other does not. Nothing was sent to it then that it could read as a call.
pub fn mismatched(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return match error {
                DialError::Untrusted(_) | DialError::SpeaksTls | DialError::SpeaksPlaintext => true,
                DialError::Connect(_) | DialError::Timeout | DialError::Handshake(_) => false,
            };
        }
        source = error.source();
    }
    false
}

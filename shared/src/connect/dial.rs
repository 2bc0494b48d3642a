//! One connection to a coordinator: TCP, then the handshake in which the server proves itself.

use std::{error::Error, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::Service as _;

/// For both parts together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a connection is made of, with TLS or without.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connect: {0}")]
    Connect(Box<dyn Error + Send + Sync>),
    #[error("connect: no answer for {}s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the TLS handshake: {0}")]
    Handshake(std::io::Error),
    /// Somebody else answers there, or the proof is out of date.
    #[error("the coordinator could not prove itself ({0})")]
    Untrusted(rustls::Error),
}

pub(super) async fn dial(address: Uri, tls: Option<Arc<ClientConfig>>) -> Result<TokioIo<Box<dyn Line>>, DialError> {
    timeout(CONNECT_TIMEOUT, connect(address, tls)).await.unwrap_or(Err(DialError::Timeout))
}

async fn connect(address: Uri, tls: Option<Arc<ClientConfig>>) -> Result<TokioIo<Box<dyn Line>>, DialError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let line = connector.call(address).await.map_err(|error| DialError::Connect(error.into()))?.into_inner();
    let Some(tls) = tls else { return Ok(TokioIo::new(Box::new(line))) };
    let name = ServerName::try_from(host).map_err(|error| DialError::Connect(error.into()))?;
    match TlsConnector::from(tls).connect(name, line).await {
        Ok(line) => Ok(TokioIo::new(Box::new(line))),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: std::io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(untrusted @ rustls::Error::InvalidCertificate(_)) => DialError::Untrusted(untrusted.clone()),
        _ => DialError::Handshake(error),
    }
}

/// Whether a call failed because the server could not prove that it is the coordinator. Nothing was sent to it then.
pub fn untrusted(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if matches!(error.downcast_ref(), Some(DialError::Untrusted(_))) {
            return true;
        }
        source = error.source();
    }
    false
}

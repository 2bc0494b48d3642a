//! Makes one connection to a coordinator: TCP, then the TLS handshake, which authenticates the
//! server.

use std::{
    error::Error,
    io, iter,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
    vec,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, pki_types::ServerName,
};
use tokio::{task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;
use tower::Service as _;

use super::line::{ByteStream, CloseReason, CloseReasonObserver, LastCloseReason, alert};
use crate::{observed_stream::ObservedStream, outcome::printable_within, threads};

/// Limit for the TCP connection and the TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Reasons for which a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    #[error("connect: no answer for {}s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the TLS handshake: {0}")]
    Handshake(io::Error),
    #[error("the coordinator ended the connection: {}", rustls::Error::AlertReceived(*.0))]
    Alert(AlertDescription),
    /// The coordinator rejects this program's certificate: it has expired, or another authority
    /// signed it.
    #[error(
        "the coordinator refuses this program's certificate ({0}): give another with --tls-cert and --tls-key"
    )]
    CertificateRefused(&'static str),
    /// Another server answers at the address, or the credentials are outdated.
    #[error(
        "the coordinator could not prove itself ({0}): give this cluster's token with --token-file, or its authority with --tls-ca"
    )]
    Untrusted(rustls::Error),
    /// The certificate is signed by the right authority, but for other names.
    #[error(
        "the coordinator's certificate is for other names ({0}): give one of them with --connect, or make another where it \
         runs, with `coordinator init --advertise` and this name"
    )]
    OtherName(rustls::Error),
    #[error(
        "the coordinator's certificate is not valid now ({0}): make another where it runs, with `coordinator init`, or set \
         this machine's clock"
    )]
    OutOfDate(rustls::Error),
    #[error("the coordinator speaks TLS: give --connect https://…")]
    SpeaksTls,
    #[error("the coordinator speaks plaintext: give --connect http://… if that is as it should be")]
    SpeaksPlaintext,
}

impl From<CloseReason> for DialError {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::SpeaksTls => Self::SpeaksTls,
            CloseReason::Alert(alert) => Self::CertificateRefused(match alert {
                AlertDescription::CertificateExpired => "it has ended",
                AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                    "it is not by the authority of its --tls-client-ca"
                }
                AlertDescription::CertificateRevoked => "it was revoked",
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::AccessDenied => "it is not one that it takes; its log says why",
                other => return Self::Alert(other),
            }),
        }
    }
}

/// Makes a connection, with TLS if it has a configuration.
pub(super) async fn dial(
    address: Uri,
    tls: Option<Arc<ClientConfig>>,
    close_reason: LastCloseReason,
) -> Result<TokioIo<Box<dyn ByteStream>>, DialError> {
    close_reason.set(None);
    timeout(CONNECT_TIMEOUT, connect(address, tls, close_reason))
        .await
        .unwrap_or(Err(DialError::Timeout))
}

async fn connect(
    address: Uri,
    tls: Option<Arc<ClientConfig>>,
    close_reason: LastCloseReason,
) -> Result<TokioIo<Box<dyn ByteStream>>, DialError> {
    let mut connector = HttpConnector::new_with_resolver(tower::service_fn(resolve));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let host = address
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let line = connector
        .call(address)
        .await
        .map_err(|error| DialError::Connect(error.into()))?
        .into_inner();
    let observer = CloseReasonObserver::new(tls.is_none(), close_reason);
    let Some(tls) = tls else {
        return Ok(TokioIo::new(Box::new(ObservedStream::new(line, observer))));
    };
    let name = ServerName::try_from(host).map_err(|error| DialError::Connect(error.into()))?;
    let line = TlsConnector::from(tls).connect(name, line).await;
    let line = line.map_err(refusal)?;
    Ok(TokioIo::new(Box::new(ObservedStream::new(line, observer))))
}

/// Resolves a name on a thread of its own. The runtime of the heartbeats has no other threads, and
/// must not wait for those of a pool.
async fn resolve(name: Name) -> io::Result<vec::IntoIter<SocketAddr>> {
    let mut lookup = JoinSet::new();
    let work = move || (name.as_str(), 0).to_socket_addrs();
    threads::start(&mut lookup, "lookup", work).map_err(io::Error::other)?;
    lookup
        .join_next()
        .await
        .expect("it was started")
        .map_err(io::Error::other)?
}

fn refusal(error: io::Error) -> DialError {
    if let Some(alert) = alert(&error) {
        return CloseReason::Alert(alert).into();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(invalid @ rustls::Error::InvalidCertificate(why)) => {
            let of_kind = match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => DialError::OutOfDate,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => DialError::OtherName,
                _ => DialError::Untrusted,
            };
            of_kind(invalid.clone())
        }
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            DialError::SpeaksPlaintext
        }
        _ => DialError::Handshake(error),
    }
}

/// Whether the call was never sent: its connection had ended without this being noticed. The call
/// may be retried at once on a new connection.
pub fn was_not_sent(status: &tonic::Status) -> bool {
    let error = sources(status).find_map(|error| error.downcast_ref::<hyper::Error>());
    error.is_some_and(hyper::Error::is_canceled)
}

/// The errors behind a status, from the outermost one.
fn sources(status: &tonic::Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(status.source(), |&error| error.source())
}

/// Whether a call failed because client and server do not match: the server could not authenticate
/// itself, or it rejects the program's certificate, or only one of them uses TLS. The server then
/// received nothing that it could read as a call.
pub fn mismatched(status: &tonic::Status) -> bool {
    let error = sources(status).find_map(|error| error.downcast_ref());
    error.is_some_and(|error| match error {
        DialError::Untrusted(_)
        | DialError::OtherName(_)
        | DialError::OutOfDate(_)
        | DialError::CertificateRefused(_)
        | DialError::SpeaksTls
        | DialError::SpeaksPlaintext => true,
        DialError::Connect(_)
        | DialError::Timeout
        | DialError::Handshake(_)
        | DialError::Alert(_) => false,
    })
}

/// Generic messages of the layers in between, which are left out.
const GENERIC_MESSAGES: [&str; 5] = [
    "transport error",
    "connect",
    "tcp connect error",
    "connection error",
    "operation was canceled",
];

/// Maximum length of a displayed reason, in bytes.
const MAX_REASON: usize = 2000;

/// Why a call failed: the coordinator's message, or the chain of errors down to that of the
/// operating system. Unprintable characters are escaped.
pub fn reason(status: &tonic::Status) -> String {
    printable_within(&raw_reason(status), MAX_REASON)
}

fn raw_reason(status: &tonic::Status) -> String {
    let mut parts = Vec::<String>::new();
    let mut innermost = None;
    for error in sources(status) {
        let part = error.to_string();
        // Many errors repeat the messages of their sources.
        if !GENERIC_MESSAGES.contains(&part.as_str())
            && !parts.iter().any(|outer| outer.contains(&part))
        {
            parts.retain(|outer| !part.contains(outer));
            parts.push(part.clone());
        }
        innermost = Some(part);
    }
    if !parts.is_empty() {
        return parts.join(": ");
    }
    innermost
        .filter(|_| GENERIC_MESSAGES.contains(&status.message()))
        .unwrap_or_else(|| status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_includes_the_root_cause_and_repeats_nothing() {
        let refused = io::Error::from_raw_os_error(111);
        let status = tonic::Status::from_error(Box::new(tonic::ConnectError(
            DialError::Connect(refused.into()).into(),
        )));
        assert_eq!(reason(&status), "Connection refused (os error 111)");
        let status = tonic::Status::from_error(Box::new(tonic::ConnectError(
            DialError::SpeaksPlaintext.into(),
        )));
        assert_eq!(reason(&status), DialError::SpeaksPlaintext.to_string());
        assert_eq!(reason(&tonic::Status::unavailable("not yet")), "not yet");
        assert_eq!(
            reason(&tonic::Status::unavailable("a\u{1b}]0;b\u{202e}\nc")),
            "a\\u{1b}]0;b\\u{202e}\\nc"
        );
        let escaped = "\\u{9b}";
        let longest = escaped.repeat(MAX_REASON / escaped.len());
        assert_eq!(
            reason(&tonic::Status::unavailable("\u{9b}".repeat(9999))),
            longest
        );
    }

    #[test]
    fn an_expired_server_certificate_is_distinguished_from_other_failures() {
        for (error, words) in [
            (CertificateError::Expired, "make another where it runs"),
            (CertificateError::NotValidYet, "set this machine's clock"),
            (CertificateError::UnknownIssuer, "give this cluster's token"),
            (
                CertificateError::NotValidForName,
                "`coordinator init --advertise` and this name",
            ),
        ] {
            let error = rustls::Error::InvalidCertificate(error);
            let said = refusal(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_rejected_client_certificate_is_distinguished_from_other_alerts() {
        for (alert, words) in [
            (
                AlertDescription::CertificateExpired,
                "(it has ended): give another with --tls-cert",
            ),
            (
                AlertDescription::UnknownCA,
                "not by the authority of its --tls-client-ca",
            ),
            (
                AlertDescription::InternalError,
                "ended the connection: received fatal alert",
            ),
        ] {
            let error = DialError::from(CloseReason::Alert(alert)).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

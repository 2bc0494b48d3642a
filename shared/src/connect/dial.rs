//! One connection to a coordinator: TCP, then the handshake in which the server proves itself.

use std::{
    error::Error,
    io,
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
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, pki_types::ServerName};
use tokio::{task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;
use tower::Service as _;

use super::line::{Attentive, LastWord, Line, Word, alert};
use crate::{outcome::printable_within, threads};

/// For both parts together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How a connection is made.
#[derive(Debug, Clone)]
pub(super) enum Security {
    Tls(Arc<ClientConfig>),
    Plaintext,
}

/// Why there is no connection.
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
    /// Ours: out of date, or by somebody else.
    #[error("the coordinator refuses this program's certificate ({0}): give another with --tls-cert and --tls-key")]
    CertificateRefused(&'static str),
    /// Somebody else answers there, or the proof is out of date.
    #[error(
        "the coordinator could not prove itself ({0}): give this cluster's token with --token-file, or its authority with --tls-ca"
    )]
    Untrusted(rustls::Error),
    /// The right authority, and an address that it does not speak for.
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

impl From<Word> for DialError {
    fn from(word: Word) -> Self {
        match word {
            Word::SpeaksTls => Self::SpeaksTls,
            Word::Alert(AlertDescription::CertificateExpired) => Self::CertificateRefused("it has ended"),
            Word::Alert(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
                Self::CertificateRefused("it is not by the authority of its --tls-client-ca")
            }
            Word::Alert(AlertDescription::CertificateRevoked) => Self::CertificateRefused("it was revoked"),
            Word::Alert(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::AccessDenied,
            ) => Self::CertificateRefused("it is not one that it takes; its log says why"),
            Word::Alert(other) => Self::Alert(other),
        }
    }
}

pub(super) async fn dial(
    address: Uri,
    security: Security,
    last_word: LastWord,
) -> Result<TokioIo<Box<dyn Line>>, DialError> {
    last_word.clear();
    timeout(CONNECT_TIMEOUT, connect(address, security, last_word)).await.unwrap_or(Err(DialError::Timeout))
}

async fn connect(address: Uri, security: Security, last_word: LastWord) -> Result<TokioIo<Box<dyn Line>>, DialError> {
    let mut connector = HttpConnector::new_with_resolver(tower::service_fn(resolve));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let line = connector.call(address).await.map_err(|error| DialError::Connect(error.into()))?.into_inner();
    let tls = match security {
        Security::Tls(tls) => tls,
        Security::Plaintext => return Ok(TokioIo::new(Box::new(Attentive::plain(line, last_word)))),
    };
    let name = ServerName::try_from(host).map_err(|error| DialError::Connect(error.into()))?;
    match TlsConnector::from(tls).connect(name, line).await {
        Ok(line) => Ok(TokioIo::new(Box::new(Attentive::encrypted(line, last_word)))),
        Err(error) => Err(refusal(error)),
    }
}

/// Looks a name up on a thread of its own: the renewals' runtime has no other threads, and must not
/// wait for those of a pool.
async fn resolve(name: Name) -> io::Result<vec::IntoIter<SocketAddr>> {
    let mut lookup = JoinSet::new();
    let work = move || (name.as_str(), 0).to_socket_addrs();
    threads::start(&mut lookup, "lookup", work).map_err(io::Error::other)?;
    lookup.join_next().await.expect("it was started").map_err(io::Error::other)?
}

fn refusal(error: io::Error) -> DialError {
    if let Some(alert) = alert(&error) {
        return Word::Alert(alert).into();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(
            ended @ rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ),
        ) => DialError::OutOfDate(ended.clone()),
        Some(
            other @ rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ),
        ) => DialError::OtherName(other.clone()),
        Some(untrusted @ rustls::Error::InvalidCertificate(_)) => DialError::Untrusted(untrusted.clone()),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => DialError::SpeaksPlaintext,
        _ => DialError::Handshake(error),
    }
}

/// Whether the call never left this program: its connection had come to its end, and nobody knew. Another one may carry it at
/// once.
pub fn was_not_sent(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_canceled();
        }
        source = error.source();
    }
    false
}

/// Whether a call failed because the two do not fit: the server could not prove that it is the coordinator, or refuses the
/// program's certificate, or one of them speaks TLS and the other does not. Nothing was sent to it then that it could read as a call.
pub fn mismatched(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return match error {
                DialError::Untrusted(_)
                | DialError::OtherName(_)
                | DialError::OutOfDate(_)
                | DialError::CertificateRefused(_)
                | DialError::SpeaksTls
                | DialError::SpeaksPlaintext => true,
                DialError::Connect(_) | DialError::Timeout | DialError::Handshake(_) | DialError::Alert(_) => false,
            };
        }
        source = error.source();
    }
    false
}

/// What the layers between say of their own, and nobody needs.
const NOISE: [&str; 5] =
    ["transport error", "connect", "tcp connect error", "connection error", "operation was canceled"];

/// Bytes of a reason that are shown.
const LONGEST_REASON: usize = 2000;

/// Why a call failed: what the coordinator said, or what stood in the way, down to what the
/// operating system said. What is not printable is escaped.
pub fn reason(status: &tonic::Status) -> String {
    printable_within(&raw_reason(status), LONGEST_REASON)
}

fn raw_reason(status: &tonic::Status) -> String {
    let (mut parts, mut innermost) = (Vec::<String>::new(), None);
    let mut source = status.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Many repeat the words of those below them.
        if !NOISE.contains(&part.as_str()) && !parts.iter().any(|outer| outer.contains(&part)) {
            parts.retain(|outer| !part.contains(outer));
            parts.push(part.clone());
        }
        innermost = Some(part);
        source = error.source();
    }
    match parts.as_slice() {
        [] => innermost.filter(|_| NOISE.contains(&status.message())).unwrap_or_else(|| status.message().to_owned()),
        parts => parts.join(": "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_to_its_root_and_once() {
        let refused = io::Error::from_raw_os_error(111);
        let status =
            tonic::Status::from_error(Box::new(tonic::ConnectError(DialError::Connect(refused.into()).into())));
        assert_eq!(reason(&status), "Connection refused (os error 111)");
        let status = tonic::Status::from_error(Box::new(tonic::ConnectError(DialError::SpeaksPlaintext.into())));
        assert_eq!(reason(&status), DialError::SpeaksPlaintext.to_string());
        assert_eq!(reason(&tonic::Status::unavailable("not yet")), "not yet");
        assert_eq!(reason(&tonic::Status::unavailable("a\u{1b}]0;b\u{202e}\nc")), "a\\u{1b}]0;b\\u{202e}\\nc");
        let escaped = "\\u{9b}";
        let longest = escaped.repeat(LONGEST_REASON / escaped.len());
        assert_eq!(reason(&tonic::Status::unavailable("\u{9b}".repeat(9999))), longest);
    }

    #[test]
    fn a_server_that_is_out_of_date_is_told_from_another() {
        for (error, words) in [
            (CertificateError::Expired, "make another where it runs"),
            (CertificateError::NotValidYet, "set this machine's clock"),
            (CertificateError::UnknownIssuer, "give this cluster's token"),
            (CertificateError::NotValidForName, "`coordinator init --advertise` and this name"),
        ] {
            let error = rustls::Error::InvalidCertificate(error);
            let said = refusal(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_refused_certificate_is_told_from_another_end() {
        for (alert, words) in [
            (AlertDescription::CertificateExpired, "(it has ended): give another with --tls-cert"),
            (AlertDescription::UnknownCA, "not by the authority of its --tls-client-ca"),
            (AlertDescription::InternalError, "ended the connection: received fatal alert"),
        ] {
            let error = DialError::from(Word::Alert(alert)).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

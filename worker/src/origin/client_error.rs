//! Turns an error of the HTTP client into a [`DownloadError`] with a sentence that names host and
//! port.
//!
//! The cause is found by downcasting along the chain of sources, never by matching text.

use std::{
    error::Error,
    io::{self, ErrorKind},
    iter,
};

use rustls::{
    AlertDescription, CertificateError, Error as TlsError, InvalidMessage, pki_types::UnixTime,
};
use shared::{origin_address::origin_address, outcome::printable_within};
use url::Url;

use crate::origin::{
    allowed_addresses::RefusedAddress,
    download_error::DownloadError,
    lookup::LookupFailed,
    proxies::{Proxies, shown_proxy},
    redirect::RefusedRedirect,
};

/// Largest number of bytes of a library's message, used where this module has no sentence for the
/// cause.
const LONGEST_DETAIL: usize = 300;
/// Largest number of names of a certificate in a message.
const MAX_NAMES: usize = 3;
const CHECK_SCHEME: &str = "check http:// or https:// and the port in --url";
const CHECK_CLOCK: &str = "(or this host's clock is wrong)";
const GIVE_AUTHORITY: &str =
    "if it is the right one, give its authority (or the certificate itself) with --cacert";

/// A request that received no answer.
struct FailedRequest<'request> {
    /// Scheme, host and port, and the proxy if there is one.
    address: String,
    url: Option<&'request Url>,
    /// It failed before a connection was established.
    is_connect: bool,
    is_timeout: bool,
}

/// Classifies an error of the HTTP client. `proxies`: those of the environment.
pub(crate) fn from_client(error: &reqwest::Error, proxies: &Proxies) -> DownloadError {
    let url = error.url();
    let mut address = url.map_or_else(|| "the origin".to_owned(), origin_address);
    if let Some(Ok(Some(proxy))) = url.map(|url| proxies.for_url(url)) {
        address = format!("{address} through the proxy {}", shown_proxy(&proxy));
    }
    let request = FailedRequest {
        address,
        url,
        is_connect: error.is_connect(),
        is_timeout: error.is_timeout(),
    };
    request.classify(error)
}

impl FailedRequest<'_> {
    fn classify(&self, error: &(dyn Error + 'static)) -> DownloadError {
        let address = &self.address;
        if let Some(classified) = causes(error).find_map(|cause| self.of_cause(cause)) {
            return classified;
        }
        let why = match self.is_connect {
            true if self.is_timeout => format!("no connection to {address}: no answer in time"),
            true => format!("no connection to {address}: {}", detail(error)),
            false => format!("no answer of {address}: {}", detail(error)),
        };
        DownloadError::Connection { why }
    }

    /// Classifies one cause; `None`: it is no failure that has a sentence of its own.
    fn of_cause(&self, cause: &(dyn Error + 'static)) -> Option<DownloadError> {
        if let Some(refused) = cause.downcast_ref::<RefusedRedirect>() {
            return Some(refused.clone().into());
        }
        if let Some(tls) = cause.downcast_ref::<TlsError>() {
            return Some(self.tls_error(tls));
        }
        let address = &self.address;
        let why = if cause.is::<LookupFailed>() || cause.is::<RefusedAddress>() {
            format!("no connection to {address}: {cause}")
        } else if let Some(http) = cause.downcast_ref::<hyper::Error>() {
            if http.is_parse() {
                let hint = if self.is_https() {
                    ""
                } else {
                    " (does it speak TLS?)"
                };
                format!("the answer of {address} is no HTTP{hint}")
            } else {
                self.closed().filter(|_| http.is_incomplete_message())?
            }
        } else {
            let io = cause.downcast_ref::<io::Error>()?;
            match io.kind() {
                ErrorKind::UnexpectedEof => self.closed()?,
                // An `io::Error` that wraps another error has less information than the wrapped
                // one.
                _ if io.raw_os_error().is_none() => return None,
                kind if self.is_connect => {
                    format!("no connection to {address}: {}", describe(kind))
                }
                kind => format!(
                    "connection to {address} broke before an answer: {}",
                    describe(kind)
                ),
            }
        };
        Some(DownloadError::Connection { why })
    }

    /// The sentence for a connection that the other side has closed; `None` if there is none.
    fn closed(&self) -> Option<String> {
        let address = &self.address;
        match (self.is_connect, self.is_https()) {
            (true, true) => Some(format!(
                "no connection to {address}: closed in the TLS handshake (does it speak plain HTTP?)"
            )),
            (true, false) => None,
            (false, _) => Some(format!(
                "{address} closed the connection before it answered"
            )),
        }
    }

    fn is_https(&self) -> bool {
        self.url.is_some_and(|url| url.scheme() == "https")
    }

    fn tls_error(&self, error: &TlsError) -> DownloadError {
        let address = &self.address;
        let fault = match error {
            TlsError::InvalidCertificate(certificate) => {
                let host = self.url.and_then(Url::host_str).unwrap_or_default();
                return DownloadError::Certificate {
                    why: format!("{address}: {}", of_certificate(certificate, host)),
                };
            }
            TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
                return DownloadError::Scheme {
                    why: format!("{address} answers without TLS; {CHECK_SCHEME}"),
                };
            }
            TlsError::AlertReceived(
                AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
            )
            | TlsError::PeerIncompatible(_) => {
                "it has no protocol version or cipher in common with this program".to_owned()
            }
            TlsError::AlertReceived(AlertDescription::UnrecognisedName) => {
                "it does not serve that name; check the host in --url".to_owned()
            }
            TlsError::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied,
            ) => "it asks for a client certificate, which this program cannot give".to_owned(),
            TlsError::AlertReceived(alert) => format!("it refused with the alert {alert:?}"),
            other => printable_within(&other.to_string(), LONGEST_DETAIL),
        };
        DownloadError::Connection {
            why: format!("no TLS connection to {address}: {fault}"),
        }
    }
}

/// An error and its sources, outermost first. `io::Error::source` skips the error that it wraps, so
/// the wrapped error is taken with `get_ref`.
pub(super) fn causes<'error>(
    error: &'error (dyn Error + 'static),
) -> impl Iterator<Item = &'error (dyn Error + 'static)> {
    iter::successors(Some(error), |error| {
        let error: &'error (dyn Error + 'static) = *error;
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

fn describe(kind: ErrorKind) -> String {
    let text = match kind {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            "reset by the other side"
        }
        ErrorKind::HostUnreachable => "the host cannot be reached",
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => "its network cannot be reached",
        ErrorKind::TimedOut => "no answer in time",
        ErrorKind::AddrNotAvailable => "this host has no address or port left for it",
        ErrorKind::PermissionDenied => "this host does not allow it (a firewall?)",
        other => return other.to_string(),
    };
    text.to_owned()
}

/// The message of the innermost cause.
fn detail(error: &(dyn Error + 'static)) -> String {
    let innermost = causes(error).last().unwrap_or(error);
    printable_within(&innermost.to_string(), LONGEST_DETAIL)
}

/// What is wrong with a certificate, and what to do. For the cases without a sentence the
/// certificate itself is faulty, and only the server's operator can replace it.
fn of_certificate(error: &CertificateError, host: &str) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            format!("no authority that is trusted here has signed it; {GIVE_AUTHORITY}")
        }
        // The server presents an authority's certificate, e.g. a self-signed one made with openssl.
        CertificateError::Other(other)
            if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
        {
            format!("it is self-signed, or an authority's own and not a server's; {GIVE_AUTHORITY}")
        }
        CertificateError::Expired => format!("it has expired {CHECK_CLOCK}"),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired at {} {CHECK_CLOCK}", timestamp(*not_after))
        }
        CertificateError::NotValidYet => format!("it is not valid yet {CHECK_CLOCK}"),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "it is not valid before {} {CHECK_CLOCK}",
            timestamp(*not_before)
        ),
        CertificateError::NotValidForName => of_other_names(host, &[]),
        CertificateError::NotValidForNameContext { presented, .. } => {
            of_other_names(host, presented)
        }
        CertificateError::Revoked => "its authority has revoked it".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for a server (extended key usage)".to_owned()
        }
        CertificateError::BadSignature => "its signature does not verify".to_owned(),
        CertificateError::BadEncoding => "it cannot be read".to_owned(),
        other => {
            let cause = match other {
                CertificateError::Other(other) => other.0.to_string(),
                unnamed => unnamed.to_string(),
            };
            format!(
                "it cannot be used ({})",
                printable_within(&cause, LONGEST_DETAIL)
            )
        }
    }
}

/// The sentence for a certificate that is valid for other names, if it has any.
fn of_other_names(host: &str, presented: &[String]) -> String {
    let mut names: Vec<String> = presented
        .iter()
        .take(MAX_NAMES)
        .map(|name| printable_within(plain(name), LONGEST_DETAIL))
        .collect();
    if presented.len() > MAX_NAMES {
        names.push("…".to_owned());
    }
    let but_for = if names.is_empty() { "" } else { " but for " };
    format!(
        "it is not for {host}{but_for}{}; check the host in --url",
        names.join(", ")
    )
}

/// Removes the type from a name: webpki writes `DnsName("host")` and `IpAddress(127.0.0.1)`.
fn plain(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn timestamp(time: UnixTime) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use rustls::{OtherError, pki_types::ServerName};

    use super::*;

    /// Classifies an error that is wrapped twice, as the client's connectors do.
    fn classify_wrapped(
        cause: impl Into<Box<dyn Error + Send + Sync>>,
        url: &str,
        is_connect: bool,
    ) -> DownloadError {
        let url: Url = url.parse().unwrap();
        let request = FailedRequest {
            address: origin_address(&url),
            url: Some(&url),
            is_connect,
            is_timeout: false,
        };
        let wrapped = io::Error::other(io::Error::new(ErrorKind::InvalidData, cause));
        request.classify(&wrapped)
    }

    fn os(errno: nix::errno::Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn a_failure_to_connect_names_host_port_and_cause() {
        use nix::errno::Errno;
        let lookup = LookupFailed {
            host: "h".to_owned(),
            why: "Name or service not known".to_owned(),
        };
        let causes: [(Box<dyn Error + Send + Sync>, &str); 7] = [
            (os(Errno::ECONNREFUSED).into(), "refused"),
            (os(Errno::EHOSTUNREACH).into(), "the host cannot be reached"),
            (
                os(Errno::ENETUNREACH).into(),
                "its network cannot be reached",
            ),
            (os(Errno::ETIMEDOUT).into(), "no answer in time"),
            (os(Errno::ECONNRESET).into(), "reset by the other side"),
            (
                lookup.into(),
                "the name h cannot be looked up (Name or service not known)",
            ),
            ("something new".into(), "something new"),
        ];
        for (cause, message) in causes {
            let why = format!("no connection to http://h:99: {message}");
            assert_eq!(
                classify_wrapped(cause, "http://h:99/n1.tar", true),
                DownloadError::Connection { why }
            );
        }
    }

    #[test]
    fn a_broken_connection_differs_from_a_failure_to_connect() {
        let why =
            "connection to http://h:80 broke before an answer: reset by the other side".to_owned();
        assert_eq!(
            classify_wrapped(os(nix::errno::Errno::ECONNRESET), "http://h/", false),
            DownloadError::Connection { why }
        );
        let eof = || io::Error::from(ErrorKind::UnexpectedEof);
        let why = "http://h:80 closed the connection before it answered".to_owned();
        assert_eq!(
            classify_wrapped(eof(), "http://h/", false),
            DownloadError::Connection { why }
        );
        let why = "no connection to https://h:443: closed in the TLS handshake (does it speak plain HTTP?)".to_owned();
        assert_eq!(
            classify_wrapped(eof(), "https://h/", true),
            DownloadError::Connection { why }
        );
    }

    #[test]
    fn each_fault_of_a_certificate_has_a_sentence_with_a_remedy() {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
        let presented = vec![
            "DnsName(\"a.test\")".to_owned(),
            "IpAddress(10.0.0.1)".to_owned(),
        ];
        let expected = ServerName::try_from("h").unwrap();
        for (error, message) in [
            (
                CertificateError::UnknownIssuer,
                "no authority that is trusted here has signed it; if it is the right one, give its authority (or the \
                 certificate itself) with --cacert",
            ),
            (
                CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity))),
                "it is self-signed, or an authority's own and not a server's; if it is the right one, give its \
                 authority (or the certificate itself) with --cacert",
            ),
            (
                CertificateError::Other(OtherError(Arc::new(
                    webpki::Error::NameConstraintViolation,
                ))),
                "it cannot be used (NameConstraintViolation)",
            ),
            (
                CertificateError::Expired,
                "it has expired (or this host's clock is wrong)",
            ),
            (
                CertificateError::ExpiredContext {
                    time,
                    not_after: time,
                },
                "it expired at 2023-11-14T22:13:20Z (or this host's clock is wrong)",
            ),
            (
                CertificateError::NotValidYetContext {
                    time,
                    not_before: time,
                },
                "it is not valid before 2023-11-14T22:13:20Z (or this host's clock is wrong)",
            ),
            (
                CertificateError::NotValidForName,
                "it is not for h; check the host in --url",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected,
                    presented,
                },
                "it is not for h but for a.test, 10.0.0.1; check the host in --url",
            ),
            (CertificateError::Revoked, "its authority has revoked it"),
            (
                CertificateError::InvalidPurpose,
                "it is not meant for a server (extended key usage)",
            ),
        ] {
            let why = format!("https://h:443: {message}");
            let classified = classify_wrapped(
                TlsError::InvalidCertificate(error),
                "https://h/n1.tar",
                true,
            );
            assert_eq!(classified, DownloadError::Certificate { why });
        }
    }

    #[test]
    fn an_origin_without_tls_is_a_wrong_scheme_and_other_tls_errors_are_transient() {
        let why = format!("https://h:443 answers without TLS; {CHECK_SCHEME}");
        let no_tls = TlsError::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(
            classify_wrapped(no_tls, "https://h/", true),
            DownloadError::Scheme { why }
        );
        for (error, message) in [
            (
                TlsError::AlertReceived(AlertDescription::HandshakeFailure),
                "no protocol version or cipher in common",
            ),
            (
                TlsError::AlertReceived(AlertDescription::UnrecognisedName),
                "check the host in --url",
            ),
            (
                TlsError::AlertReceived(AlertDescription::CertificateRequired),
                "asks for a client certificate",
            ),
            (
                TlsError::AlertReceived(AlertDescription::InternalError),
                "the alert InternalError",
            ),
            (TlsError::DecryptError, "cannot decrypt peer's message"),
        ] {
            let DownloadError::Connection { why } = classify_wrapped(error, "https://h/", true)
            else {
                panic!("{message}")
            };
            assert!(
                why.starts_with("no TLS connection to https://h:443: ") && why.contains(message),
                "{why}"
            );
        }
    }

    #[test]
    fn a_redirect_that_the_resolver_refuses_keeps_its_identity() {
        let refused = RefusedRedirect::Private {
            host: "h".to_owned(),
        };
        assert_eq!(
            classify_wrapped(refused.clone(), "http://h/", true),
            DownloadError::Redirect(refused)
        );
    }
}

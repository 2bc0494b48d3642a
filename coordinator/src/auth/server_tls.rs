//! The server's TLS configuration, built from its files. When one of the files changes, including
//! the clients' CA, the whole configuration is replaced. That also discards the session cache, so
//! that no client resumes a session with the old certificate.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ConfigBuilder, ServerConfig, WantsVerifier, server::WebPkiClientVerifier};
use shared::outcome::printable;
use shared::tls::{
    HTTP1, HTTP2, SourceFile, TlsError, certificates, certified_key, provider, roots,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A certificate that expires within this time causes a warning.
const EXPIRY_WARNING: Duration = Duration::from_hours(24 * 14);

/// The TLS configuration and facts about the certificate.
#[derive(Debug)]
pub(super) struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    /// The same certificate for browsers and Prometheus: HTTP/1.1, and clients are not asked for a
    /// certificate.
    pub(super) http: Arc<ServerConfig>,
    /// When the certificate expires.
    pub(super) ends: SystemTime,
    /// The first name in the certificate that other hosts can use, in the form that a URL needs.
    pub(super) name: Option<String>,
}

impl ServerTls {
    /// Time until the certificate expires, if that is less than [`EXPIRY_WARNING`].
    pub(super) fn ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let left = self.ends.duration_since(now).unwrap_or_default();
        (left < EXPIRY_WARNING).then_some(left)
    }
}

fn builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has a suite for each version")
}

/// Builds the configuration. `sources`: the certificate, its key and, if clients may show
/// certificates, their CA.
pub(super) fn server_tls(sources: &[SourceFile]) -> Result<ServerTls, TlsError> {
    let [certificate, key, rest @ ..] = sources else {
        unreachable!("a server has a certificate and a key");
    };
    let resolver = certified_key(certificate, key)?;
    let mut http = builder()
        .with_no_client_auth()
        .with_cert_resolver(resolver.clone());
    http.alpn_protocols = vec![HTTP1.to_vec()];
    let builder = match rest.first() {
        None => builder().with_no_client_auth(),
        Some(authority) => {
            // A client without a certificate can still have a token.
            let roots = Arc::new(roots(authority)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = verifier.allow_unauthenticated().build();
            builder().with_client_cert_verifier(verifier.map_err(|error| TlsError::Authority {
                path: authority.path.clone(),
                reason: error.to_string(),
            })?)
        }
    };
    let leaf = &certificates(certificate)?[0];
    let leaf = X509Certificate::from_der(leaf).ok().map(|(_, leaf)| leaf);
    // A certificate that cannot be parsed counts as expired, which causes a warning.
    let ends = leaf.as_ref().map_or(SystemTime::UNIX_EPOCH, end_of);
    let name = leaf.as_ref().and_then(advertised_name);
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(ServerTls {
        config: Arc::new(config),
        http: Arc::new(http),
        ends,
        name,
    })
}

/// The first name that is neither specific to this host (`localhost`, a loopback address, or the
/// host's own short name, which `init` puts first) nor a wildcard.
fn advertised_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    let own = shared::worker_name::host_name();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name)
            if *name == "localhost" || name.contains('*') || **name == *own =>
        {
            None
        }
        GeneralName::DNSName(name) => Some(printable(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or(v6).ok().filter(|address| !address.is_loopback())?;
            Some(if address.is_ipv6() {
                format!("[{address}]")
            } else {
                address.to_string()
            })
        }
        _ => None,
    };
    names.value.general_names.iter().find_map(name)
}

/// The expiry date.
fn end_of(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_advertised_name_is_the_first_that_other_hosts_can_use() {
        let own = shared::worker_name::host_name();
        let name = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let certificate = CertificateParams::new(names)
                .unwrap()
                .self_signed(&key)
                .unwrap();
            advertised_name(&X509Certificate::from_der(certificate.der()).unwrap().1)
        };
        assert_eq!(name(&["localhost", "127.0.0.1", "::1", &own]), None);
        assert_eq!(
            name(&["localhost", "127.0.0.1", &own, "node1.example.org", "n2"]).unwrap(),
            "node1.example.org"
        );
        assert_eq!(name(&["*.example.org", "192.0.2.7"]).unwrap(), "192.0.2.7");
        assert_eq!(name(&["::1", "2001:db8::1"]).unwrap(), "[2001:db8::1]");
    }

    #[test]
    fn an_expiring_certificate_is_reported_two_weeks_before() {
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        for (days, is_warned) in [(15, false), (13, true), (0, true)] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.not_after = (now + day * days).into();
            let pem = params.self_signed(&key).unwrap().pem();
            let sources = [pem, key.serialize_pem()].map(|text| SourceFile {
                path: "x".into(),
                bytes: text.into_bytes().into(),
            });
            assert_eq!(
                server_tls(&sources).unwrap().ends_soon(now).is_some(),
                is_warned,
                "{days}"
            );
        }
    }
}

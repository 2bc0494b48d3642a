//! The server's side of a handshake, made of its files. The whole configuration is replaced when one of them changes, the
//! authority of the clients too, and with it the memory of earlier sessions, so that no client goes on with the old
//! certificate unawares.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ServerConfig, pki_types::CertificateDer, server::WebPkiClientVerifier};
use shared::outcome::printable;
use shared::tls::{HTTP2, Source, TlsError, certificates, certified_key, provider, roots};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A certificate that ends so soon is told.
const SOON: Duration = Duration::from_hours(24 * 14);

/// What a handshake needs.
#[derive(Debug)]
pub(super) struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    /// When the certificate ends.
    pub(super) ends: SystemTime,
    /// The first name in it that is good for other hosts, as it stands in a URL.
    pub(super) name: Option<String>,
}

impl ServerTls {
    /// How long the certificate is still good for, if that is not long.
    pub(super) fn ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let left = self.ends.duration_since(now).unwrap_or_default();
        (left < SOON).then_some(left)
    }
}

/// `sources`: the certificate, its key and, if clients may show certificates, their authority.
pub(super) fn server_tls(sources: &[Source]) -> Result<ServerTls, TlsError> {
    let [certificate, key, rest @ ..] = sources else {
        unreachable!("a server has a certificate and a key");
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has a suite for each version");
    let builder = match rest.first() {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            // Whoever shows none can still have a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Authority { path: authority.path.clone(), reason: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let leaf = &certificates(certificate)?[0];
    let ends = end_of(leaf);
    let name = advertised_name(leaf);
    let mut config = builder.with_cert_resolver(certified_key(certificate, key)?);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(ServerTls { config: Arc::new(config), ends, name })
}

/// The first name of a certificate that is neither of this host alone (`localhost`, a loopback
/// address, the host's own short name, all of which `init` puts in front) nor a pattern.
fn advertised_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let own = shared::worker_name::host_name();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) if *name == "localhost" || name.contains('*') || **name == *own => None,
        GeneralName::DNSName(name) => Some(printable(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()?;
            let shown = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            (!address.is_loopback()).then_some(shown)
        }
        _ => None,
    };
    names.value.general_names.iter().find_map(name)
}

/// What cannot be read ends at once, and is told.
fn end_of(certificate: &CertificateDer<'_>) -> SystemTime {
    let end = X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate.validity().not_after);
    let seconds = end.and_then(|end| u64::try_from(end.timestamp()).ok()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_name_for_other_hosts_is_the_first_that_is_not_of_this_host_alone() {
        let own = shared::worker_name::host_name();
        let name = |names: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            advertised_name(certificate.der())
        };
        assert_eq!(name(&["localhost", "127.0.0.1", "::1", &own]), None);
        assert_eq!(name(&["localhost", "127.0.0.1", &own, "node1.example.org", "n2"]).unwrap(), "node1.example.org");
        assert_eq!(name(&["*.example.org", "192.0.2.7"]).unwrap(), "192.0.2.7");
        assert_eq!(name(&["::1", "2001:db8::1"]).unwrap(), "[2001:db8::1]");
    }

    #[test]
    fn a_certificate_is_told_two_weeks_before_it_ends() {
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        for (days, told) in [(15, false), (13, true), (0, true)] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.not_after = (now + day * days).into();
            let pem = params.self_signed(&key).unwrap().pem();
            let sources =
                [pem, key.serialize_pem()].map(|text| Source { path: "x".into(), bytes: text.into_bytes().into() });
            assert_eq!(server_tls(&sources).unwrap().ends_soon(now).is_some(), told, "{days}");
        }
    }
}

//! The HTTP clients of a job: each has connections of its own, all go by the same rules and trust the same authorities.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{
    Client,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;
use shared::{job::JobOptions, tls::provider};
use url::Url;

use crate::redirect;

/// The real server drops idle connections within seconds, so they are not kept for longer.
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no client for the origin could be made.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// A header of `--header-file` that HTTP does not allow.
    #[error("use the request header {name:?}: its name or value has characters that HTTP forbids")]
    Header {
        /// The header's name; the value is secret.
        name: String,
    },
    /// The extra certificate authority.
    #[error("read the certificates of --cacert: {0}")]
    Certificate(rustls::pki_types::pem::Error),
    /// The authorities, e.g. because the system has none.
    #[error("start the HTTP client (on a system without CA certificates give --cacert): {0}")]
    Authorities(#[from] rustls::Error),
    /// The client itself.
    #[error("start the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// What the clients of a job are made from.
#[derive(Debug)]
pub(crate) struct Clients {
    base: Url,
    headers: HeaderMap,
    has_secrets: bool,
    connect_timeout: Duration,
    /// Sessions are resumed whichever client has begun them.
    tls: ClientConfig,
    sent_to: redirect::SentTo,
}

impl Clients {
    /// Reads what all of them share.
    pub(crate) fn for_job(job: &JobOptions) -> Result<Self, OriginError> {
        let base = job.url.for_class("n00000000".parse().expect("a well-formed id"));
        let tls = tls(&job.ca_pem, base.scheme() == "https")?;
        Ok(Self {
            base,
            headers: headers(job)?,
            has_secrets: !job.headers.is_empty(),
            connect_timeout: CONNECT_TIMEOUT.min(job.timeout),
            tls,
            sent_to: redirect::SentTo::default(),
        })
    }

    /// Makes a client, which opens its connections on the runtime that it is used on.
    pub(crate) fn make(&self) -> Result<Client, OriginError> {
        let mut builder = Client::builder()
            .http1_only() // one connection a transfer: HTTP/2 would put all of them on one
            .tls_backend_preconfigured(self.tls.clone())
            .user_agent(concat!("imagenet-downloader/", env!("CARGO_PKG_VERSION")))
            .default_headers(self.headers.clone())
            .redirect(redirect::policy(self.base.clone(), self.has_secrets, self.sent_to.clone()))
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .dns_resolver(redirect::PublicAddresses { sent_to: self.sent_to.clone() });
        if is_loopback(self.base.host_str().unwrap_or_default()) {
            builder = builder.no_proxy();
        }
        Ok(builder.build()?)
    }
}

fn headers(job: &JobOptions) -> Result<HeaderMap, OriginError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for secret in &job.headers {
        let invalid = || OriginError::Header { name: secret.name.clone() };
        let name: HeaderName = secret.name.parse().map_err(|_| invalid())?;
        let mut value = HeaderValue::from_bytes(&secret.value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// What is believed. `now`: it is read before the first connection, so that what is missing is told at the start.
fn tls(ca_pem: &[u8], now: bool) -> Result<ClientConfig, OriginError> {
    let extra: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca_pem).collect();
    let authorities = Authorities { extra: extra.map_err(OriginError::Certificate)?, verifier: OnceLock::new() };
    if now || !authorities.extra.is_empty() {
        authorities.verifier()?;
    }
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(authorities)).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The system's authorities are believed, and those of `--cacert`. They are many, so they are read once, and where the origin has
/// no `https`, not before it redirects to some.
#[derive(Debug)]
struct Authorities {
    extra: Vec<CertificateDer<'static>>,
    verifier: OnceLock<Result<Verifier, rustls::Error>>,
}

impl Authorities {
    fn verifier(&self) -> Result<&Verifier, rustls::Error> {
        let read = || Verifier::new_with_extra_roots(self.extra.iter().cloned(), provider());
        self.verifier.get_or_init(read).as_ref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_goes_round_the_proxy() {
        for (host, expected) in [("127.0.0.1", true), ("localhost", true), ("[::1]", true), ("image-net.org", false)] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}

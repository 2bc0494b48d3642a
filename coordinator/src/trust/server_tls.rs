//! The server's side of a handshake, made of its files. The whole configuration is replaced when one of them changes, the
//! authority of the clients too, and with it the memory of earlier sessions, so that no client goes on with the old
//! certificate unawares.

use std::sync::Arc;

use rustls::{ServerConfig, server::WebPkiClientVerifier};
use shared::tls::{HTTP2, Source, TlsError, certificates, private_key, provider, roots};

/// `sources`: the certificate, its key and, if clients may show certificates, their authority.
pub(super) fn server_config(sources: &[Source]) -> Result<Arc<ServerConfig>, TlsError> {
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
    let mut config = builder
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .map_err(|source| TlsError::Pair { certificate: certificate.path.clone(), key: key.path.clone(), source })?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

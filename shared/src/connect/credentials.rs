//! What proves the coordinator to a program and the program to the coordinator, from the files that flags name.

use std::{path::PathBuf, sync::Arc};

use http::HeaderValue;
use rustls::ClientConfig;

use crate::tls::{ByAuthority, HTTP2, Source, TlsError, Token, certificates, private_key, provider, roots};

/// The files.
#[derive(Debug, Clone)]
pub(super) struct CredentialFiles {
    /// Whether there is a server to be proved.
    pub(super) tls: bool,
    /// Whether what is sent goes over a network.
    pub(super) leaves_host: bool,
    pub(super) token: Option<PathBuf>,
    /// Whose token, if there are several.
    pub(super) roles: &'static [&'static str],
    pub(super) authority: Option<PathBuf>,
    /// Certificate and key.
    pub(super) pair: Option<(PathBuf, PathBuf)>,
}

/// What was in them.
pub(super) struct Credentials {
    /// How a handshake is done and the server proved; nothing for plaintext.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// What is sent with each call.
    pub(super) bearer: Option<HeaderValue>,
}

impl CredentialFiles {
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let pair = self.pair.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.token.iter().chain(&self.authority).chain(pair).cloned().collect()
    }

    /// `sources` are those of the paths, in their order.
    pub(super) fn credentials(&self, sources: &[Source]) -> Result<Credentials, TlsError> {
        let mut sources = sources.iter();
        let token = self.token.as_ref().and_then(|_| sources.next());
        let authority = self.authority.as_ref().and_then(|_| sources.next());
        let token = token.map(|source| Token::one_of(source, self.roles)).transpose()?;
        let bearer = token.as_ref().map(bearer);
        if !self.tls {
            if self.leaves_host && token.is_some_and(|token| token.authority().is_some()) {
                return Err(TlsError::Plaintext { path: self.token.clone().unwrap_or_default() });
            }
            return Ok(Credentials { tls: None, bearer });
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has a suite for each version");
        let builder = match (authority, token.and_then(|token| token.authority())) {
            (Some(file), _) => builder.with_root_certificates(roots(file)?),
            (None, Some(authority)) => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(ByAuthority::new(authority, provider())))
            }
            (None, None) => {
                return Err(TlsError::NoAuthority { path: self.token.clone().unwrap_or_default() });
            }
        };
        let mut config = match sources.as_slice() {
            [certificate, key] => {
                builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?).map_err(|source| {
                    TlsError::Pair { certificate: certificate.path.clone(), key: key.path.clone(), source }
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Credentials { tls: Some(Arc::new(config)), bearer })
    }
}

fn bearer(token: &Token) -> HeaderValue {
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.reveal())).expect("a token has visible characters only");
    value.set_sensitive(true);
    value
}

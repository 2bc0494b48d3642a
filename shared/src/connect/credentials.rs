//! Credentials from the files that flags name: they authenticate the coordinator to a program and
//! the program to the coordinator.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::HeaderValue;
use rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::tls::{
    AuthorityVerifier, HTTP2, InvalidToken, SourceFile, TlsError, Token, certified_key, provider,
    roots,
};

/// Authentication scheme of the token in its header (RFC 6750).
const BEARER: &[u8] = b"Bearer ";

/// Paths of the credential files, and how they are used.
#[derive(Debug, Clone)]
pub(super) struct CredentialFiles {
    /// Whether TLS is used, so that the server is authenticated.
    pub(super) tls: bool,
    /// Whether a join token may be sent without TLS. It is meant for a server that authenticates
    /// itself.
    pub(super) in_plaintext: Result<(), InvalidToken>,
    pub(super) token: Option<PathBuf>,
    /// The roles whose token is used, if the file has several tokens.
    pub(super) roles: &'static [&'static str],
    pub(super) authority: Option<PathBuf>,
    /// Certificate and private key.
    pub(super) pair: Option<(PathBuf, PathBuf)>,
}

/// Content of the credential files.
pub(super) struct Credentials {
    /// Client configuration for TLS; `None` for plaintext.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Value of the header that each call sends.
    pub(super) bearer: Option<HeaderValue>,
}

impl CredentialFiles {
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let pair = self
            .pair
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        self.token
            .iter()
            .chain(&self.authority)
            .chain(pair)
            .cloned()
            .collect()
    }

    /// `sources` are the contents of [`Self::paths`], in the same order.
    pub(super) fn credentials(&self, sources: &[SourceFile]) -> Result<Credentials, TlsError> {
        let mut sources = sources.iter();
        let token = self.token.as_ref().and_then(|_| sources.next());
        let authority = self.authority.as_ref().and_then(|_| sources.next());
        let token = token
            .map(|source| Token::one_of(source, self.roles))
            .transpose()?;
        let bearer = token.as_ref().map(bearer);
        let refuse = |source| TlsError::Token {
            path: self.token.clone().unwrap_or_default(),
            source,
        };
        if !self.tls {
            if token.is_some_and(|token| token.authority().is_some()) {
                self.in_plaintext.map_err(refuse)?;
            }
            return Ok(Credentials { tls: None, bearer });
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has a suite for each version");
        let builder = match (authority, token.and_then(|token| token.authority())) {
            (Some(file), _) => builder.with_root_certificates(roots(file)?),
            (None, Some(authority)) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AuthorityVerifier::new(authority))),
            (None, None) => return Err(refuse(InvalidToken::NoAuthority)),
        };
        let mut config = match sources.as_slice() {
            [certificate, key] => {
                builder.with_client_cert_resolver(certified_key(certificate, key)?)
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Credentials {
            tls: Some(Arc::new(config)),
            bearer,
        })
    }
}

/// The header with the token. Its text is erased from memory when the last copy is dropped.
fn bearer(token: &Token) -> HeaderValue {
    let mut text = Zeroizing::new(Vec::with_capacity(BEARER.len() + token.reveal().len()));
    text.extend_from_slice(BEARER);
    text.extend_from_slice(token.reveal().as_bytes());
    let text = Bytes::from_owner(text);
    let mut value =
        HeaderValue::from_maybe_shared(text).expect("a token has visible characters only");
    value.set_sensitive(true);
    value
}

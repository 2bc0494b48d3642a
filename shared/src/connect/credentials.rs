//! What proves the coordinator to a program and the program to the coordinator, from the files that flags name.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::HeaderValue;
use rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::tls::{ByAuthority, HTTP2, Source, TlsError, Token, certified_key, provider, roots};

/// The scheme of the token in its header (RFC 6750).
const BEARER: &[u8] = b"Bearer ";

/// Where plaintext goes, which decides whether a join token may be sent in it. A join token is for
/// a server that proves itself with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plaintext {
    /// Over a network.
    Network,
    /// To a port of this machine, where any user can listen.
    ThisMachine,
    /// To such a port, and `--insecure` says that it is the right one.
    Accepted,
}

/// The files.
#[derive(Debug, Clone)]
pub(super) struct CredentialFiles {
    /// Whether there is a server to be proved.
    pub(super) tls: bool,
    /// Where a join token goes that is sent in plaintext.
    pub(super) plaintext: Plaintext,
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
            let path = self.token.clone().filter(|_| token.is_some_and(|token| token.authority().is_some()));
            match (path, self.plaintext) {
                (Some(path), Plaintext::Network) => return Err(TlsError::Plaintext { path }),
                (Some(path), Plaintext::ThisMachine) => return Err(TlsError::PlaintextHere { path }),
                (None, _) | (Some(_), Plaintext::Accepted) => {}
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
            [certificate, key] => builder.with_client_cert_resolver(certified_key(certificate, key)?),
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Credentials { tls: Some(Arc::new(config)), bearer })
    }
}

/// The header's text is erased from memory with its last copy.
fn bearer(token: &Token) -> HeaderValue {
    let mut text = Zeroizing::new(Vec::with_capacity(BEARER.len() + token.reveal().len()));
    text.extend_from_slice(BEARER);
    text.extend_from_slice(token.reveal().as_bytes());
    let text = Bytes::from_owner(text);
    let mut value = HeaderValue::from_maybe_shared(text).expect("a token has visible characters only");
    value.set_sensitive(true);
    value
}

//! Certificates and join tokens, with which both ends of a connection authenticate each other.
//!
//! Files may be replaced at any time, also through the replacement of a symbolic link as in
//! Kubernetes, so values that are read from files are kept as [`Watched`]. No type with a secret
//! shows it in `Debug` or `Display`.

pub mod bundle;
mod by_authority;
mod pem;
mod token;
mod watched;

use std::{io, path::PathBuf, sync::Arc};

use rustls::crypto::CryptoProvider;

use crate::private_file::WritableByOthers;

pub use bundle::InvalidBundle;
pub use by_authority::AuthorityVerifier;
pub use pem::{certificates, certified_key, roots};
pub use token::{Authority, InvalidToken, TOKEN_PREFIX, Token, halves};
pub use watched::{SourceFile, Watched};

/// ALPN name of HTTP/2 in a TLS handshake.
pub const HTTP2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1.
pub const HTTP1: &[u8] = b"http/1.1";

/// Reasons for which a file cannot be used. The messages never contain its content.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("read {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Every user of this machine can change it.
    #[error(transparent)]
    Writable(#[from] WritableByOthers),
    /// The file has no certificate, or an unusable one.
    #[error("use {}: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The error, with the line of the certificate.
        why: InvalidBundle,
    },
    /// The file has no private key, or an unusable one.
    #[error("use {}: it holds no PEM private key (-----BEGIN PRIVATE KEY-----)", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key cannot be used together, e.g. because they do not match.
    #[error(
        "use the certificate {} with the key {}: {source}",
        certificate.display(), key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The error of the TLS library.
        source: rustls::Error,
    },
    /// The certificate cannot be used as an authority.
    #[error("use {} as a certificate authority: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// The error of the TLS library.
        reason: String,
    },
    /// The file has no token that can be used.
    #[error("use the token in {}: {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// The error in the token.
        source: InvalidToken,
    },
    /// The coordinator's file for several tokens has none.
    #[error(
        "use the tokens in {}: it holds none; write one `role token` on each line, as \
         `coordinator init` does",
        path.display()
    )]
    NoTokens {
        /// The file.
        path: PathBuf,
    },
    /// A line of the coordinator's file for several tokens is not a token.
    #[error("use the tokens in {}, line {line}: {source}", path.display())]
    TokenLine {
        /// The file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// The error in the token.
        source: InvalidToken,
    },
}

/// Advice for a file that cannot be read, if there is one.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "; name a file that is there, such as one that `coordinator init` wrote"
        }
        io::ErrorKind::PermissionDenied => {
            "; make it readable for the user that this program runs as, and for no others"
        }
        _ => "",
    }
}

/// The only provider of cryptography in both programs. It is passed explicitly, because rustls
/// would panic at an implicit choice if the dependencies contained a second one.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

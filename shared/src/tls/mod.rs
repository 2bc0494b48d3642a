//! Certificates and join tokens: how both ends of the wire prove who they are.
//!
//! Files may be replaced at any time, also by the swap of a link as Kubernetes does it, so whoever holds something that was
//! made of files holds it as [`Watched`]. Nothing secret has a `Debug` or `Display` that shows it.

pub mod bundle;
mod by_authority;
mod pem;
mod token;
mod watched;

use std::{io, path::PathBuf, sync::Arc};

use rustls::crypto::CryptoProvider;

use crate::private_file::WritableByOthers;

pub use bundle::InvalidBundle;
pub use by_authority::ByAuthority;
pub use pem::{certificates, certified_key, roots};
pub use token::{Authority, InvalidToken, TOKEN_PREFIX, Token, halves};
pub use watched::{Source, Watched};

/// What HTTP/2 is called in a handshake.
pub const HTTP2: &[u8] = b"h2";

/// Why a file is of no use. The content is never shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("read {}: {source}{}", path.display(), advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Every user of this machine can change it.
    #[error(transparent)]
    Writable(#[from] WritableByOthers),
    /// There is none in it, or a broken one.
    #[error("use {}: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which, and what is wrong with it.
        why: InvalidBundle,
    },
    /// There is none in it, or a broken one.
    #[error("use {}: it holds no PEM private key (-----BEGIN PRIVATE KEY-----)", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The halves do not belong together, say.
    #[error("use the certificate {} with the key {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// Not usable as an authority.
    #[error("use {} as a certificate authority: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No token, or more than the one that is needed.
    #[error("use the token in {}: {source}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: InvalidToken,
    },
    /// Nothing proves the server.
    #[error("use the token in {}: it names no certificate authority; give the coordinator's with --tls-ca", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
    /// It is for a server that proves itself, and everybody on the way could read it.
    #[error(
        "use the token in {}: it is never sent in plaintext over a network; give --connect https://…, or a tunnel's end at \
         http://127.0.0.1 with --insecure", path.display()
    )]
    Plaintext {
        /// The file.
        path: PathBuf,
    },
    /// A program of another user may listen there while the coordinator does not.
    #[error(
        "use the token in {}: any user of this machine can listen at an address of it and be sent the token; give --connect \
         https://…, or --insecure if it is a tunnel's end or this machine has no other users", path.display()
    )]
    PlaintextHere {
        /// The file.
        path: PathBuf,
    },
    /// The coordinator's file of several, without one.
    #[error("use the tokens in {}: it holds none; write one `role token` on each line, as `coordinator init` does", path.display())]
    NoTokens {
        /// The file.
        path: PathBuf,
    },
    /// A line that is no token, in a file of several.
    #[error("use the tokens in {}, line {line}: {source}", path.display())]
    TokenLine {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: InvalidToken,
    },
}

/// What to do about a file that cannot be read, where that is known.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; name a file that is there, such as one that `coordinator init` wrote",
        io::ErrorKind::PermissionDenied => {
            "; make it readable for the user that this program runs as, and for no others"
        }
        _ => "",
    }
}

/// The only provider of cryptography in both programs. Named at each use: with a second one in the tree, rustls would panic
/// when it had to choose.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

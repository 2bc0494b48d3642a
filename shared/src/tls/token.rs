//! The join token, `idl1.<authority>.<secret>`: one string that authenticates the coordinator to
//! the worker and the worker to the coordinator.
//!
//! The middle is the SHA-256 of the authority's certificate (DER), the end 256 random bits, both in
//! base32 without padding (RFC 4648) in lower case. Any other word of at least 16 visible
//! characters is a token, too, but does not authenticate the coordinator.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{SourceFile, TlsError};

/// Prefix of a join token, with the version of its format.
pub const TOKEN_PREFIX: &str = "idl1.";
/// Length of a digest and of a secret in bytes.
const BYTES: usize = 32;
/// Permitted lengths of a token in bytes. Shorter words are guessed too easily; longer ones are no
/// tokens.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=1024;

/// Id of a certificate authority: the SHA-256 of its certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Authority([u8; BYTES]);

/// A secret that authorises its holder; erased from memory when it is dropped.
#[derive(Clone)]
pub struct Token {
    text: Zeroizing<String>,
    authority: Option<Authority>,
}

/// Reasons for which a token cannot be used. Its text is secret and is not in the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// The text has the prefix of a join token and is not a complete one.
    #[error("it begins with {TOKEN_PREFIX} but is no whole join token; copy it again")]
    Damaged,
    /// The text is too short, or not one word.
    #[error(
        "a token is one word of 16 to 1024 letters, digits and signs, like those that `coordinator init` writes"
    )]
    NoToken,
    /// The word before the token is not a role.
    #[error("the word before the token is no role: worker, viewer or admin")]
    NoRole,
    /// A file has no token, or several and none for the role.
    #[error("it must hold one token on one line, and holds {0}, none of them for this program")]
    NotOne(usize),
    /// The token cannot authenticate the server.
    #[error("it names no certificate authority; give the coordinator's with --tls-ca")]
    NoAuthority,
    /// The token is meant for a server that authenticates itself, and could be read on the network.
    #[error(
        "it is never sent in plaintext over a network; give --connect https://…, or a tunnel's end \
         at http://127.0.0.1 with --insecure"
    )]
    Plaintext,
    /// A program of another user could listen at the address while the coordinator does not.
    #[error(
        "any user of this machine can listen at an address of it and be sent the token; give \
         --connect https://…, or --insecure if it is a tunnel's end or this machine has no other \
         users"
    )]
    PlaintextHere,
}

impl Authority {
    /// The id of this authority.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&base32(&self.0))
    }
}

impl Token {
    /// A join token of a cluster.
    pub fn new(authority: Authority, secret: [u8; BYTES]) -> Self {
        let text = format!("{TOKEN_PREFIX}{}.{}", base32(&authority.0), base32(&secret));
        Self {
            text: text.into(),
            authority: Some(authority),
        }
    }

    /// The token of a file, which may also contain comments (`#`) and blank lines. The
    /// coordinator's own file has several tokens, each after its role. From such a file, this is
    /// the first token of the first of `roles` that occurs in it.
    ///
    /// # Errors
    /// [`TlsError::Token`].
    pub fn one_of(source: &SourceFile, roles: &[&str]) -> Result<Self, TlsError> {
        let refuse = |source_error| TlsError::Token {
            path: source.path.clone(),
            source: source_error,
        };
        let lines: Vec<(&str, &str)> = source.lines().map(|(_, line)| halves(line)).collect();
        let of_role = |role: &&str| lines.iter().find(|(of, _)| of == role);
        let found = match lines.as_slice() {
            [only] => Some(only),
            _ => roles.iter().find_map(of_role),
        };
        let (_, token) = found
            .ok_or(InvalidToken::NotOne(lines.len()))
            .map_err(refuse)?;
        token.parse().map_err(refuse)
    }

    /// The authority whose servers are accepted; `None` if this is not a join token.
    pub fn authority(&self) -> Option<Authority> {
        self.authority
    }

    /// The secret text. Only for the file that stores it, the wire and the comparison.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

/// The role and the token of a line; the role is empty if it is missing.
pub fn halves(line: &str) -> (&str, &str) {
    line.split_once(char::is_whitespace)
        .map_or(("", line), |(role, token)| (role, token.trim_start()))
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if !LENGTHS.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(if text.starts_with(TOKEN_PREFIX) {
                InvalidToken::Damaged
            } else {
                InvalidToken::NoToken
            });
        }
        let authority = match text.strip_prefix(TOKEN_PREFIX) {
            None => None,
            Some(rest) => {
                let (authority, secret) = rest.split_once('.').ok_or(InvalidToken::Damaged)?;
                bytes(secret)?;
                Some(Authority(*bytes(authority)?))
            }
        };
        Ok(Self {
            text: text.to_owned().into(),
            authority,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn bytes(text: &str) -> Result<Zeroizing<[u8; BYTES]>, InvalidToken> {
    let decoded = BASE32_NOPAD_NOCASE.decode(text.as_bytes());
    let decoded = Zeroizing::new(decoded.map_err(|_| InvalidToken::Damaged)?);
    let bytes = decoded.as_slice().try_into();
    bytes.map(Zeroizing::new).map_err(|_| InvalidToken::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceFile {
        SourceFile {
            path: "token".into(),
            bytes: text.as_bytes().to_vec().into(),
        }
    }

    #[test]
    fn a_join_token_is_parsed_from_its_own_text() {
        let authority = Authority::of(&CertificateDer::from(b"a certificate".to_vec()));
        let token = Token::new(authority, [7; 32]);
        let read: Token = token.reveal().parse().unwrap();
        assert_eq!(
            (read.reveal(), read.authority()),
            (token.reveal(), Some(authority))
        );
        assert_eq!(token.reveal().len(), 5 + 52 + 1 + 52);
    }

    #[test]
    fn a_damaged_join_token_is_not_accepted_as_another_kind_of_token() {
        let token = Token::new(Authority([1; 32]), [7; 32]);
        let whole = token.reveal();
        for damaged in [
            &whole[..whole.len() - 1],
            &whole[..40],
            "idl1.",
            &format!("{whole}x"),
            &whole.replace('.', "-"),
        ] {
            let wanted = if damaged.starts_with("idl1.") {
                Some(InvalidToken::Damaged)
            } else {
                None
            };
            assert_eq!(damaged.parse::<Token>().err(), wanted, "{damaged}");
        }
    }

    #[test]
    fn any_long_word_is_a_token_that_names_no_authority() {
        assert_eq!(
            "0123456789abcdef".parse::<Token>().unwrap().authority(),
            None
        );
        for wrong in [
            "",
            "short",
            "two words of enough length",
            "söme0123456789abcdef",
        ] {
            assert_eq!(
                wrong.parse::<Token>().err(),
                Some(InvalidToken::NoToken),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_file_holds_one_token_and_may_contain_comments_and_a_role() {
        for text in [
            "# for the workers\n\n  0123456789abcdef \r\n",
            "worker 0123456789abcdef",
        ] {
            assert_eq!(
                Token::one_of(&source(text), &["admin"]).unwrap().reveal(),
                "0123456789abcdef"
            );
        }
        for (text, count) in [
            ("", 0),
            ("# nothing\n", 0),
            ("0123456789abcdef\n0123456789abcdeg\n", 2),
        ] {
            let error = Token::one_of(&source(text), &["worker"])
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("holds {count},")), "{error}");
        }
    }

    #[test]
    fn each_program_uses_the_token_of_its_role() {
        let all = source(
            "worker worker-0123456789\nworker worker-9876543210\nviewer viewer-0123456789\nadmin admin-0123456789a\n",
        );
        for (roles, token) in [
            (&["worker"][..], "worker-0123456789"),
            (&["admin", "viewer"], "admin-0123456789a"),
            (&["boss", "viewer"], "viewer-0123456789"),
        ] {
            assert_eq!(Token::one_of(&all, roles).unwrap().reveal(), token);
        }
        assert!(Token::one_of(&all, &["boss"]).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = Token::new(Authority([1; 32]), [7; 32]);
        let secret = token.text.rsplit('.').next().unwrap();
        assert!(!format!("{token:?}").contains(secret));
        let word: Token = "0123456789abcdef".parse().unwrap();
        assert!(!format!("{word:?}").contains("0123456789abcdef"));
    }
}

//! The tokens by role, as in the coordinator's token file: `role token` on each line. A token
//! without a role is a worker's, so a worker's token file is also valid for the coordinator.
//! Several tokens of a role are valid at the same time, for their rotation.
//!
//! Each token has a cancellation signal. A reload that keeps the token keeps the signal; a reload
//! that drops the token cancels it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use shared::{
    ids::CredentialId,
    tls::{InvalidToken, SourceFile, TlsError, Token, halves},
};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;

use super::Role;

/// A token's SHA-256: enough to recognize the token, and useless to derive it.
type Digest = [u8; 32];

/// The valid tokens. The tokens in clear are in memory only while their file is read.
#[derive(Clone, Default)]
pub(super) struct Tokens(Vec<TokenEntry>);

/// One token of the file.
#[derive(Clone)]
struct TokenEntry {
    role: Role,
    digest: Digest,
    revoked: CancellationToken,
}

/// The result of a successful authentication.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) role: Role,
    /// Identifies the token without revealing it.
    pub(super) credential: CredentialId,
    /// Cancelled when the token is no longer valid for this role.
    pub(super) revoked: CancellationToken,
}

impl Tokens {
    /// Parses the file. It must contain at least one token.
    pub(super) fn read(source: &SourceFile) -> Result<Self, TlsError> {
        let path = || source.path.clone();
        let tokens = source.lines().map(|(line, text)| {
            entry(text).map_err(|source| TlsError::TokenLine {
                path: path(),
                line,
                source,
            })
        });
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() {
            return Err(TlsError::NoTokens { path: path() });
        }
        Ok(Self(tokens))
    }

    /// Replaces earlier tokens by these. Tokens that are in both stay valid; the other earlier ones
    /// are revoked.
    pub(super) fn replacing(mut self, earlier: &Self) -> Self {
        for entry in &mut self.0 {
            if let Some(same) = earlier.0.iter().find(|other| entry.is_same_as(other)) {
                entry.revoked = same.revoked.clone();
            }
        }
        for entry in &earlier.0 {
            if !self.0.iter().any(|kept| kept.is_same_as(entry)) {
                entry.revoked.cancel();
            }
        }
        self
    }

    /// Ids of the workers' tokens.
    pub(super) fn of_workers(&self) -> impl Iterator<Item = CredentialId> {
        let of_workers = self.0.iter().filter(|entry| entry.role == Role::Worker);
        of_workers.map(TokenEntry::credential)
    }

    /// The role and id of a token. Takes constant time: the time does not depend on which token
    /// matches or on where the others differ.
    pub(super) fn authenticate(&self, shown: &[u8]) -> Option<Authenticated> {
        let shown = sha256(shown);
        let mut found = 0_u32;
        for (number, entry) in (1_u32..).zip(&self.0) {
            let same: Choice = entry.digest.ct_eq(&shown);
            found.conditional_assign(&number, same);
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        let entry = &self.0[index];
        Some(Authenticated {
            role: entry.role,
            credential: entry.credential(),
            revoked: entry.revoked.clone(),
        })
    }
}

impl TokenEntry {
    fn is_same_as(&self, other: &Self) -> bool {
        self.role == other.role && self.digest == other.digest
    }

    /// 64 bits of a digest of the digest, because the ledger stores it.
    fn credential(&self) -> CredentialId {
        let digest = blake3::derive_key(
            "imagenet_downloader 2026-11-30 id of a worker's token",
            &self.digest,
        );
        let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        CredentialId(u64::from_be_bytes(*first))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = self.0.iter().map(|entry| entry.role);
        formatter.debug_list().entries(roles).finish()
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    digest(&SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

fn entry(line: &str) -> Result<TokenEntry, InvalidToken> {
    let (role, token) = halves(line);
    let role = if role.is_empty() {
        Role::Worker
    } else {
        Role::named(role).ok_or(InvalidToken::NoRole)?
    };
    let token: Token = token.parse()?;
    Ok(TokenEntry {
        role,
        digest: sha256(token.reveal().as_bytes()),
        revoked: CancellationToken::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Tokens, String> {
        let source = SourceFile {
            path: "tokens".into(),
            bytes: text.as_bytes().to_vec().into(),
        };
        Tokens::read(&source).map_err(|error| error.to_string())
    }

    #[test]
    fn each_token_has_its_role_and_two_of_one_role_are_valid_at_once() {
        let tokens = tokens(
            "# made by hand\nworker  worker-0123456789\nworker worker-9876543210\n\nviewer viewer-0123456789\n\
             admin\tadmin-01234567890\r\n",
        )
        .unwrap();
        for (shown, role) in [
            ("worker-0123456789", Some(Role::Worker)),
            ("worker-9876543210", Some(Role::Worker)),
            ("viewer-0123456789", Some(Role::Viewer)),
            ("admin-01234567890", Some(Role::Admin)),
            ("worker-012345678", None),
            ("worker-01234567890", None),
            ("", None),
            ("worker", None),
        ] {
            assert_eq!(
                tokens
                    .authenticate(shown.as_bytes())
                    .map(|grant| grant.role),
                role,
                "{shown}"
            );
        }
    }

    #[test]
    fn a_token_without_a_role_is_a_workers() {
        let grant = tokens("0123456789abcdef\n")
            .unwrap()
            .authenticate(b"0123456789abcdef");
        assert_eq!(grant.map(|grant| grant.role), Some(Role::Worker));
    }

    #[test]
    fn a_reload_revokes_exactly_the_tokens_that_were_removed() {
        let revoked =
            |tokens: &Tokens, shown: &str| tokens.authenticate(shown.as_bytes()).unwrap().revoked;
        let kept = "worker-0123456789";
        let gone = "viewer-0123456789";
        let other_role = "admin-01234567890";
        let first = tokens(&format!("worker {kept}\nviewer {gone}\nadmin {other_role}")).unwrap();
        let signals = [kept, gone, other_role].map(|shown| revoked(&first, shown));
        let second = tokens(&format!("viewer {other_role}\nworker {kept}"))
            .unwrap()
            .replacing(&first);
        assert_eq!(
            signals.each_ref().map(CancellationToken::is_cancelled),
            [false, true, true]
        );
        assert!(
            !revoked(&second, other_role).is_cancelled(),
            "the token is valid for its new role"
        );
        let _third = tokens("worker another-0123456789")
            .unwrap()
            .replacing(&second);
        assert!(
            signals[0].is_cancelled(),
            "the signal is kept across two reloads"
        );
    }

    #[test]
    fn an_invalid_line_is_reported_by_number_without_its_content() {
        for (text, line) in [
            ("worker secret", 1),
            ("\n# x\nboss 0123456789abcdef", 3),
            ("worker 0123456789abcdef x", 1),
        ] {
            let error = tokens(text).unwrap_err();
            assert!(
                error.contains(&format!("line {line}:"))
                    && !error.contains("0123")
                    && !error.contains("secret"),
                "{error}"
            );
        }
        for none in ["", "# none\n"] {
            let error = tokens(none).unwrap_err();
            assert!(
                error.contains("write one `role token` on each line"),
                "{error}"
            );
        }
    }
}

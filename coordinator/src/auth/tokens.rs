//! The tokens by role, as the coordinator's token file has them: `role token` on a line. A token alone is a worker's, so the
//! file that a worker has is good for the coordinator too. Several tokens of a role are valid at once, for their rotation.
//!
//! Each token has a signal of its own, which outlives a reload that keeps the token and is
//! cancelled by one that does not.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use shared::{
    ids::CredentialId,
    tls::{InvalidToken, Source, TlsError, Token, halves},
};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;

use super::Role;

/// A token's SHA-256: enough to know the token when it is shown, and useless to others.
type Digest = [u8; 32];

/// The valid tokens. The tokens themselves are in memory only while their file is read.
#[derive(Clone, Default)]
pub(super) struct Tokens(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    role: Role,
    digest: Digest,
    revoked: CancellationToken,
}

/// What a valid token is good for.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) role: Role,
    /// What tells the token from others; not the token.
    pub(super) credential: CredentialId,
    /// Cancelled when the token is not valid for this role any more.
    pub(super) revoked: CancellationToken,
}

impl Tokens {
    /// Those of the file; at least one.
    pub(super) fn read(source: &Source) -> Result<Self, TlsError> {
        let tokens = source.lines().map(|(line, text)| {
            entry(text).map_err(|error| TlsError::TokenLine { path: source.path.clone(), line, source: error })
        });
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() {
            return Err(TlsError::NoTokens { path: source.path.clone() });
        }
        Ok(Self(tokens))
    }

    /// These tokens in the place of earlier ones: those that are in both go on, the others of the
    /// earlier ones are revoked.
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

    /// What tells the workers' tokens apart.
    pub(super) fn of_workers(&self) -> impl Iterator<Item = CredentialId> {
        let of_workers = self.0.iter().filter(|entry| entry.role == Role::Worker);
        of_workers.map(Entry::credential)
    }

    /// What the token that was shown is good for. Takes the same time whichever it is, and wherever
    /// it differs from the others.
    pub(super) fn grant_of(&self, shown: &[u8]) -> Option<Grant> {
        let shown = sha256(shown);
        let mut found = 0_u32;
        for (number, entry) in (1_u32..).zip(&self.0) {
            let same: Choice = entry.digest.ct_eq(&shown);
            found.conditional_assign(&number, same);
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        let entry = &self.0[index];
        Some(Grant { role: entry.role, credential: entry.credential(), revoked: entry.revoked.clone() })
    }
}

impl Entry {
    fn is_same_as(&self, other: &Self) -> bool {
        self.role == other.role && self.digest == other.digest
    }

    /// 64 bits of a digest of the digest: they stand in the ledger.
    fn credential(&self) -> CredentialId {
        let digest = blake3::derive_key("imagenet_downloader 2026-11-30 id of a worker's token", &self.digest);
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
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn entry(line: &str) -> Result<Entry, InvalidToken> {
    let (role, token) = halves(line);
    let role = if role.is_empty() { Role::Worker } else { role.parse().map_err(|_| InvalidToken::NoRole)? };
    let token: Token = token.parse()?;
    Ok(Entry { role, digest: sha256(token.reveal().as_bytes()), revoked: CancellationToken::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Tokens, String> {
        let source = Source { path: "tokens".into(), bytes: text.as_bytes().to_vec().into() };
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
            assert_eq!(tokens.grant_of(shown.as_bytes()).map(|grant| grant.role), role, "{shown}");
        }
    }

    #[test]
    fn a_token_alone_is_a_workers() {
        let grant = tokens("0123456789abcdef\n").unwrap().grant_of(b"0123456789abcdef");
        assert_eq!(grant.map(|grant| grant.role), Some(Role::Worker));
    }

    #[test]
    fn what_a_new_file_keeps_goes_on_and_what_it_does_not_is_revoked() {
        let revoked = |tokens: &Tokens, shown: &str| tokens.grant_of(shown.as_bytes()).unwrap().revoked;
        let kept = "worker-0123456789";
        let gone = "viewer-0123456789";
        let other_role = "admin-01234567890";
        let first = tokens(&format!("worker {kept}\nviewer {gone}\nadmin {other_role}")).unwrap();
        let signals = [kept, gone, other_role].map(|shown| revoked(&first, shown));
        let second = tokens(&format!("viewer {other_role}\nworker {kept}")).unwrap().replacing(&first);
        assert_eq!(signals.each_ref().map(CancellationToken::is_cancelled), [false, true, true]);
        assert!(!revoked(&second, other_role).is_cancelled(), "it is valid for its new role");
        let _third = tokens("worker another-0123456789").unwrap().replacing(&second);
        assert!(signals[0].is_cancelled(), "two reloads later the first signal is still the token's");
    }

    #[test]
    fn a_line_that_is_none_is_told_by_its_number_and_never_shown() {
        for (text, line) in
            [("worker secret", 1), ("\n# x\nboss 0123456789abcdef", 3), ("worker 0123456789abcdef x", 1)]
        {
            let error = tokens(text).unwrap_err();
            assert!(
                error.contains(&format!("line {line}:")) && !error.contains("0123") && !error.contains("secret"),
                "{error}"
            );
        }
        for none in ["", "# none\n"] {
            let error = tokens(none).unwrap_err();
            assert!(error.contains("write one `role token` on each line"), "{error}");
        }
    }
}

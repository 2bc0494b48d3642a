//! The tokens by role, as the coordinator's token file has them: `role token` on a line. A token alone is a worker's, so the
//! file that a worker has is good for the coordinator too. Several tokens of a role are valid at once, for their rotation.
//!
//! Each token has a signal of its own, which outlives a reload that keeps the token and is
//! cancelled by one that does not.

use shared::{
    ids::CredentialId,
    tls::{InvalidToken, Source, TlsError, Token, halves},
};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tokio_util::sync::CancellationToken;

use super::Role;

/// The valid tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    role: Role,
    token: Token,
    revoked: CancellationToken,
}

/// What a valid token is good for.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) role: Role,
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
        of_workers.map(|entry| credential_id(entry.token.reveal().as_bytes()))
    }

    /// What the token that was shown is good for. Takes the same time wherever they differ; only
    /// lengths can be told apart, and those are no secret.
    pub(super) fn grant_of(&self, shown: &[u8]) -> Option<Grant> {
        let mut found = 0_u32;
        for (number, entry) in (1_u32..).zip(&self.0) {
            let same: Choice = entry.token.reveal().as_bytes().ct_eq(shown);
            found.conditional_assign(&number, same);
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        let Entry { role, revoked, .. } = &self.0[index];
        Some(Grant { role: *role, revoked: revoked.clone() })
    }
}

impl Entry {
    fn is_same_as(&self, other: &Self) -> bool {
        self.role == other.role && self.token.reveal() == other.token.reveal()
    }
}

/// What tells a token from others. It stands in the ledger, so it is not the token.
pub(super) fn credential_id(token: &[u8]) -> CredentialId {
    let digest = blake3::derive_key("imagenet_downloader 2026-11-30 id of a worker's token", token);
    let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
    CredentialId(u64::from_be_bytes(*first))
}

fn entry(line: &str) -> Result<Entry, InvalidToken> {
    let (role, token) = halves(line);
    let role = if role.is_empty() { Role::Worker } else { role.parse().map_err(|_| InvalidToken::NoRole)? };
    Ok(Entry { role, token: token.parse()?, revoked: CancellationToken::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Tokens, String> {
        let source = Source { path: "tokens".into(), bytes: text.as_bytes().to_vec() };
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
        let (kept, gone, other_role) = ("worker-0123456789", "viewer-0123456789", "admin-01234567890");
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

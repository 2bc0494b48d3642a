//! The tokens by role, as the coordinator's token file has them: `role token` on a line. A token alone is a worker's, so the
//! file that a worker has is good for the coordinator too. Several tokens of a role are valid at once, for their rotation.

use shared::tls::{InvalidToken, Source, TlsError, Token, halves};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::Role;

/// Who is let in.
#[derive(Debug)]
pub(super) struct Tokens(Vec<(Role, Token)>);

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

    /// The role of whoever shows this secret. Takes the same time wherever they differ; only lengths can be told apart, and
    /// those are no secret.
    pub(super) fn role_of(&self, shown: &[u8]) -> Option<Role> {
        let mut found = 0_u32;
        for (number, (_, token)) in (1_u32..).zip(&self.0) {
            let same: Choice = token.reveal().as_bytes().ct_eq(shown);
            found.conditional_assign(&number, same);
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        Some(self.0[index].0)
    }
}

fn entry(line: &str) -> Result<(Role, Token), InvalidToken> {
    let (role, token) = halves(line);
    let role = if role.is_empty() { Role::Worker } else { role.parse().map_err(|_| InvalidToken::NoRole)? };
    Ok((role, token.parse()?))
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
            assert_eq!(tokens.role_of(shown.as_bytes()), role, "{shown}");
        }
    }

    #[test]
    fn a_token_alone_is_a_workers() {
        assert_eq!(tokens("0123456789abcdef\n").unwrap().role_of(b"0123456789abcdef"), Some(Role::Worker));
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

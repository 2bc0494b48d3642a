//! Which parts of a URL are secrets. One rule decides both whether a job has secrets and what of a
//! URL is shown. Pure.
//!
//! User and password are secrets, and so is a value of the query whose name looks like that of a
//! credential, or that looks random itself. When in doubt it is a secret: that costs a token for the
//! coordinator and a value in the log, and the opposite would publish a password.

use url::{Position, Url, form_urlencoded};

use crate::Wnid;

/// Stands for the id of a class in a template.
pub(crate) const PLACEHOLDER: &str = "{wnid}";
/// What is not shown.
pub(crate) const HIDDEN: &str = "…";

/// A name with one of these in it, without regard to case and signs, is that of a credential.
const CREDENTIAL: [&str; 20] = [
    "token", "key", "sig", "auth", "pass", "pwd", "secret", "cred", "session", "cookie", "jwt", "hmac", "hash",
    "ticket", "policy", "login", "user", "account", "xamz", "xgoog",
];
/// Short names of credentials, as a whole.
const SHORT_CREDENTIALS: [&str; 10] = ["k", "p", "s", "t", "pw", "sk", "st", "pin", "sid", "code"];
/// Characters of a value that is shown, at the most.
const LONGEST_VALUE: usize = 32;
/// Letters and digits in a row, at the most: a longer row may be an id that cannot be guessed.
const LONGEST_WORD: usize = 11;
/// A row of letters and digits of this length is no word where it changes between both twice.
const SHORTEST_MIX: usize = 6;

/// Whether a URL, or a template of one, has a user, a password or a secret in its query.
pub(crate) fn has_secrets(url: &str) -> bool {
    let parsed = Url::parse(url).ok();
    let has_user = parsed.as_ref().is_none_or(|url| !url.username().is_empty() || url.password().is_some());
    has_user || parsed.as_ref().and_then(Url::query).unwrap_or_default().split('&').any(is_secret)
}

/// A URL fit for a log: without `user:password@`, without a fragment, and with the secrets in its
/// query hidden. Of what is no URL nothing is shown.
pub fn without_credentials(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return HIDDEN.to_owned() };
    if url.set_username("").and_then(|()| url.set_password(None)).is_err() && !url.has_host() {
        return format!("{}:{HIDDEN}", url.scheme());
    }
    url.set_fragment(None);
    match url.query() {
        Some(query) => {
            let shown: Vec<String> = query.split('&').map(shown).collect();
            format!("{}?{}", &url[..Position::AfterPath], shown.join("&"))
        }
        None => url.into(),
    }
}

fn shown(parameter: &str) -> String {
    match parameter.split_once('=') {
        _ if !is_secret(parameter) => parameter.to_owned(),
        Some((name, _)) if !name.is_empty() => format!("{name}={HIDDEN}"),
        _ => HIDDEN.to_owned(),
    }
}

/// Whether a parameter of a query, as it stands in the URL, has a secret.
fn is_secret(parameter: &str) -> bool {
    let Some((name, value)) = form_urlencoded::parse(parameter.as_bytes()).next() else { return false };
    // Without `=` it is a value as well as a name, and so it is without a name.
    let value = if parameter.contains('=') { value } else { name.clone() };
    let value = value.replace(PLACEHOLDER, "");
    let is_class = value.is_empty() || value.parse::<Wnid>().is_ok();
    !is_class && (names_credential(&name) || names_credential(&value) || looks_random(&value))
}

fn names_credential(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    CREDENTIAL.iter().any(|word| name.contains(word)) || SHORT_CREDENTIALS.contains(&name.as_str())
}

/// Whether it is anything but a few words and numbers.
fn looks_random(value: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.,/+~ ".contains(character);
    let is_word = |word: &str| {
        let kinds = word.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit());
        word.len() <= LONGEST_WORD && (word.len() < SHORTEST_MIX || kinds.count() < 2)
    };
    let mut words = value.split(|character: char| !character.is_ascii_alphanumeric());
    value.len() > LONGEST_VALUE || !value.chars().all(is_plain) || !words.all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_a_secret_if_a_name_or_a_value_looks_like_one() {
        for (query, is_secret) in [
            // Names of versions, formats and classes.
            ("v=1", false),
            ("version=2021-10-14", false),
            ("format=tar&download=1", false),
            ("set=winter21_whole", false),
            ("dl", false),
            ("id={wnid}", false),
            ("{wnid}", false),
            ("file={wnid}.tar&empty=", false),
            ("id=n02124075", false),
            ("a=b&&c=", false),
            // Names of credentials, however they are spelled.
            ("token=a", true),
            ("access_token=a", true),
            ("api-key=1", true),
            ("%6Bey=1", true),
            ("v=1&KEY=1", true),
            ("sig=a", true),
            ("sv=2022&se=2023&sr=b&sp=r&sig=a%2Fb", true),
            ("X-Amz-Date=1", true),
            ("X-Amz-Signature=a", true),
            ("X-Goog-Credential=a", true),
            ("Policy=a", true),
            ("auth=a", true),
            ("PassWord=a", true),
            ("client_secret=a", true),
            ("JSESSIONID=a", true),
            ("pw=a", true),
            ("key=1{wnid}", true),
            // Values that nothing else explains.
            ("x=9f86d081884c7d65", true),
            ("x=c7Gh29xK", true),
            ("c7Gh29xKq0Zp", true),
            ("=c7Gh29xKq0Zp", true),
            ("x=550e8400-e29b-41d4-a716-446655440000", true),
            ("x=abcdefghijkl", true),
            ("x=aGk=", true),
            ("x=1;y", true),
            ("x=a:b@c", true),
            ("x=p%C3%A4ss", true),
            ("x=one-two-three-four-five-six-seven", true),
            ("id={wnid}c7Gh29xK", true),
        ] {
            let url = format!("https://h/{{wnid}}.tar?{query}");
            assert_eq!(has_secrets(&url), is_secret, "{query}");
            let shown = without_credentials(&url);
            assert_eq!(shown.contains(HIDDEN), is_secret, "{query}: {shown}");
            assert_eq!(shown.ends_with(&format!("?{query}")), !is_secret, "{query}: {shown}");
        }
        for (url, is_secret) in [
            ("https://h/x", false),
            ("https://h:8443/x/{wnid}/y.tar", false),
            ("https://h/get?id={wnid}#part", false),
            ("https://user:password@h/x", true),
            ("https://user@h/x", true),
            ("https://:password@h/x", true),
            ("no url", true),
        ] {
            assert_eq!(has_secrets(url), is_secret, "{url}");
        }
    }

    #[test]
    fn only_the_secrets_are_hidden() {
        for (query, shown) in [
            ("v=1&key=a&w=2", "v=1&key=…&w=2"),
            ("secret", "…"),
            ("=c7Gh29xKq0Zp&dl", "…&dl"),
            ("id=n02124075&x=9f86d081884c7d65", "id=n02124075&x=…"),
        ] {
            assert_eq!(without_credentials(&format!("https://u:p@h/x?{query}#f")), format!("https://h/x?{shown}"));
        }
    }
}

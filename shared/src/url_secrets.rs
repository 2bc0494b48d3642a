//! Which parts of a URL are secrets. One rule decides both whether a job has secrets and what of a
//! URL is shown. Pure.
//!
//! User and password are secrets, and so is a query value whose name contains a credential word, or
//! that looks random. Doubtful values count as secrets. A wrong decision then costs a token for the
//! coordinator and a value missing from the log, and the opposite could publish a password. Secrets
//! in the path are not detected: hashes and ids in a path are common and mostly public.

use url::{Position, Url, form_urlencoded};

use crate::wnid::Wnid;

/// The placeholder for the id of a class in a template.
pub(crate) const PLACEHOLDER: &str = "{wnid}";
/// Shown instead of a secret.
pub(crate) const HIDDEN: &str = "…";

/// A name that contains one of these words is that of a credential. Words end at punctuation,
/// digits and capitals: `access_token`, `apiKey2`.
const CREDENTIAL_WORDS: [&str; 26] = [
    "key",
    "sig",
    "sign",
    "signed",
    "auth",
    "authorization",
    "oauth",
    "bearer",
    "pass",
    "passphrase",
    "passcode",
    "pwd",
    "cred",
    "creds",
    "credentials",
    "session",
    "sess",
    "cookie",
    "jwt",
    "hmac",
    "hash",
    "ticket",
    "policy",
    "login",
    "user",
    "account",
];
/// Further credential words, which also count without a boundary before them: `clientsecret`,
/// `JSESSIONID`.
const CREDENTIAL_ENDINGS: [&str; 13] = [
    "token",
    "secret",
    "password",
    "passwd",
    "signature",
    "credential",
    "sessid",
    "sessionid",
    "apikey",
    "accesskey",
    "authkey",
    "username",
    "userid",
];
/// Prefixes of names in signed URLs of Amazon's and Google's storage.
const SIGNED_URLS: [&str; 2] = ["x-amz-", "x-goog-"];
/// Short names of credentials; the whole name must match.
const SHORT_CREDENTIALS: [&str; 11] = [
    "k", "p", "s", "t", "pw", "sk", "st", "pin", "otp", "sid", "code",
];
/// Maximum length of a shown value in characters.
const LONGEST_VALUE: usize = 32;
/// Maximum length of a row of letters and digits: a longer row may be an unguessable id.
const LONGEST_WORD: usize = 11;
/// Longer words that are common in names of data sets.
const LONG_WORDS: [&str; 6] = [
    "classification",
    "classifications",
    "localization",
    "localisation",
    "segmentation",
    "representation",
];
/// A row of letters and digits of at least this length is no word if it changes between letters and
/// digits at least twice.
const SHORTEST_MIX: usize = 6;
/// The same limit for rows that also mix capitals and small letters; there one change is enough.
const SHORTEST_CASED_MIX: usize = 5;
/// Units that may follow the number in a name like `imagenet21k`. The part before the number must
/// be a word of at least `SHORTEST_NAME` letters.
const UNITS: [&str; 8] = ["k", "m", "g", "x", "p", "px", "mb", "gb"];
const SHORTEST_NAME: usize = 4;

/// Whether a URL, or a template of one, has a user, a password or a secret in its query.
pub(crate) fn has_secrets(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return true;
    };
    let mut parameters = url.query().unwrap_or_default().split('&');
    !url.username().is_empty() || url.password().is_some() || parameters.any(is_secret)
}

/// The URL for logs: without `user:password@`, without a fragment, and with the secrets in its
/// query hidden. If the text is no URL, nothing of it is shown.
pub fn without_credentials(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return HIDDEN.to_owned();
    };
    if url
        .set_username("")
        .and_then(|()| url.set_password(None))
        .is_err()
        && !url.has_host()
    {
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

/// Whether a parameter of a query contains a secret. The text is as in the URL.
fn is_secret(parameter: &str) -> bool {
    let Some((name, value)) = form_urlencoded::parse(parameter.as_bytes()).next() else {
        return false;
    };
    // A parameter without `=`, or with an empty name, counts as a name and as a value.
    let value = if parameter.contains('=') {
        value
    } else {
        name.clone()
    };
    let value = value.replace(PLACEHOLDER, "");
    let is_class = value.is_empty() || value.parse::<Wnid>().is_ok();
    !is_class && (names_credential(&name) || has_credential_word(&value) || looks_random(&value))
}

fn names_credential(name: &str) -> bool {
    let lowercase = name.to_ascii_lowercase();
    SIGNED_URLS
        .iter()
        .any(|start| lowercase.replace('_', "-").starts_with(start))
        || SHORT_CREDENTIALS.contains(&lowercase.as_str())
        || has_credential_word(name)
}

fn has_credential_word(text: &str) -> bool {
    let is_credential = |word: &String| {
        CREDENTIAL_WORDS.contains(&word.as_str())
            || CREDENTIAL_ENDINGS
                .iter()
                .any(|ending| word.ends_with(ending))
    };
    // Capitals can be anywhere: `PassWord`.
    let mut letters = text.to_ascii_lowercase();
    letters.retain(|character| character.is_ascii_alphabetic());
    words_of(text).iter().any(is_credential) || is_credential(&letters)
}

/// The words of a name in lower case: `accessKey`, `AWSAccessKeyId` and `access_key2` contain
/// `key`.
fn words_of(name: &str) -> Vec<String> {
    let mut separated = String::new();
    let mut letters = name.chars().peekable();
    let mut before = ' ';
    while let Some(letter) = letters.next() {
        let is_before_small = letters.peek().is_some_and(char::is_ascii_lowercase);
        let ends_capitals = before.is_ascii_uppercase() && is_before_small;
        if letter.is_ascii_uppercase() && (before.is_ascii_lowercase() || ends_capitals) {
            separated.push(' ');
        }
        separated.push(letter);
        before = letter;
    }
    separated
        .split(|character: char| !character.is_ascii_alphabetic())
        .map(str::to_ascii_lowercase)
        .collect()
}

/// Whether a value is anything other than a few words and numbers.
fn looks_random(value: &str) -> bool {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "-_.,/+~ ".contains(character);
    let mut words = value.split(|character: char| !character.is_ascii_alphanumeric());
    value.len() > LONGEST_VALUE || !value.chars().all(is_plain) || !words.all(is_word)
}

/// Whether a row of letters and digits is a word, a number, or the name of a version.
fn is_word(word: &str) -> bool {
    if LONG_WORDS.contains(&word.to_ascii_lowercase().as_str()) || is_sized_name(word) {
        return true;
    }
    let pairs = || word.as_bytes().windows(2);
    let changes = pairs()
        .filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit())
        .count();
    let capitals = pairs()
        .filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
        .count();
    let is_cased = word.bytes().any(|byte| byte.is_ascii_lowercase())
        && word.bytes().skip(1).any(|byte| byte.is_ascii_uppercase());
    let is_mix = if is_cased {
        changes > 0 && word.len() >= SHORTEST_CASED_MIX
    } else {
        changes > 1 && word.len() >= SHORTEST_MIX
    };
    word.len() <= LONGEST_WORD && !is_mix && capitals < 3
}

/// Whether it is a word, a number and a unit, like `imagenet21k`.
fn is_sized_name(word: &str) -> bool {
    let Some(number) = word.find(|character: char| character.is_ascii_digit()) else {
        return false;
    };
    let (name, rest) = word.split_at(number);
    let unit = rest.trim_start_matches(|character: char| character.is_ascii_digit());
    let is_short = word.len() <= LONGEST_WORD + 2 && rest.len() - unit.len() <= 4;
    let is_one_case = name.bytes().skip(1).all(|byte| byte.is_ascii_lowercase());
    name.len() >= SHORTEST_NAME
        && is_one_case
        && is_short
        && UNITS.contains(&unit.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queries, and whether they have a secret.
    const QUERIES: &[(&str, bool)] = &[
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
        ("set=imagenet21k", false),
        ("set=ImageNet", false),
        ("subset=imagenet1k&size=224px", false),
        ("task=classification", false),
        ("design=flat", false),
        ("monkey=1", false),
        ("author=smith&keyword=cat&tokenizer=bpe", false),
        ("assigned=1&passage=2&hashtag=cat&userland=1", false),
        ("set=Winter2021", false),
        // Unknown names whose values look like words.
        ("x=hunter2", false),
        // Names of credentials in various spellings.
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
        ("accessKey=1", true),
        ("AWSAccessKeyId=1", true),
        ("GoogleAccessId=x&Signature=1", true),
        ("x_amz_security=1", true),
        ("account_key2=1", true),
        ("clientsecret=a", true),
        ("userId=7", true),
        ("st=a&e=1", true),
        ("otp=123456", true),
        ("AuthUser=a", true),
        // Values that match no other rule.
        ("x=9f86d081884c7d65", true),
        ("x=c7Gh29xK", true),
        ("x=aB3xY", true),
        ("x=QwErTyUi", true),
        ("x=abc12de", true),
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
    ];

    #[test]
    fn a_query_has_a_secret_if_a_name_or_a_value_looks_like_one() {
        for (query, is_secret) in QUERIES.iter().copied() {
            let url = format!("https://h/{{wnid}}.tar?{query}");
            assert_eq!(has_secrets(&url), is_secret, "{query}");
            let shown = without_credentials(&url);
            assert_eq!(shown.contains(HIDDEN), is_secret, "{query}: {shown}");
            assert_eq!(
                shown.ends_with(&format!("?{query}")),
                !is_secret,
                "{query}: {shown}"
            );
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
            assert_eq!(
                without_credentials(&format!("https://u:p@h/x?{query}#f")),
                format!("https://h/x?{shown}")
            );
        }
    }
}

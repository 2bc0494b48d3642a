//! Decides which redirects of the origin are followed: a few hops, never from https to http.
//! `allowed_addresses` decides which addresses are allowed.

use reqwest::{Response, header};
use url::Url;

use crate::origin::proxies::UnusableProxy;

/// Maximum number of redirects; no known origin needs more.
const MAX_HOPS: usize = 5;

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RefusedRedirect {
    /// A loop, or a long chain.
    #[error("too many redirects (more than {MAX_HOPS})")]
    TooMany,
    /// A redirect to a URL that has redirected already, without a cookie that could change its
    /// response.
    #[error("redirect loop: {url} was asked before")]
    Loop {
        /// The URL, without credentials.
        url: String,
    },
    /// `Location` is not a valid URL.
    #[error("redirect refused: its Location is no URL ({0})")]
    Unreadable(#[from] url::ParseError),
    /// From https to http.
    #[error("redirect from https to plain http refused, to {host}")]
    Downgrade {
        /// The destination.
        host: String,
    },
    /// Neither http nor https.
    #[error("redirect to a URL of the scheme {scheme} refused; only http and https are followed")]
    Scheme {
        /// The URL's scheme.
        scheme: String,
    },
    /// To an address that is not public.
    #[error("redirect to another host refused: {host} has a private address")]
    Private {
        /// The destination.
        host: String,
    },
    /// The destination can only be reached through a proxy that cannot be used.
    #[error("redirect to {host} cannot be followed ({why})")]
    Proxy {
        /// The destination.
        host: String,
        /// The error of the proxy.
        why: UnusableProxy,
    },
}

/// The destination of a redirect; `None` if the response is no redirect.
pub(crate) fn location(from: &Url, response: &Response) -> Result<Option<Url>, RefusedRedirect> {
    let is_redirect = matches!(response.status().as_u16(), 300..=303 | 307 | 308);
    match response.headers().get(header::LOCATION) {
        Some(value) if is_redirect => Ok(Some(resolve(from, value.as_bytes())?)),
        _ => Ok(None),
    }
}

/// Resolves a `Location` against the URL of the response. Bytes beyond ASCII are percent-encoded
/// unchanged, whatever encoding they have; the parser encodes spaces.
fn resolve(from: &Url, location: &[u8]) -> Result<Url, url::ParseError> {
    let encoded = location.iter().map(|byte| match byte {
        0x80.. => format!("%{byte:02X}"),
        byte => char::from(*byte).to_string(),
    });
    let mut to = from.join(&encoded.collect::<String>())?;
    // A fragment is never sent and is useless in a message.
    to.set_fragment(None);
    Ok(to)
}

/// Checks one hop except for its address. `hops`: the number of hops, including this one.
pub(crate) fn judge(from: &Url, to: &Url, hops: usize) -> Result<(), RefusedRedirect> {
    match (from.scheme(), to.scheme()) {
        _ if hops > MAX_HOPS => Err(RefusedRedirect::TooMany),
        ("https", "http") => Err(RefusedRedirect::Downgrade { host: host_of(to) }),
        (_, "http" | "https") => Ok(()),
        (_, scheme) => Err(RefusedRedirect::Scheme {
            scheme: scheme.to_owned(),
        }),
    }
}

/// The host of a URL, for messages.
pub(crate) fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// Whether the origin's secrets may be sent to a URL: it is the origin, or the origin over `https`.
pub(crate) fn shares_secrets(base: &Url, to: &Url) -> bool {
    let is_upgrade =
        (base.scheme(), base.port(), to.scheme(), to.port()) == ("http", None, "https", None);
    base.host() == to.host() && (base.origin() == to.origin() || is_upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{
        allowed_addresses::{AllowedAddresses, PrivateOrigin},
        lookup::Lookup,
    };

    #[tokio::main(flavor = "current_thread")]
    async fn hop(base: &str, to: &str, hops: usize) -> Result<(), RefusedRedirect> {
        let base = Url::parse(base).unwrap();
        let to = base.join(to).unwrap();
        judge(&base, &to, hops)?;
        let allowed =
            AllowedAddresses::new(base, PrivateOrigin::Allowed, Lookup::on_current_runtime());
        let host = to.host_str().unwrap_or_default().to_owned();
        allowed
            .check(&to)
            .await
            .map_err(|_| RefusedRedirect::Private { host })
    }

    #[test]
    fn a_redirect_to_a_public_host_is_followed() {
        for to in [
            "/moved/n1.tar",
            "https://www.image-net.org/n1.tar",
            "https://cdn.example:8443/n1.tar?signature=1",
            "https://93.184.216.34/",
            "https://[2606:2800:220:1::1]/",
        ] {
            assert_eq!(hop("https://image-net.org/x", to, 1), Ok(()), "{to}");
        }
        assert_eq!(
            hop("http://image-net.org/", "https://cdn.example/n1.tar", 5),
            Ok(())
        );
    }

    #[test]
    fn a_redirect_to_a_private_address_is_refused_with_the_name_of_the_host() {
        for to in [
            "169.254.169.254",
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "[::ffff:10.0.0.1]",
            "[::1]",
            "localhost",
            "a.localhost.",
            "192.168.1.1",
            "0.0.0.0",
        ] {
            let refused = hop("https://image-net.org/x", &format!("https://{to}/"), 1).unwrap_err();
            assert!(
                matches!(refused, RefusedRedirect::Private { .. }),
                "{to}: {refused}"
            );
        }
        let refused = hop("https://image-net.org/x", "https://10.0.0.1/", 1).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "redirect to another host refused: 10.0.0.1 has a private address"
        );
    }

    #[test]
    fn an_origin_in_a_private_range_may_redirect_within_it() {
        for (base, to, is_followed) in [
            ("10.0.0.1", "192.168.1.1", true),
            ("10.0.0.1", "[fd00::1]", true),
            ("10.0.0.1", "127.0.0.1", false),
            ("10.0.0.1", "169.254.169.254", false),
            ("127.0.0.1", "localhost", true),
            ("localhost", "127.0.0.2", true),
            ("127.0.0.1", "10.0.0.1", false),
            ("127.0.0.1", "0.0.0.0", false),
        ] {
            let followed = hop(&format!("http://{base}:1/"), &format!("http://{to}:2/"), 1);
            assert_eq!(followed.is_ok(), is_followed, "{base} {to}: {followed:?}");
        }
    }

    #[test]
    fn chains_downgrades_and_other_schemes_are_refused() {
        assert_eq!(
            hop("https://h.org/", "/again", 6),
            Err(RefusedRedirect::TooMany)
        );
        let host = "h.org".to_owned();
        assert_eq!(
            hop("https://h.org/", "http://h.org/", 1),
            Err(RefusedRedirect::Downgrade { host })
        );
        let scheme = "file".to_owned();
        assert_eq!(
            hop("https://h.org/", "file:///etc/passwd", 1),
            Err(RefusedRedirect::Scheme { scheme })
        );
    }

    #[test]
    fn secrets_are_sent_to_the_origin_only() {
        for (base, to, is_shared) in [
            ("https://h.org/a", "https://h.org/b", true),
            ("https://h.org/", "https://h.org:443/", true),
            ("http://h.org/", "https://h.org/", true),
            ("http://h.org:8080/", "https://h.org:8443/", false),
            ("http://h.org/", "https://h.org:8443/", false),
            ("https://h.org/", "http://h.org/", false),
            ("https://h.org/", "https://h.org:8443/", false),
            ("https://h.org/", "https://www.h.org/", false),
            ("https://www.h.org/", "https://h.org/", false),
        ] {
            let [base, to] = [base, to].map(|url| Url::parse(url).unwrap());
            assert_eq!(shares_secrets(&base, &to), is_shared, "{base} {to}");
        }
    }

    #[test]
    fn a_location_is_parsed_as_browsers_do() {
        let from = Url::parse("http://h.org/a/b?c").unwrap();
        for (location, expected) in [
            (&b"/x y/z.tar"[..], "http://h.org/x%20y/z.tar"),
            (b" /x.tar ", "http://h.org/x.tar"),
            (b"?id=a b", "http://h.org/a/b?id=a%20b"),
            (b"x.tar#fragment", "http://h.org/a/x.tar"),
            (
                "/für/n1.tar?k=ü".as_bytes(),
                "http://h.org/f%C3%BCr/n1.tar?k=%C3%BC",
            ),
            (b"/f\xfcr/n1.tar", "http://h.org/f%FCr/n1.tar"),
            (b"/a%20b/%zz", "http://h.org/a%20b/%zz"),
            (b"//cdn.org/x", "http://cdn.org/x"),
            (b"/a\\b", "http://h.org/a/b"),
            (
                "http://m\u{fc}nchen.example/".as_bytes(),
                "http://xn--mnchen-3ya.example/",
            ),
            (b"/[x]|{y}", "http://h.org/[x]|%7By%7D"),
        ] {
            let found = resolve(&from, location).map(String::from);
            assert_eq!(
                found.as_deref(),
                Ok(expected),
                "{}",
                String::from_utf8_lossy(location)
            );
        }
        assert!(resolve(&from, b"http://").is_err());
        assert!(resolve(&from, b"http://h:99999/").is_err());
    }
}

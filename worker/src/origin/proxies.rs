//! The forward proxies of the environment: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`,
//! with the rules of curl.
//!
//! Requests to a loopback host never use a proxy.

use std::{env, fmt};

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::{origin::address_range::AddressRange, source::shown};

/// Why a request cannot use the proxy that the environment sets for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableProxy {
    /// A protocol that is not supported, e.g. SOCKS.
    #[error(
        "use the proxy {proxy} of {variable}: only http:// and https:// proxies are supported; change the variable, or except \
         the origin with no_proxy"
    )]
    Scheme {
        /// The variable that applies.
        variable: &'static str,
        /// Its value, without credentials.
        proxy: String,
    },
    /// The value is no address of a proxy. It is not shown, because it may contain a password.
    #[error(
        "use the proxy of {variable}: its value is not of the form http://host:port; change it or unset it"
    )]
    Unreadable {
        /// The variable that applies.
        variable: &'static str,
    },
}

/// A proxy of the environment; `None` if the variable is not set.
type Setting = Option<Result<Url, UnusableProxy>>;

/// Selects the proxy of each request.
pub(crate) struct Proxies {
    http: Setting,
    https: Setting,
    /// Matches the URLs that `no_proxy` does not exclude.
    proxied: Matcher,
}

/// Without the values, because they may contain passwords.
impl fmt::Debug for Proxies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    /// The proxies of this process's environment.
    pub(crate) fn of_environment() -> Self {
        Self::of(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Reads the proxies; `variable` returns the value of an environment variable.
    fn of(variable: impl Fn(&'static str) -> Option<String>) -> Self {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                let value = variable(name)?.trim().to_owned();
                (!value.is_empty()).then_some((name, value))
            })
        };
        let setting = |names| {
            let (name, value) = first(names).or_else(|| first(["all_proxy", "ALL_PROXY"]))?;
            Some(proxy(name, &value))
        };
        let excepted = first(["no_proxy", "NO_PROXY"])
            .map(|(_, value)| value)
            .unwrap_or_default();
        let excepted: Vec<&str> = excepted
            .split([',', ' ', '\t'])
            .filter(|entry| !entry.is_empty())
            .collect();
        // The matcher supports `*` for names only and not for addresses.
        let any = if excepted.contains(&"*") {
            ""
        } else {
            "http://any"
        };
        Self {
            http: setting(["http_proxy", "HTTP_PROXY"]),
            https: setting(["https_proxy", "HTTPS_PROXY"]),
            proxied: Matcher::builder().all(any).no(excepted.join(",")).build(),
        }
    }

    /// The proxy for a request; `None`: the request goes directly to the host.
    ///
    /// # Errors
    /// [`UnusableProxy`] if the proxy that applies cannot be used.
    pub(crate) fn for_url(&self, url: &Url) -> Result<Option<Url>, UnusableProxy> {
        let setting = if url.scheme() == "https" {
            &self.https
        } else {
            &self.http
        };
        let is_proxied = || {
            url.origin()
                .ascii_serialization()
                .parse()
                .is_ok_and(|uri| self.proxied.intercept(&uri).is_some())
        };
        let is_loopback = AddressRange::without_lookup(url) == Some(AddressRange::Loopback);
        let setting = setting.as_ref().filter(|_| !is_loopback && is_proxied());
        setting.cloned().transpose()
    }
}

/// Parses the value of a variable. Without a scheme it is an `http` proxy.
fn proxy(variable: &'static str, value: &str) -> Result<Url, UnusableProxy> {
    let with_scheme = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    match Url::parse(&with_scheme) {
        Ok(proxy) if matches!(proxy.scheme(), "http" | "https") => Ok(proxy),
        Ok(proxy) => Err(UnusableProxy::Scheme {
            variable,
            proxy: shown_proxy(&proxy),
        }),
        Err(_) => Err(UnusableProxy::Unreadable { variable }),
    }
}

/// A proxy for messages, without credentials.
pub(crate) fn shown_proxy(proxy: &Url) -> String {
    shown(proxy).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxy for a URL in an environment.
    fn proxy_for(
        url: &str,
        environment: &[(&'static str, &str)],
    ) -> Result<Option<String>, String> {
        let variable = |name| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let found = Proxies::of(variable).for_url(&Url::parse(url).unwrap());
        found
            .map(|proxy| proxy.map(String::from))
            .map_err(|error| error.to_string())
    }

    const P: (&str, &str) = ("all_proxy", "http://p:3128");

    #[test]
    fn the_variable_of_the_scheme_takes_precedence_over_all_proxy() {
        let proxy = |host: &str| Ok(Some(format!("http://{host}/")));
        for (url, environment, expected) in [
            ("http://h.test/", &[][..], Ok(None)),
            ("http://h.test/", &[P], proxy("p:3128")),
            ("https://h.test/", &[P], proxy("p:3128")),
            ("http://h.test/", &[("http_proxy", "q:1"), P], proxy("q:1")),
            ("https://h.test/", &[("http_proxy", "q:1")], Ok(None)),
            ("https://h.test/", &[("HTTPS_PROXY", "q:1")], proxy("q:1")),
            (
                "http://h.test/",
                &[("http_proxy", ""), ("HTTP_PROXY", "q:1")],
                proxy("q:1"),
            ),
            ("http://h.test/", &[("http_proxy", " "), P], proxy("p:3128")),
            (
                "http://h.test/",
                &[("http_proxy", "http://u:p%40s@q:1")],
                proxy("u:p%40s@q:1"),
            ),
            ("http://127.0.0.1:80/", &[P], Ok(None)),
            ("http://[::1]/", &[P], Ok(None)),
            ("https://localhost/", &[P], Ok(None)),
            ("http://a.localhost/", &[P], Ok(None)),
            ("http://10.0.0.1/", &[P], proxy("p:3128")),
        ] {
            assert_eq!(
                proxy_for(url, environment),
                expected,
                "{url} {environment:?}"
            );
        }
    }

    #[test]
    fn no_proxy_excepts_hosts_and_a_star_excepts_all() {
        for (url, excepted, is_direct) in [
            ("http://h.test/", "*", true),
            ("http://10.0.0.1/", "*", true),
            ("http://[fd00::1]/", " * ", true),
            ("http://10.0.0.1/", "other.test,*", true),
            ("http://h.test/", "h.test", true),
            ("http://sub.h.test:8080/", "other.test .h.test", true),
            ("http://10.0.0.1/", "other.test, 10.0.0.0/8", true),
            ("http://noth.test/", "h.test", false),
            ("http://h.test/", "", false),
            ("http://h.test/", "*.test", false),
        ] {
            let found = proxy_for(url, &[P, ("NO_PROXY", excepted)]);
            assert_eq!(found.unwrap().is_none(), is_direct, "{url} {excepted}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_an_error_only_for_requests_to_which_it_applies() {
        let url = "http://h.test/";
        for value in [
            "socks5h://127.0.0.1:1080",
            "socks4://u:secret@h:1",
            "ftp://h:1",
        ] {
            let message = proxy_for(url, &[("all_proxy", value)]).unwrap_err();
            assert!(
                message.contains("only http:// and https:// proxies are supported"),
                "{message}"
            );
            assert!(
                message.contains("all_proxy") && !message.contains("secret"),
                "{message}"
            );
        }
        for value in [
            "http://",
            "http://h:99999",
            "h:port",
            "http://u:secret@h:x",
            "://",
            "a b",
        ] {
            let message = proxy_for(url, &[("HTTP_PROXY", value)]).unwrap_err();
            assert!(
                message.contains("HTTP_PROXY") && message.contains("http://host:port"),
                "{value}: {message}"
            );
            assert!(!message.contains("secret"), "{message}");
        }
        let socks = ("all_proxy", "socks5h://h:1");
        for (url, environment) in [
            (url, &[socks, ("no_proxy", "*")][..]),
            (url, &[socks, ("no_proxy", "h.test")]),
            (url, &[("https_proxy", "socks5h://h:1")]),
            ("http://127.0.0.1:8080/", &[socks]),
        ] {
            assert_eq!(proxy_for(url, environment), Ok(None), "{environment:?}");
        }
    }
}

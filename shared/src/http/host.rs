//! Where a request comes from: this machine, a reverse proxy on it, or elsewhere.
//!
//! A website can make its own name resolve to 127.0.0.1 (DNS rebinding). A browser then treats the
//! responses of this port as that site's and lets its pages read them. The browser sends the site's
//! name in `Host`, so a request with another name does not count as this machine's. Every browser
//! sends `Host`; a request without it comes from another kind of client and is accepted.
//!
//! A reverse proxy on this machine has a loopback address too and forwards the requests of other
//! machines, with the `Host` that these have chosen, which may be `localhost`. Where a proxy is
//! named (`--http-host`), no request therefore counts as this machine's. Where none is, one with a
//! header that proxies add (RFC 7239, RFC 9110 §7.6.3) does not.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderValue, Request,
    header::{FORWARDED, HOST, VIA},
    uri::Authority,
};

use super::connections::Peer;

/// Beginning of the names of headers that proxies add.
const FORWARDED_PREFIX: &str = "x-forwarded-";
const REAL_ADDRESS: &str = "x-real-ip";

/// Where a request comes from. It is in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A program on this machine that asks for this machine, where no proxy is named.
    ThisMachine,
    /// A reverse proxy on this machine, by a name of `--http-host`; where one is named, also a
    /// request for this machine, which the proxy may have forwarded.
    Proxy,
    /// Another machine, or a request on this one that names another host.
    Elsewhere,
}

/// The name of a reverse proxy, in lower case and without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl std::str::FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || "it takes a host name without a port, like watch.example.org".to_owned();
        let authority: Authority = text.parse().map_err(|_| refused())?;
        if authority.as_str() != authority.host() || text.ends_with('.') {
            return Err(refused());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl HostName {
    fn is(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_end_matches('.');
        host.eq_ignore_ascii_case(&self.0)
    }
}

/// Where a request comes from. `proxies`: the names of reverse proxies on this machine.
pub(super) fn source<B>(request: &Request<B>, peer: Peer, proxies: &[HostName]) -> Source {
    let names = names(request);
    if !peer.address.ip().to_canonical().is_loopback() {
        return Source::Elsewhere;
    }
    let all_are = |fits: &dyn Fn(&Authority) -> bool| {
        let mut names = names.iter();
        names.all(|name| name.as_ref().is_some_and(fits))
    };
    let is_proxy = |name: &Authority| proxies.iter().any(|proxy| proxy.is(name));
    if !names.is_empty() && all_are(&is_proxy) {
        Source::Proxy
    } else if !all_are(&is_loopback) || is_forwarded(request.headers()) {
        Source::Elsewhere
    } else if proxies.is_empty() {
        Source::ThisMachine
    } else {
        Source::Proxy
    }
}

/// The host names in the request; `None` for one that cannot be parsed.
fn names<B>(request: &Request<B>) -> Vec<Option<Authority>> {
    let headers = request.headers().get_all(HOST).iter();
    let parsed = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    let target = request.uri().authority().cloned().map(Some);
    headers.map(parsed).chain(target).collect()
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    let mut names = headers.keys();
    names.any(|name| {
        let text = name.as_str();
        name == FORWARDED
            || name == VIA
            || text == REAL_ADDRESS
            || text.starts_with(FORWARDED_PREFIX)
    })
}

/// Whether each host name in the request is a loopback name or that of a proxy. Ports are ignored,
/// because a tunnel has a port of its own.
pub(super) fn is_expected<B>(request: &Request<B>, proxies: &[HostName]) -> bool {
    let mut names = names(request).into_iter();
    names.all(|name| {
        name.is_some_and(|name| is_loopback(&name) || proxies.iter().any(|proxy| proxy.is(&name)))
    })
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, hosts: &[&str]) -> Request<()> {
        let request = hosts.iter().fold(Request::get(target), |request, host| {
            request.header(HOST, *host)
        });
        request.body(()).unwrap()
    }

    #[test]
    fn only_loopback_names_and_requests_without_a_name_are_accepted() {
        for host in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.9.9.9:80",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(is_expected(&request("/", &[host]), &[]), "{host}");
        }
        assert!(is_expected(&request("/", &[]), &[]));
        assert!(is_expected(
            &request("http://localhost/", &["localhost"]),
            &[]
        ));
        for host in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.localhost",
            "10.0.0.5",
            "0.0.0.0",
            "[::]",
            "[2001:db8::1]:80",
            "127.1",
            "2130706433",
            "localhost evil",
            "::1",
        ] {
            assert!(!is_expected(&request("/", &[host]), &[]), "{host}");
            assert!(
                !is_expected(&request("/", &["localhost", host]), &[]),
                "a second header, {host}"
            );
        }
        assert!(!is_expected(
            &request("http://evil.example/", &["localhost"]),
            &[]
        ));
    }

    fn peer(address: &str) -> Peer {
        Peer {
            address: address.parse().unwrap(),
            has_tls: false,
        }
    }

    #[test]
    fn a_request_is_this_machines_only_by_address_name_and_without_a_proxy() {
        let here = peer("127.0.0.1:5000");
        for (hosts, from, expected) in [
            (&["localhost:8080"][..], here, Source::ThisMachine),
            (&[], here, Source::ThisMachine),
            (
                &["[::1]"],
                peer("[::ffff:127.0.0.1]:1"),
                Source::ThisMachine,
            ),
            (&["localhost"], peer("10.0.0.5:5000"), Source::Elsewhere),
            (&["evil.example"], here, Source::Elsewhere),
            (&["localhost", "evil.example"], here, Source::Elsewhere),
        ] {
            assert_eq!(
                source(&request("/", hosts), from, &[]),
                expected,
                "{hosts:?}"
            );
        }
        for header in [
            "x-forwarded-for",
            "X-Forwarded-Proto",
            "forwarded",
            "via",
            "x-real-ip",
        ] {
            let mut forwarded = request("/", &["localhost"]);
            let name = http::HeaderName::from_bytes(header.as_bytes()).unwrap();
            forwarded.headers_mut().insert(name, "x".parse().unwrap());
            assert_eq!(source(&forwarded, here, &[]), Source::Elsewhere, "{header}");
        }
    }

    #[test]
    fn a_named_proxy_may_forward_any_host_and_is_never_this_machine() {
        let proxies: Vec<HostName> = vec!["Watch.example.org".parse().unwrap()];
        let here = peer("127.0.0.1:5000");
        for (hosts, from, expected) in [
            (&["watch.example.org:8443"][..], here, Source::Proxy),
            (&["watch.example.org."], here, Source::Proxy),
            (&["localhost:8080"], here, Source::Proxy),
            (&[], here, Source::Proxy),
            (&["watch.example.org", "localhost"], here, Source::Elsewhere),
            (&["evil.example"], here, Source::Elsewhere),
            (&["sub.watch.example.org"], here, Source::Elsewhere),
            (
                &["watch.example.org"],
                peer("10.0.0.5:5000"),
                Source::Elsewhere,
            ),
        ] {
            assert_eq!(
                source(&request("/", hosts), from, &proxies),
                expected,
                "{hosts:?}"
            );
        }
    }

    #[test]
    fn the_name_of_a_proxy_is_a_host_without_a_port() {
        for name in ["watch.example.org", "10.0.0.5", "[2001:db8::1]", "node-1"] {
            assert!(name.parse::<HostName>().is_ok(), "{name}");
        }
        for name in ["", "a:80", "http://a", "a/b", "user@a", "a b", "a."] {
            assert!(name.parse::<HostName>().is_err(), "{name}");
        }
        let proxies = ["watch.example.org".parse().unwrap()];
        assert!(is_expected(
            &request("/", &["watch.example.org:80"]),
            &proxies
        ));
        assert!(!is_expected(&request("/", &["evil.example"]), &proxies));
    }
}

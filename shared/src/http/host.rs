//! Whether a request to a loopback port names this machine.
//!
//! A website can make its own name resolve to 127.0.0.1 (DNS rebinding). A browser then treats the
//! responses of this port as that site's and lets its pages read them. The browser sends the site's
//! name in `Host`, so such requests are refused. Every browser sends `Host`; a request without it
//! comes from another kind of client and is accepted.

use std::net::IpAddr;

use http::{HeaderValue, Request, header::HOST, uri::Authority};

/// Whether each host name in the request is a loopback name. Ports are ignored, because a tunnel
/// has a port of its own.
pub(super) fn names_loopback<B>(request: &Request<B>) -> bool {
    let mut headers = request.headers().get_all(HOST).iter();
    headers.all(is_loopback_value) && request.uri().authority().is_none_or(is_loopback)
}

fn is_loopback_value(value: &HeaderValue) -> bool {
    value
        .to_str()
        .is_ok_and(|text| text.parse().is_ok_and(|authority| is_loopback(&authority)))
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
            assert!(names_loopback(&request("/", &[host])), "{host}");
        }
        assert!(names_loopback(&request("/", &[])));
        assert!(names_loopback(&request(
            "http://localhost/",
            &["localhost"]
        )));
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
            assert!(!names_loopback(&request("/", &[host])), "{host}");
            assert!(
                !names_loopback(&request("/", &["localhost", host])),
                "a second header, {host}"
            );
        }
        assert!(!names_loopback(&request(
            "http://evil.example/",
            &["localhost"]
        )));
    }
}

//! Where the origin may send us: a few hops, never to plain http, never to another site, never to private addresses.
//!
//! The address that was checked is the address that is connected to, because the check stands in the resolver.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use url::{Host, Url};

/// No origin needs more.
const MOST_HOPS: usize = 5;

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RefusedRedirect {
    /// A loop, or a long chain.
    #[error("too many redirects (more than {MOST_HOPS})")]
    TooMany,
    /// From https to http.
    #[error("redirect from https to plain http refused, to {host}")]
    Downgrade {
        /// Where it led.
        host: String,
    },
    /// To a host of somebody else.
    #[error("redirect to another host refused: {host}")]
    OtherHost {
        /// Where it led.
        host: String,
    },
    /// To another host or port while secret headers are set.
    #[error("redirect to {host} refused: the headers of --header-file are only sent to the origin itself")]
    Secrets {
        /// Where it led.
        host: String,
    },
}

/// Judges one hop. `secrets`: the requests carry headers that only the origin may see.
pub(crate) fn judge(base: &Url, from: &Url, to: &Url, hops: usize, secrets: bool) -> Result<(), RefusedRedirect> {
    let host = || to.host_str().unwrap_or("no host").to_owned();
    if hops > MOST_HOPS {
        return Err(RefusedRedirect::TooMany);
    }
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(RefusedRedirect::Downgrade { host: host() });
    }
    if !same_site(base, to) {
        return Err(RefusedRedirect::OtherHost { host: host() });
    }
    if secrets && (base.host() != to.host() || base.port_or_known_default() != to.port_or_known_default()) {
        return Err(RefusedRedirect::Secrets { host: host() });
    }
    Ok(())
}

/// The same host, or one below the other (`image-net.org` and `www.image-net.org`).
fn same_site(base: &Url, to: &Url) -> bool {
    match (base.host(), to.host()) {
        (Some(Host::Domain(base)), Some(Host::Domain(to))) => base == to || below(base, to) || below(to, base),
        (base, to) => base == to,
    }
}

fn below(lower: &str, upper: &str) -> bool {
    upper.contains('.') && lower.strip_suffix(upper).is_some_and(|rest| rest.ends_with('.'))
}

/// Hosts that the origin has sent us to. Everything else that is resolved, the user has named: the origin, a proxy.
pub(crate) type SentTo = Arc<Mutex<BTreeSet<String>>>;

/// The client's redirect policy for an origin; notes where it leads.
pub(crate) fn policy(base: Url, secrets: bool, sent_to: SentTo) -> Policy {
    Policy::custom(move |attempt| {
        let from = attempt.previous().last().unwrap_or(&base);
        match judge(&base, from, attempt.url(), attempt.previous().len(), secrets) {
            Ok(()) => {
                if let Some(host) = attempt.url().host_str().filter(|host| base.host_str() != Some(*host)) {
                    sent_to.lock().expect("nothing panics while it holds this lock").insert(host.to_owned());
                }
                attempt.follow()
            }
            Err(refused) => attempt.error(refused),
        }
    })
}

/// Resolves names; those that we were merely sent to must have public addresses.
#[derive(Debug)]
pub(crate) struct PublicAddresses {
    pub(crate) sent_to: SentTo,
}

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let named = !self.sent_to.lock().expect("nothing panics while it holds this lock").contains(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| named || is_public(address.ip())).collect();
            if allowed.is_empty() {
                return Err(RefusedRedirect::OtherHost { host: format!("{}, a private address", name.as_str()) }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Not loopback, link-local, private, shared, multicast or unspecified, also not as IPv4 in IPv6.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4() {
            Some(address) => is_public_v4(address),
            None => !(address.is_multicast() || address.is_unique_local() || address.is_unicast_link_local()),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    !(first == 0
        || shared
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(base: &str, to: &str, hops: usize, secrets: bool) -> Result<(), RefusedRedirect> {
        let base = Url::parse(base).unwrap();
        judge(&base, &base, &base.join(to).unwrap(), hops, secrets)
    }

    #[test]
    fn a_redirect_within_the_site_is_followed() {
        for to in ["/moved/n1.tar", "https://www.image-net.org/n1.tar", "https://data.image-net.org:8443/n1.tar"] {
            assert_eq!(hop("https://image-net.org/x", to, 1, false), Ok(()), "{to}");
        }
        assert_eq!(hop("https://www.image-net.org/", "https://image-net.org/n1.tar", 5, false), Ok(()));
        assert_eq!(hop("http://image-net.org/", "https://image-net.org/n1.tar", 1, false), Ok(()));
    }

    #[test]
    fn a_redirect_elsewhere_is_refused_and_the_host_named() {
        for to in [
            "169.254.169.254",
            "127.0.0.1",
            "[::ffff:10.0.0.1]",
            "evil.org",
            "evilimage-net.org",
            "org",
            "image-net.org.evil.org",
        ] {
            let refused = hop("https://image-net.org/x", &format!("https://{to}/"), 1, false).unwrap_err();
            assert!(matches!(refused, RefusedRedirect::OtherHost { .. }), "{to}: {refused}");
        }
        let refused = hop("https://image-net.org/x", "https://evil.org/", 1, false).unwrap_err();
        assert_eq!(refused.to_string(), "redirect to another host refused: evil.org");
    }

    #[test]
    fn chains_downgrades_and_leaking_secrets_are_refused() {
        assert_eq!(hop("https://h.org/", "/again", 6, false), Err(RefusedRedirect::TooMany));
        let host = "h.org".to_owned();
        assert_eq!(hop("https://h.org/", "http://h.org/", 1, false), Err(RefusedRedirect::Downgrade { host }));
        let host = "www.h.org".to_owned();
        assert_eq!(hop("https://h.org/", "https://www.h.org/", 1, true), Err(RefusedRedirect::Secrets { host }));
        assert_eq!(hop("https://h.org/", "https://h.org/y", 1, true), Ok(()));
    }

    #[tokio::test]
    async fn a_private_address_is_fine_for_a_host_that_the_user_named_and_for_no_other() {
        let sent_to = SentTo::default();
        let resolver = PublicAddresses { sent_to: sent_to.clone() };
        assert!(resolver.resolve("localhost".parse().unwrap()).await.is_ok());
        sent_to.lock().unwrap().insert("localhost".to_owned());
        let refused = resolver.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(refused.to_string().contains("localhost, a private address"), "{refused}");
    }

    #[test]
    fn private_addresses_are_known_in_every_dress() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["93.184.216.34", "172.15.0.1", "100.63.0.1", "2606:2800:220:1::1", "::ffff:93.184.216.34"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}

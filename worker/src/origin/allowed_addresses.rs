//! Protects against server-side request forgery and DNS rebinding: decides to which addresses the
//! requests of a job may go. Public addresses are always allowed. Private and loopback addresses
//! are allowed only if this worker permits them, and only in the categories (`AddressRange`) that
//! the addresses of the configured host had at its first lookup, so that no name can change to a
//! private address during a run. Link-local addresses and those of cloud metadata are never
//! allowed, because clouds serve credentials there.
//!
//! Invariant: the address that was checked is the address to which the connection is made, because
//! the resolvers of the HTTP clients perform the check. An address that is written in a URL is
//! checked before the request is sent.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::origin::{address_range::AddressRange, lookup::Lookup, redirect::RefusedRedirect};

/// Why no request is sent to a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAddress {
    /// All its addresses are in ranges that are never allowed.
    #[error(
        "{host} has a link-local or reserved address, which is never asked: give the coordinator another --url"
    )]
    Forbidden {
        /// The host's name or address.
        host: String,
    },
    /// This worker permits no private address: its coordinator is on another host, and could
    /// otherwise send it to addresses of the worker's network.
    #[error(
        "{host} has a private address, and this worker's coordinator is on another host: if the origin is meant to be there, \
         start the worker with --allow-private-origin"
    )]
    NotAllowed {
        /// The host's name or address.
        host: String,
    },
    /// A private address of a host that is not the configured one, or of a name that had only
    /// addresses of other categories at its first lookup.
    #[error(
        "{host} has a private address now, and had another one when this worker started: not asked"
    )]
    TurnedPrivate {
        /// The host's name.
        host: String,
    },
}

/// Whether the origin may be at a private or loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrivateOrigin {
    Allowed,
    Refused,
}

/// The address policy of one job. Clones share the categories that the first lookup of the origin
/// has found.
#[derive(Debug, Clone)]
pub(crate) struct AllowedAddresses {
    base: Url,
    private: PrivateOrigin,
    lookup: Lookup,
    /// Ranges of the configured host's addresses at its first successful lookup.
    first_ranges: Arc<OnceLock<Vec<AddressRange>>>,
}

impl AllowedAddresses {
    /// The rule for an origin; `base`: a URL of the configured host.
    pub(crate) fn new(base: Url, private: PrivateOrigin, lookup: Lookup) -> Self {
        Self {
            base,
            private,
            lookup,
            first_ranges: Arc::default(),
        }
    }

    /// Checks the configured host. `is_proxied`: a proxy looks up its name. A name that cannot be
    /// looked up now is checked at a later lookup.
    pub(crate) async fn check_origin(&self, is_proxied: bool) -> Result<(), RefusedAddress> {
        self.check(&self.base).await?;
        if let Some(Host::Domain(name)) = self.base.host()
            && !is_proxied
            && let Err(error) = self.addresses(name).await
            && let Ok(refused) = error.downcast()
        {
            return Err(*refused);
        }
        Ok(())
    }

    /// Checks an address that is written in a URL. The resolvers check the addresses of names.
    pub(crate) async fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        if let Some(range) = AddressRange::without_lookup(url)
            && range != AddressRange::Public
            && !self.allows(range, &self.ranges().await)
        {
            return Err(self.refusal(url.host_str().unwrap_or_default(), &[range]));
        }
        Ok(())
    }

    /// The allowed addresses of a host. The error is [`LookupFailed`](super::lookup::LookupFailed)
    /// or [`RefusedAddress`].
    async fn addresses(&self, host: &str) -> Result<Vec<SocketAddr>, LookupError> {
        let found = self.lookup.addresses(host).await?;
        let ranges = ranges_of(&found);
        if self.is_origin(host) {
            self.keep_first(&ranges);
        }
        if ranges.iter().all(|range| *range == AddressRange::Public) {
            return Ok(found);
        }
        let allowed = self.allowed(found, &self.ranges().await);
        if allowed.is_empty() {
            return Err(self.refusal(host, &ranges).into());
        }
        Ok(allowed)
    }

    /// The ranges of the configured host at its first lookup; empty while only a proxy can look it
    /// up.
    async fn ranges(&self) -> Vec<AddressRange> {
        if let Some(range) = AddressRange::without_lookup(&self.base) {
            return vec![range];
        }
        let host = self.base.host_str().unwrap_or_default();
        if self.first_ranges.get().is_none()
            && let Ok(found) = self.lookup.addresses(host).await
        {
            self.keep_first(&ranges_of(&found));
        }
        self.first_ranges.get().cloned().unwrap_or_default()
    }

    /// Keeps the ranges of the configured host if they are the first that were found.
    fn keep_first(&self, ranges: &[AddressRange]) {
        if !ranges.is_empty() {
            self.first_ranges.get_or_init(|| ranges.to_vec());
        }
    }

    /// Keeps only the allowed addresses.
    fn allowed(&self, found: Vec<SocketAddr>, first: &[AddressRange]) -> Vec<SocketAddr> {
        found
            .into_iter()
            .filter(|address| self.allows(AddressRange::of(address.ip()), first))
            .collect()
    }

    /// Whether a range is allowed; `first`: the ranges of the configured host.
    fn allows(&self, range: AddressRange, first: &[AddressRange]) -> bool {
        let may_be_private = self.private == PrivateOrigin::Allowed && first.contains(&range);
        range == AddressRange::Public || (range.is_private() && may_be_private)
    }

    fn refusal(&self, host: &str, ranges: &[AddressRange]) -> RefusedAddress {
        let host = host.to_owned();
        match ranges.iter().any(|range| range.is_private()) {
            true if self.private == PrivateOrigin::Refused => RefusedAddress::NotAllowed { host },
            true => RefusedAddress::TurnedPrivate { host },
            false => RefusedAddress::Forbidden { host },
        }
    }

    fn is_origin(&self, host: &str) -> bool {
        self.base.host_str() == Some(host)
    }
}

/// Why a host has no allowed addresses.
type LookupError = Box<dyn Error + Send + Sync>;

/// Resolves the names of the hosts of one HTTP client.
#[derive(Debug, Clone)]
pub(crate) enum Resolver {
    /// Checks the addresses of the configured host. Every other name is that of a proxy from the
    /// environment of this worker; proxies are not restricted.
    OfOrigin(AllowedAddresses),
    /// Checks the addresses of every host: they are named only by a redirect.
    OfRedirects(AllowedAddresses),
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let found = match resolver {
                Self::OfOrigin(allowed) if allowed.is_origin(name) => {
                    allowed.addresses(name).await?
                }
                Self::OfOrigin(allowed) => allowed.lookup.addresses(name).await?,
                Self::OfRedirects(allowed) => match allowed.addresses(name).await {
                    Err(error) if error.is::<RefusedAddress>() => {
                        let host = name.to_owned();
                        return Err(RefusedRedirect::Private { host }.into());
                    }
                    found => found?,
                },
            };
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn ranges_of(found: &[SocketAddr]) -> Vec<AddressRange> {
    let ranges = found.iter().map(|found| AddressRange::of(found.ip()));
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::{
        PrivateOrigin::{Allowed, Refused},
        *,
    };

    fn policy(base: &str, private: PrivateOrigin) -> AllowedAddresses {
        AllowedAddresses::new(
            Url::parse(base).unwrap(),
            private,
            Lookup::on_current_runtime(),
        )
    }

    /// The refusal of an origin at the start, if it is refused.
    #[tokio::main(flavor = "current_thread")]
    async fn refused(
        host: &str,
        private: PrivateOrigin,
        is_proxied: bool,
    ) -> Option<RefusedAddress> {
        policy(&format!("http://{host}:1/x"), private)
            .check_origin(is_proxied)
            .await
            .err()
    }

    const NEVER_ALLOWED: [&str; 13] = [
        "169.254.169.254",
        "169.254.0.1",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[fe80::1]",
        "[febf::1]",
        "[::ffff:169.254.169.254]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
    ];

    const PRIVATE: [&str; 18] = [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "localhost",
        "a.localhost.",
        "[::1]",
        "[fd00::1]",
        "[fc00::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:c0a8:101::1]",
        "[64:ff9b:1::1]",
    ];

    #[test]
    fn link_local_addresses_are_never_allowed_in_any_notation() {
        for host in
            NEVER_ALLOWED
                .into_iter()
                .chain(["0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255"])
        {
            for (private, is_proxied) in [(Refused, false), (Allowed, false), (Allowed, true)] {
                let refused = refused(host, private, is_proxied);
                assert!(
                    matches!(refused, Some(RefusedAddress::Forbidden { .. })),
                    "{host}: {refused:?}"
                );
            }
        }
    }

    #[test]
    fn private_addresses_are_allowed_only_if_the_worker_permits_them() {
        for host in PRIVATE {
            for is_proxied in [false, true] {
                let found = refused(host, Refused, is_proxied);
                let Some(refused) = found.clone() else {
                    panic!("{host} is not refused")
                };
                assert!(
                    matches!(refused, RefusedAddress::NotAllowed { .. }),
                    "{host}: {refused}"
                );
                assert!(
                    refused
                        .to_string()
                        .ends_with("start the worker with --allow-private-origin"),
                    "{refused}"
                );
            }
            assert_eq!(refused(host, Allowed, false), None, "{host}");
        }
        for public in [
            "93.184.216.34",
            "[2606:2800:220:1::1]",
            "[::ffff:93.184.216.34]",
        ] {
            assert_eq!(refused(public, Refused, false), None, "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_that_was_public_at_first_cannot_become_private() {
        let allowed = policy("http://origin.test/x", Allowed);
        allowed
            .first_ranges
            .set(vec![AddressRange::Public])
            .unwrap();
        for range in [
            AddressRange::Private,
            AddressRange::Loopback,
            AddressRange::LinkLocal,
        ] {
            assert!(!allowed.allows(range, &allowed.ranges().await), "{range:?}");
        }
        assert!(matches!(
            allowed.refusal("origin.test", &[AddressRange::Private]),
            RefusedAddress::TurnedPrivate { .. }
        ));
        assert!(allowed.allows(AddressRange::Public, &allowed.ranges().await));
    }

    /// The ranges of the first lookup apply for the whole run.
    #[tokio::test]
    async fn the_ranges_of_the_first_lookup_are_kept() {
        let allowed = policy("http://localhost.invalid/x", Allowed);
        assert_eq!(allowed.ranges().await, [], "the name cannot be looked up");
        let known = AllowedAddresses {
            base: Url::parse("http://ip6-localhost/x").unwrap(),
            ..allowed
        };
        if known.addresses("ip6-localhost").await.is_ok() {
            assert_eq!(
                known.first_ranges.get().map(|ranges| ranges[0]),
                Some(AddressRange::Loopback)
            );
        }
    }

    #[tokio::test]
    async fn a_name_with_a_private_address_is_refused_unless_the_origin_is_in_its_range() {
        for (base, private, is_allowed) in [
            ("http://127.0.0.1/", Allowed, true),
            ("http://localhost/", Allowed, true),
            ("http://127.0.0.1/", Refused, false),
            ("http://10.0.0.1/", Allowed, false),
            ("http://93.184.216.34/", Allowed, false),
        ] {
            let found = Resolver::OfRedirects(policy(base, private))
                .resolve("localhost".parse().unwrap())
                .await;
            assert_eq!(found.is_ok(), is_allowed, "{base}");
            if let Err(refused) = found {
                assert!(
                    refused
                        .to_string()
                        .contains("localhost has a private address"),
                    "{refused}"
                );
            }
        }
    }

    /// The operator of the worker has configured the proxy, so its address is not restricted.
    #[tokio::test]
    async fn only_a_proxys_name_is_resolved_without_the_rule() {
        for (base, is_found) in [("http://localhost/", false), ("http://origin.test/", true)] {
            let found = Resolver::OfOrigin(policy(base, Refused))
                .resolve("localhost".parse().unwrap())
                .await;
            assert_eq!(found.is_ok(), is_found, "{base}");
        }
    }

    #[tokio::test]
    async fn only_the_allowed_ones_of_several_addresses_are_used() {
        let addresses = [
            "93.184.216.34:0",
            "10.0.0.1:0",
            "127.0.0.1:0",
            "0.0.0.0:0",
            "169.254.0.1:0",
        ];
        let found = addresses
            .map(|text| text.parse::<SocketAddr>().unwrap())
            .to_vec();
        let allowed = |private, first: &[AddressRange]| {
            policy("http://h.test/", private).allowed(found.clone(), first)
        };
        assert_eq!(allowed(Allowed, &[]), found[..1]);
        assert_eq!(allowed(Allowed, &[AddressRange::Private]), found[..2]);
        assert_eq!(allowed(Refused, &[AddressRange::Private]), found[..1]);
        let first = [
            AddressRange::Loopback,
            AddressRange::Unusable,
            AddressRange::LinkLocal,
        ];
        assert_eq!(allowed(Allowed, &first)[1..], found[2..3]);
    }
}

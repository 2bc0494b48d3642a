//! Which addresses the requests of a job may go to. Public ones always. Private and loopback ones
//! only where this worker allows them, and only of the kinds that the configured host had at its
//! first lookup, so that no name turns private later in a run. Link-local ones never: clouds serve
//! credentials there.
//!
//! Invariant: the address that was checked is the address that is connected to, because the check
//! stands in the resolvers of the clients that make the connections; an address that stands in a
//! URL is checked before the URL is asked.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::origin::{address_range::AddressRange, lookup::Lookup, proxies::is_loopback, redirect::RefusedRedirect};

/// Why a host is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAddress {
    /// All its addresses are in ranges that are never asked.
    #[error("{host} has a link-local or reserved address, which is never asked: give the coordinator another --url")]
    Forbidden {
        /// The host's name or address.
        host: String,
    },
    /// A coordinator on another host may not send this worker to an address of the worker's
    /// network.
    #[error(
        "{host} has a private address, and this worker's coordinator is on another host: if the origin is meant to be there, \
         start the worker with --allow-private-origin"
    )]
    NotAllowed {
        /// The host's name or address.
        host: String,
    },
    /// A name that had only other addresses at its first lookup.
    #[error("{host} has a private address now, and had another one when this worker started: not asked")]
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

/// The rule for one job; clones share what is known of its origin.
#[derive(Debug, Clone)]
pub(crate) struct AllowedAddresses {
    base: Url,
    private: PrivateOrigin,
    lookup: Lookup,
    /// Ranges of the configured host's addresses at its first lookup.
    first_ranges: Arc<OnceLock<Vec<AddressRange>>>,
}

impl AllowedAddresses {
    /// `base`: a URL of the configured host.
    pub(crate) fn new(base: Url, private: PrivateOrigin, lookup: Lookup) -> Self {
        Self { base, private, lookup, first_ranges: Arc::default() }
    }

    /// Checks the configured host; `is_proxied`: its name is for a proxy to look up. A name that
    /// cannot be looked up now is checked when it can be.
    pub(crate) async fn check_origin(&self, is_proxied: bool) -> Result<(), RefusedAddress> {
        self.check(&self.base).await?;
        match self.base.host() {
            Some(Host::Domain(name)) if !is_proxied => match self.addresses(name).await {
                Err(LookupError::Refused(refused)) => Err(refused),
                Ok(_) | Err(LookupError::Failed(_)) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Checks an address that stands in a URL; what a name means is checked by the resolver.
    pub(crate) async fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        let Some(range) = range_by_text(url) else { return Ok(()) };
        if range == AddressRange::Public || self.allows(range, &self.ranges().await) {
            return Ok(());
        }
        Err(self.refusal(url.host_str().unwrap_or_default(), &[range]))
    }

    /// Those addresses of a host that may be asked.
    async fn addresses(&self, host: &str) -> Result<Vec<SocketAddr>, LookupError> {
        let found = self.lookup.addresses(host).await.map_err(|error| LookupError::Failed(error.into()))?;
        let ranges: Vec<_> = found.iter().map(|address| AddressRange::of(address.ip())).collect();
        if self.is_origin(host) && !ranges.is_empty() {
            self.first_ranges.get_or_init(|| ranges.clone());
        }
        if ranges.iter().all(|range| *range == AddressRange::Public) {
            return Ok(found);
        }
        let allowed = self.allowed(found, &self.ranges().await);
        if allowed.is_empty() { Err(LookupError::Refused(self.refusal(host, &ranges))) } else { Ok(allowed) }
    }

    /// The ranges that the configured host was in at first; none while only a proxy knows it.
    async fn ranges(&self) -> Vec<AddressRange> {
        if let Some(range) = range_by_text(&self.base) {
            return vec![range];
        }
        if self.first_ranges.get().is_none() {
            let found = self.lookup.addresses(self.base.host_str().unwrap_or_default()).await.unwrap_or_default();
            if !found.is_empty() {
                self.first_ranges.get_or_init(|| found.iter().map(|found| AddressRange::of(found.ip())).collect());
            }
        }
        self.first_ranges.get().cloned().unwrap_or_default()
    }

    /// Of several addresses those that may be asked.
    fn allowed(&self, found: Vec<SocketAddr>, first: &[AddressRange]) -> Vec<SocketAddr> {
        found.into_iter().filter(|address| self.allows(AddressRange::of(address.ip()), first)).collect()
    }

    /// `first`: the ranges of the configured host.
    fn allows(&self, range: AddressRange, first: &[AddressRange]) -> bool {
        match range {
            AddressRange::Public => true,
            AddressRange::Loopback | AddressRange::Private => {
                self.private == PrivateOrigin::Allowed && first.contains(&range)
            }
            AddressRange::LinkLocal | AddressRange::Unusable => false,
        }
    }

    fn refusal(&self, host: &str, ranges: &[AddressRange]) -> RefusedAddress {
        let host = host.to_owned();
        let is_private = |range: &AddressRange| matches!(range, AddressRange::Loopback | AddressRange::Private);
        match ranges.iter().any(is_private) {
            true if self.private == PrivateOrigin::Refused => RefusedAddress::NotAllowed { host },
            true => RefusedAddress::TurnedPrivate { host },
            false => RefusedAddress::Forbidden { host },
        }
    }

    fn is_origin(&self, host: &str) -> bool {
        self.base.host_str() == Some(host)
    }
}

/// Why there are no addresses.
enum LookupError {
    Failed(Box<dyn Error + Send + Sync>),
    Refused(RefusedAddress),
}

/// Resolves the configured host, as the rule allows it, and the proxies that this worker's
/// environment names.
#[derive(Debug, Clone)]
pub(crate) struct ChosenResolver(pub(crate) AllowedAddresses);

impl Resolve for ChosenResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self(allowed) = self.clone();
        Box::pin(async move {
            if !allowed.is_origin(name.as_str()) {
                let proxy = allowed.lookup.addresses(name.as_str()).await?;
                return Ok(Box::new(proxy.into_iter()) as Addrs);
            }
            match allowed.addresses(name.as_str()).await {
                Ok(found) => Ok(Box::new(found.into_iter()) as Addrs),
                Err(LookupError::Failed(error)) => Err(error),
                Err(LookupError::Refused(refused)) => Err(refused.into()),
            }
        })
    }
}

/// Resolves hosts that only a redirect has named.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver(pub(crate) AllowedAddresses);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self(allowed) = self.clone();
        Box::pin(async move {
            match allowed.addresses(name.as_str()).await {
                Ok(found) => Ok(Box::new(found.into_iter()) as Addrs),
                Err(LookupError::Failed(error)) => Err(error),
                Err(LookupError::Refused(_)) => Err(RefusedRedirect::Private { host: name.as_str().to_owned() }.into()),
            }
        })
    }
}

/// The range of a host that needs no resolver.
fn range_by_text(url: &Url) -> Option<AddressRange> {
    match url.host()? {
        Host::Ipv4(address) => Some(AddressRange::of(address.into())),
        Host::Ipv6(address) => Some(AddressRange::of(address.into())),
        Host::Domain(_) => is_loopback(url).then_some(AddressRange::Loopback),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        PrivateOrigin::{Allowed, Refused},
        *,
    };

    fn rule(base: &str, private: PrivateOrigin) -> AllowedAddresses {
        AllowedAddresses::new(Url::parse(base).unwrap(), private, Lookup::on_current_runtime())
    }

    /// What an origin is refused for at the start.
    #[tokio::main(flavor = "current_thread")]
    async fn refused(host: &str, private: PrivateOrigin, is_proxied: bool) -> Option<RefusedAddress> {
        rule(&format!("http://{host}:1/x"), private).check_origin(is_proxied).await.err()
    }

    const LINK_LOCAL: [&str; 13] = [
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
    fn link_local_addresses_are_never_asked_however_they_are_written() {
        for host in LINK_LOCAL.into_iter().chain(["0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255"]) {
            for (private, is_proxied) in [(Refused, false), (Allowed, false), (Allowed, true)] {
                let refused = refused(host, private, is_proxied);
                assert!(matches!(refused, Some(RefusedAddress::Forbidden { .. })), "{host}: {refused:?}");
            }
        }
    }

    #[test]
    fn private_addresses_are_asked_only_where_the_worker_allows_them() {
        for host in PRIVATE {
            for is_proxied in [false, true] {
                let found = refused(host, Refused, is_proxied);
                let Some(refused) = found.clone() else { panic!("{host} would be asked") };
                assert!(matches!(refused, RefusedAddress::NotAllowed { .. }), "{host}: {refused}");
                assert!(refused.to_string().ends_with("start the worker with --allow-private-origin"), "{refused}");
            }
            assert_eq!(refused(host, Allowed, false), None, "{host}");
        }
        for public in ["93.184.216.34", "[2606:2800:220:1::1]", "[::ffff:93.184.216.34]"] {
            assert_eq!(refused(public, Refused, false), None, "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_that_was_public_at_first_does_not_turn_private() {
        let allowed = rule("http://origin.test/x", Allowed);
        allowed.first_ranges.set(vec![AddressRange::Public]).unwrap();
        for range in [AddressRange::Private, AddressRange::Loopback, AddressRange::LinkLocal] {
            assert!(!allowed.allows(range, &allowed.ranges().await), "{range:?}");
        }
        assert!(matches!(
            allowed.refusal("origin.test", &[AddressRange::Private]),
            RefusedAddress::TurnedPrivate { .. }
        ));
        assert!(allowed.allows(AddressRange::Public, &allowed.ranges().await));
    }

    /// What the first lookup has found stays the rule for the run.
    #[tokio::test]
    async fn the_ranges_of_the_first_lookup_are_kept() {
        let allowed = rule("http://localhost.invalid/x", Allowed);
        assert_eq!(allowed.ranges().await, [], "nothing is known of it");
        let known = AllowedAddresses { base: Url::parse("http://ip6-localhost/x").unwrap(), ..allowed };
        if known.addresses("ip6-localhost").await.is_ok() {
            assert_eq!(known.first_ranges.get().map(|ranges| ranges[0]), Some(AddressRange::Loopback));
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
            let found = GuardedResolver(rule(base, private)).resolve("localhost".parse().unwrap()).await;
            assert_eq!(found.is_ok(), is_allowed, "{base}");
            if let Err(refused) = found {
                assert!(refused.to_string().contains("localhost has a private address"), "{refused}");
            }
        }
    }

    /// A proxy is this worker's own choice, wherever it is.
    #[tokio::test]
    async fn only_the_name_of_a_proxy_is_resolved_without_the_rule() {
        for (base, is_found) in [("http://localhost/", false), ("http://origin.test/", true)] {
            let found = ChosenResolver(rule(base, Refused)).resolve("localhost".parse().unwrap()).await;
            assert_eq!(found.is_ok(), is_found, "{base}");
        }
    }

    #[tokio::test]
    async fn of_several_addresses_only_those_that_are_allowed_are_connected_to() {
        let addresses = ["93.184.216.34:0", "10.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0", "169.254.0.1:0"];
        let found = addresses.map(|text| text.parse::<SocketAddr>().unwrap()).to_vec();
        let allowed = |private, first: &[AddressRange]| rule("http://h.test/", private).allowed(found.clone(), first);
        assert_eq!(allowed(Allowed, &[]), found[..1]);
        assert_eq!(allowed(Allowed, &[AddressRange::Private]), found[..2]);
        assert_eq!(allowed(Refused, &[AddressRange::Private]), found[..1]);
        let first = [AddressRange::Loopback, AddressRange::Unusable, AddressRange::LinkLocal];
        assert_eq!(allowed(Allowed, &first)[1..], found[2..3]);
    }
}

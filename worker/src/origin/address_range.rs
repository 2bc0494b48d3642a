//! Classifies IP addresses for the rules about the hosts of a job. No I/O, no clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The network from which an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressRange {
    /// The internet.
    Public,
    /// This machine.
    Loopback,
    /// This link, and the other addresses at which clouds serve credentials ([`METADATA`]).
    LinkLocal,
    /// A private network (RFC 1918, RFC 4193, shared address space, protocol assignments,
    /// benchmarking of networks).
    Private,
    /// Addresses that no server can have: unspecified, multicast, reserved.
    Unusable,
}

/// Addresses, besides 169.254.169.254, at which clouds serve credentials: Alibaba, Oracle, Azure.
const METADATA: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// The address at which Amazon serves credentials over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

impl AddressRange {
    /// The range of an address. An IPv4 address embedded in an IPv6 address (mapped, compatible,
    /// translated, 6to4, NAT64, Teredo, ISATAP) determines the range.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// The range of a host that needs no lookup: an address, or `localhost` (RFC 6761 §6.3).
    pub(crate) fn without_lookup(url: &Url) -> Option<Self> {
        match url.host()? {
            Host::Ipv4(address) => Some(of_v4(address)),
            Host::Ipv6(address) => Some(of_v6(address)),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                (name == "localhost" || name.ends_with(".localhost")).then_some(Self::Loopback)
            }
        }
    }

    /// Whether only this machine or a private network can reach it.
    pub(crate) fn is_private(self) -> bool {
        matches!(self, Self::Loopback | Self::Private)
    }
}

fn of_v4(address: Ipv4Addr) -> AddressRange {
    let [first, second, third, _] = address.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    // RFC 6890 and RFC 2544: both are used within networks, and never on the internet.
    let is_assigned =
        (first, second, third) == (192, 0, 0) || (first == 198 && (18..20).contains(&second));
    if address.is_loopback() {
        AddressRange::Loopback
    } else if address.is_link_local() || METADATA.contains(&address) {
        AddressRange::LinkLocal
    } else if address.is_private() || is_shared || is_assigned {
        AddressRange::Private
    } else if first == 0 || first >= 224 {
        AddressRange::Unusable
    } else {
        AddressRange::Public
    }
}

fn of_v6(address: Ipv6Addr) -> AddressRange {
    // The deprecated form of private addresses (RFC 3879).
    let is_site_local = address.segments()[0] & 0xffc0 == 0xfec0;
    // A NAT64 translator of the local network can translate it to any address there (RFC 8215).
    let is_local_nat64 = address.segments()[..3] == [0x64, 0xff9b, 1];
    if address.is_loopback() {
        AddressRange::Loopback
    } else if address.is_unicast_link_local() || address == METADATA_V6 {
        AddressRange::LinkLocal
    } else if let Some(embedded) = embedded_v4(address) {
        of_v4(embedded)
    } else if address.is_unique_local() || is_site_local || is_local_nat64 {
        AddressRange::Private
    } else if address.is_multicast() {
        AddressRange::Unusable
    } else {
        AddressRange::Public
    }
}

fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // Teredo stores the client's address inverted (RFC 4380).
        [0x2001, 0, .., high, low] => Some(v4(!high, !low)),
        // 6to4, NAT64, translated (RFC 7915), and ISATAP (RFC 5214).
        [0x2002, high, low, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [.., 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => address.to_ipv4(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_of_an_address_has_its_range() {
        for (range, addresses) in [
            (
                AddressRange::Loopback,
                "127.0.0.1 127.255.0.1 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1",
            ),
            (
                AddressRange::LinkLocal,
                "169.254.169.254 fe80::1 ::ffff:169.254.169.254 2002:a9fe:a9fe::1 \
                 2001:0:1:2:3:4:5601:5601 fd00:ec2::254 ::ffff:100.100.100.200 168.63.129.16 \
                 ::ffff:0:169.254.169.254 2001:db8::5efe:169.254.169.254 \
                 2001:db8::200:5efe:169.254.169.254",
            ),
            (
                AddressRange::Private,
                "10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 192.0.0.8 198.18.0.1 198.19.255.255 \
                 fd00::1 fec0::1 ::ffff:10.0.0.1 ::10.0.0.1 2002:a00:1:: 64:ff9b:1::a00:1 \
                 2001:0:1:2:3:4:f5ff:fffe",
            ),
            (
                AddressRange::Unusable,
                "0.0.0.0 0.1.2.3 224.0.0.1 255.255.255.255 240.0.0.1 :: ff02::1",
            ),
            (
                AddressRange::Public,
                "93.184.216.34 172.15.0.1 172.32.0.1 100.63.0.1 192.0.1.1 198.17.255.255 \
                 198.20.0.1 100.128.0.1 169.253.0.1 2606:2800:220:1::1 ::ffff:93.184.216.34 \
                 2002:5db8:d822::1",
            ),
        ] {
            for address in addresses.split_whitespace() {
                assert_eq!(
                    AddressRange::of(address.parse().unwrap()),
                    range,
                    "{address}"
                );
            }
        }
    }
}

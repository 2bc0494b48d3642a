//! The kinds of IP addresses that a redirect is judged by. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address can be reached from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressRange {
    /// The internet.
    Public,
    /// This machine.
    Loopback,
    /// This link; clouds serve credentials there (169.254.169.254).
    LinkLocal,
    /// A private network (RFC 1918, RFC 4193, shared address space).
    Private,
    /// Nothing that a server could have: unspecified, multicast, reserved.
    Unusable,
}

impl AddressRange {
    /// The range of an address. Of an IPv4 address within an IPv6 address (mapped, compatible, 6to4, NAT64) it is that of the
    /// IPv4 address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> AddressRange {
    let [first, second, ..] = address.octets();
    if address.is_loopback() {
        AddressRange::Loopback
    } else if address.is_link_local() {
        AddressRange::LinkLocal
    } else if address.is_private() || (first == 100 && (64..128).contains(&second)) {
        AddressRange::Private
    } else if first == 0 || first >= 224 {
        AddressRange::Unusable
    } else {
        AddressRange::Public
    }
}

fn of_v6(address: Ipv6Addr) -> AddressRange {
    if address.is_loopback() {
        AddressRange::Loopback
    } else if address.is_unicast_link_local() {
        AddressRange::LinkLocal
    } else if let Some(embedded) = embedded_v4(address) {
        of_v4(embedded)
    } else if address.is_unique_local() || address.segments()[0] & 0xffc0 == 0xfec0 {
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
        [0x2002, high, low, ..] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        _ => address.to_ipv4(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_of_an_address_has_its_range() {
        for (range, addresses) in [
            (AddressRange::Loopback, &["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"][..]),
            (AddressRange::LinkLocal, &["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1"]),
            (
                AddressRange::Private,
                &[
                    "10.1.2.3",
                    "172.16.0.1",
                    "192.168.1.1",
                    "100.64.0.1",
                    "fd00::1",
                    "fec0::1",
                    "::ffff:10.0.0.1",
                    "::10.0.0.1",
                    "2002:a00:1::",
                ],
            ),
            (
                AddressRange::Unusable,
                &["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "ff02::1"],
            ),
            (
                AddressRange::Public,
                &[
                    "93.184.216.34",
                    "172.15.0.1",
                    "172.32.0.1",
                    "100.63.0.1",
                    "100.128.0.1",
                    "169.253.0.1",
                    "2606:2800:220:1::1",
                    "::ffff:93.184.216.34",
                    "2002:5db8:d822::1",
                ],
            ),
        ] {
            for address in addresses {
                assert_eq!(AddressRange::of(address.parse().unwrap()), range, "{address}");
            }
        }
    }
}

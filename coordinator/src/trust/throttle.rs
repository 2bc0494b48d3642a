//! How fast one address may show wrong credentials: one a second after a small burst. Pure: time is given.
//!
//! A valid credential is never held up, from whatever address it comes: a secret has 256 bits, so the limit guards the log
//! and the processor, not the secret.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

/// Of one address.
const EVERY: Duration = Duration::from_secs(1);
/// So many are answered at once.
const BURST: u32 = 5;
/// An answer is held back for no longer, so at most as many seconds' worth of them wait.
const LONGEST: Duration = Duration::from_secs(5);
/// Addresses that are remembered; beyond, strangers share one limit.
const ADDRESSES: usize = 4096;

/// When a wrong credential is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Now,
    At(Instant),
    /// There are too many already.
    Refuse,
}

/// What is known of the addresses.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// When the address will have made good for all it has sent.
    debts: HashMap<IpAddr, Instant>,
}

impl Throttle {
    /// The address has shown a wrong credential.
    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) -> Answer {
        let mut key = network(address);
        if self.debts.len() >= ADDRESSES && !self.debts.contains_key(&key) {
            self.debts.retain(|_, debt| *debt > now);
            if self.debts.len() >= ADDRESSES {
                key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let debt = self.debts.entry(key).or_insert(now);
        let paid = (*debt).max(now) + EVERY;
        let wait = (paid - now).saturating_sub(EVERY * BURST);
        if wait > LONGEST {
            return Answer::Refuse;
        }
        *debt = paid;
        if wait.is_zero() { Answer::Now } else { Answer::At(now + wait) }
    }
}

/// One host has a whole network of addresses in IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn after_a_burst_one_a_second_is_answered_and_few_wait() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(throttle.failed(ONE, now), Answer::Now);
        }
        for second in 1..=5 {
            assert_eq!(throttle.failed(ONE, now), Answer::At(now + Duration::from_secs(second)));
        }
        assert_eq!(throttle.failed(ONE, now), Answer::Refuse);
        assert_eq!(throttle.failed(OTHER, now), Answer::Now);
        let later = now + Duration::from_secs(1);
        assert_eq!(throttle.failed(ONE, later), Answer::At(later + Duration::from_secs(5)));
        let much_later = now + Duration::from_mins(1);
        assert_eq!(throttle.failed(ONE, much_later), Answer::Now);
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_is_one() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let answers = (0..20_u128).map(|n| throttle.failed(IpAddr::V6((0x2001_0db8_u128 << 96 | n).into()), now));
        assert_eq!(answers.filter(|answer| *answer == Answer::Now).count(), 5);
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_there_are() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..20_000_u32 {
            throttle.failed(IpAddr::V4(n.into()), now);
        }
        assert!(throttle.debts.len() <= ADDRESSES + 1);
        throttle.failed(ONE, now + Duration::from_mins(10));
        assert!(throttle.debts.len() <= 2);
    }
}

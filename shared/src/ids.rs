//! Ids of leases, sessions and credentials, as separate types so that they cannot be confused.

use std::fmt;

/// Fencing token of a lease: the coordinator's epoch in the upper half, a sequence number in the
/// lower.
///
/// Tokens grow strictly, also across restarts of the coordinator, because each start takes a higher
/// epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(pub u64);

impl LeaseToken {
    /// The first token of an epoch.
    pub fn first(epoch: u32) -> Self {
        Self(u64::from(epoch) << 32)
    }

    /// Whether a coordinator of an epoch before that of `first` can have granted this token: epochs
    /// and sequence numbers begin with 1.
    pub fn is_of_an_epoch_before(self, first: Self) -> bool {
        let has_epoch = self.0 >> 32 > 0;
        let has_sequence = self.0 & u64::from(u32::MAX) > 0;
        has_epoch && has_sequence && self < first
    }

    /// The token after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}.{}",
            self.0 >> 32,
            self.0 & u64::from(u32::MAX)
        )
    }
}

/// A worker's session with the coordinator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Identifies a credential of workers without revealing it: 64 bits of a digest of a token.
///
/// From the id of a token with 256 random bits, as `coordinator init` makes them, nothing about the
/// token can be derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId(pub u64);

impl CredentialId {
    /// The id of all client certificates. They need no separate ids, because a certificate is valid
    /// only for the names in it.
    pub const CERTIFICATE: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_outranks_every_token_of_an_earlier_one() {
        let late_in_epoch_one = LeaseToken((1 << 32) | u64::from(u32::MAX));
        assert!(LeaseToken::first(2) > late_in_epoch_one);
        assert_eq!(LeaseToken::first(2).next().to_string(), "2.1");
        for (token, is_former) in [
            (0, false),
            (1, false),
            (1 << 32, false),
            ((1 << 32) + 1, true),
            (2 << 32, false),
            ((2 << 32) + 1, false),
        ] {
            assert_eq!(
                LeaseToken(token).is_of_an_epoch_before(LeaseToken::first(2)),
                is_former,
                "{token}"
            );
        }
        assert!(late_in_epoch_one.is_of_an_epoch_before(LeaseToken::first(2)));
    }
}

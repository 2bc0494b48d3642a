//! The schedule of a link with a fixed rate: gives each portion of bytes its time slot.

use std::time::Duration;

use tokio::time::Instant;

/// How far back an idle link may schedule. More would allow bursts that no real link has.
const BURST: Duration = Duration::from_millis(20);

/// The time at which the link is free again; one per connection, or one shared by all.
///
/// Slots are given in the order of the calls, so small portions divide a shared link equally.
#[derive(Debug, Default)]
pub(crate) struct LinkSchedule {
    free_at: Option<Instant>,
}

/// The time slot of a portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeSlot {
    pub(crate) begins: Instant,
    pub(crate) ends: Instant,
}

impl LinkSchedule {
    /// Gives the next slot to a portion of `bytes` at `rate` bytes per second.
    pub(crate) fn take(&mut self, bytes: u64, rate: u64, now: Instant) -> TimeSlot {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begins = self.free_at.map_or(now, |free_at| free_at.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let ends = begins + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = Some(ends);
        TimeSlot { begins, ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn slots_follow_each_other_at_the_rate() {
        let mut link = LinkSchedule::default();
        let now = Instant::now();
        let slots = [10, 20, 5].map(|bytes| link.take(bytes, 1000, now));
        assert_eq!(
            slots[0],
            TimeSlot {
                begins: now,
                ends: now + 10 * MS
            }
        );
        assert_eq!(
            slots[1],
            TimeSlot {
                begins: now + 10 * MS,
                ends: now + 30 * MS
            }
        );
        assert_eq!(
            slots[2],
            TimeSlot {
                begins: now + 30 * MS,
                ends: now + 35 * MS
            }
        );
    }

    #[test]
    fn an_idle_link_makes_up_for_at_most_the_burst() {
        let mut link = LinkSchedule::default();
        let start = Instant::now();
        link.take(10, 1000, start);
        let late = start + 15 * MS;
        assert_eq!(
            link.take(10, 1000, late).begins,
            start + 10 * MS,
            "five idle milliseconds are made up for"
        );
        let later = start + 10_000 * MS;
        assert_eq!(link.take(10, 1000, later).begins, later - BURST);
    }
}

//! A line of so many bytes per second, as a timetable: who wants to send is told when.

use std::time::Duration;

use tokio::time::Instant;

/// What an idle line may make up for. More would be a burst that no real line has.
const BURST: Duration = Duration::from_millis(20);

/// When the line is free again; one for a connection, or one that all share.
///
/// Whoever shares it takes turns in the order of asking, so small portions make the shares equal.
#[derive(Debug, Default)]
pub(crate) struct Line {
    free_at: Option<Instant>,
}

/// The time that a portion has the line to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) begins: Instant,
    pub(crate) ends: Instant,
}

impl Line {
    /// Gives the next turn to so many bytes, which take so long at `rate` bytes per second.
    pub(crate) fn take(&mut self, bytes: u64, rate: u64, now: Instant) -> Turn {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begins = self.free_at.map_or(now, |free_at| free_at.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let ends = begins + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = Some(ends);
        Turn { begins, ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn turns_follow_each_other_at_the_rate() {
        let (mut line, now) = (Line::default(), Instant::now());
        let turns = [10, 20, 5].map(|bytes| line.take(bytes, 1000, now));
        assert_eq!(turns[0], Turn { begins: now, ends: now + 10 * MS });
        assert_eq!(turns[1], Turn { begins: now + 10 * MS, ends: now + 30 * MS });
        assert_eq!(turns[2], Turn { begins: now + 30 * MS, ends: now + 35 * MS });
    }

    #[test]
    fn who_comes_late_makes_up_for_no_more_than_a_moment() {
        let (mut line, start) = (Line::default(), Instant::now());
        line.take(10, 1000, start);
        let late = start + 15 * MS;
        assert_eq!(line.take(10, 1000, late).begins, start + 10 * MS, "five milliseconds are made up for");
        let later = start + 10_000 * MS;
        assert_eq!(line.take(10, 1000, later).begins, later - BURST);
    }
}

//! The bytes that the running classes have claimed, and what that leaves for another one. Pure.

use std::collections::BTreeMap;

/// A class that exceeds its announced length is compared with the disk again after this many bytes.
pub(super) const STEP: u64 = 1 << 20;
/// If the length of an ordinary class is not known, this many consecutive classes that do not fit
/// mean that the disk is full.
const REFUSALS_OF_A_FULL_DISK: u32 = 3;

/// A class of unknown length that exceeds half of the free space leaves 1/`RESERVE` of the space
/// that was free when it began, and at least the space of an ordinary class.
const RESERVE: u64 = 16;

/// The file system uses at most one byte per this many counted bytes for its own structures, the
/// journal and the manifest.
const OVERHEAD: u64 = 32;

/// The bytes that the running classes will still write, and statistics of class lengths. Pure.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Bytes that each running class will still write.
    pub(super) unwritten: BTreeMap<u64, u64>,
    last: u64,
    /// Number of classes that were begun with a known length; `begun_bytes` is the sum of their
    /// lengths.
    begun: u64,
    begun_bytes: u64,
    /// Number of consecutive classes that did not fit.
    refused: u32,
    /// The class that has exceeded half of the free space, and its bytes.
    pub(super) beyond_half: Option<(u64, u64)>,
    /// Number of classes that wait for space.
    pub(super) waiting: u32,
    /// Bytes that the classes of this process have written since it started.
    pub(super) written: u64,
}

/// The initial state with which a class of unknown length is compared if it exceeds half of the
/// free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Baseline {
    /// Free bytes when the class began; `written_before` is what this process had written by then.
    free_before: u64,
    pub(super) written_before: u64,
}

/// The result of the comparison before a class begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// It would fit if the running classes ended without using their claims, or if the class that
    /// exceeds half of the free space failed.
    Later,
    /// It does not fit, but ordinary classes do.
    TooLong,
    /// Ordinary classes do not fit either.
    DiskIsFull,
}

impl Claims {
    /// Whether a class that takes `needed` bytes of the disk may begin.
    pub(super) fn judge(&mut self, needed: u64, free: u64) -> Fit {
        if needed <= self.left_of(free) {
            self.refused = 0;
            return Fit::Fits;
        }
        let beyond_half = self.beyond_half.map_or(0, |(_, bytes)| bytes);
        if needed <= free.saturating_add(beyond_half) {
            return Fit::Later;
        }
        self.refused = self.refused.saturating_add(1);
        match self.ordinary() {
            Some(ordinary) if self.left_of(free) < ordinary => Fit::DiskIsFull,
            None if self.refused >= REFUSALS_OF_A_FULL_DISK => Fit::DiskIsFull,
            _ => Fit::TooLong,
        }
    }

    /// Mean length of the classes that were begun, if any had a known length.
    fn ordinary(&self) -> Option<u64> {
        self.begun_bytes.checked_div(self.begun)
    }

    /// Whether a class that has exceeded its announced length may continue. `baseline`: `None` if
    /// it may not exceed half.
    pub(super) fn may_continue(
        &mut self,
        id: u64,
        used: u64,
        free: u64,
        baseline: Option<Baseline>,
    ) -> bool {
        let left = self.left_of(free);
        if used <= left {
            return true;
        }
        // The files of the running classes may take a quarter more of the disk than their announced
        // lengths.
        let claimed = free - left;
        let for_it = left.saturating_sub(claimed / 4);
        let ordinary = self.ordinary().unwrap_or_default();
        let may = self.waiting == 0
            && self.beyond_half.is_none_or(|(other, _)| other == id)
            && baseline.is_some_and(|baseline| {
                for_it >= (baseline.free_before / RESERVE).max(ordinary)
                    && !self.is_written_by_others(baseline, free)
            });
        if may {
            self.beyond_half = Some((id, used));
        }
        may
    }

    /// Whether the free space has decreased by more than this process can have written. Any part of
    /// the announced bytes of running classes may already be on the disk, as parts of their tars.
    fn is_written_by_others(&self, baseline: Baseline, free: u64) -> bool {
        let written = self.written - baseline.written_before;
        let written = written.saturating_add(self.unwritten());
        let shrunk = baseline.free_before.saturating_sub(free);
        shrunk > written.saturating_add(written / OVERHEAD + STEP)
    }

    fn unwritten(&self) -> u64 {
        self.unwritten
            .values()
            .fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The free bytes that no running class has claimed.
    pub(super) fn left_of(&self, free: u64) -> u64 {
        free.saturating_sub(self.unwritten())
    }

    pub(super) fn add(&mut self, length: Option<u64>, needed: u64) -> u64 {
        if let Some(length) = length {
            self.begun += 1;
            self.begun_bytes = self.begun_bytes.saturating_add(length);
        }
        self.last += 1;
        self.unwritten.insert(self.last, needed);
        self.last
    }

    /// The state to compare with if the class may exceed half of the free space; otherwise `None`.
    pub(super) fn baseline(&self, length: Option<u64>, free: Option<u64>) -> Option<Baseline> {
        let free_before = free.filter(|_| length.is_none())?;
        Some(Baseline {
            free_before,
            written_before: self.written,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// A class that must leave `reserve` bytes if it exceeds half, on a disk that no other process
    /// uses.
    fn leaving(reserve: u64) -> Baseline {
        Baseline {
            free_before: reserve * RESERVE,
            written_before: 0,
        }
    }

    /// The claims of a process that has written `bytes`.
    fn written(bytes: u64) -> Claims {
        Claims {
            written: bytes,
            ..Claims::default()
        }
    }

    #[test]
    fn announced_bytes_of_other_classes_count_until_they_are_written() {
        let mut claims = Claims::default();
        assert_eq!(claims.judge(60 * MB, 100 * MB), Fit::Fits);
        let first = claims.add(Some(60 * MB), 60 * MB);
        assert_eq!(
            claims.judge(50 * MB, 100 * MB),
            Fit::Later,
            "40 MB are left until the first has ended"
        );
        assert_eq!(claims.judge(40 * MB, 100 * MB), Fit::Fits);
        *claims.unwritten.get_mut(&first).unwrap() = 10 * MB;
        assert_eq!(
            claims.judge(50 * MB, 60 * MB),
            Fit::Fits,
            "50 MB of it are written, and no longer free"
        );
        claims.unwritten.clear();
        assert_eq!(claims.judge(100 * MB, 100 * MB), Fit::Fits);
        assert_eq!(claims.judge(u64::MAX, 100 * MB), Fit::TooLong);
    }

    #[test]
    fn a_disk_is_full_when_an_ordinary_class_does_not_fit() {
        let mut claims = Claims::default();
        for length in [2 * MB, 4 * MB] {
            claims.add(Some(length), length);
        }
        claims.unwritten.clear();
        assert_eq!(claims.judge(2000 * MB, 3 * MB), Fit::TooLong);
        assert_eq!(claims.judge(2000 * MB, 3 * MB - 1), Fit::DiskIsFull);
    }

    #[test]
    fn without_known_lengths_the_third_consecutive_class_that_does_not_fit_means_a_full_disk() {
        let mut claims = Claims::default();
        assert_eq!(
            [(); 3].map(|()| claims.judge(2, 1)),
            [Fit::TooLong, Fit::TooLong, Fit::DiskIsFull]
        );
        assert_eq!(claims.judge(1, 1), Fit::Fits);
        assert_eq!(claims.judge(2, 1), Fit::TooLong);
    }

    #[test]
    fn one_class_of_unknown_length_may_exceed_half_and_leaves_a_reserve() {
        let mut claims = written(100 * MB);
        let [first, second] = [(); 2].map(|()| claims.add(None, 0));
        let reserve = Some(leaving(6 * MB));
        assert!(
            claims.may_continue(first, 50 * MB, 50 * MB, reserve),
            "half"
        );
        assert_eq!(claims.beyond_half, None);
        assert!(claims.may_continue(first, 94 * MB, 6 * MB, reserve));
        assert!(!claims.may_continue(first, 95 * MB, 5 * MB, reserve));
        assert!(
            claims.may_continue(second, 5 * MB, 6 * MB, reserve),
            "the second class may take half"
        );
        assert!(
            !claims.may_continue(second, 8 * MB, 7 * MB, reserve),
            "and no more, because the first exceeds half"
        );
        assert!(
            !claims.may_continue(3, 8 * MB, 7 * MB, None),
            "a class of known length may not exceed half"
        );
    }

    #[test]
    fn a_class_beyond_half_leaves_the_claims_of_others_and_an_ordinary_class() {
        let mut claims = written(100 * MB);
        let unknown = claims.add(None, 0);
        let other = claims.add(Some(20 * MB), 20 * MB);
        assert!(
            !claims.may_continue(unknown, 60 * MB, 44 * MB, Some(leaving(MB))),
            "24 MB less 5 are left, and an ordinary class has 20"
        );
        assert!(claims.may_continue(unknown, 59 * MB, 45 * MB, Some(leaving(MB))));
        claims.unwritten.remove(&other);
        assert!(claims.may_continue(unknown, 84 * MB, 20 * MB, Some(leaving(MB))));
        assert!(!claims.may_continue(unknown, 85 * MB, 19 * MB, Some(leaving(MB))));
    }

    #[test]
    fn a_class_beyond_half_fails_when_another_class_waits_for_space() {
        let mut claims = written(100 * MB);
        let unknown = claims.add(None, 0);
        assert!(claims.may_continue(unknown, 80 * MB, 20 * MB, Some(leaving(6 * MB))));
        assert_eq!(claims.judge(30 * MB, 20 * MB), Fit::Later);
        assert_eq!(claims.judge(101 * MB, 20 * MB), Fit::TooLong);
        claims.waiting = 1;
        assert!(!claims.may_continue(unknown, 80 * MB, 20 * MB, Some(leaving(6 * MB))));
    }

    #[test]
    fn no_class_exceeds_half_while_other_processes_write_to_the_disk() {
        for (others, may) in [(0, true), (2 * MB, true), (3 * MB, false), (20 * MB, false)] {
            let mut claims = Claims::default();
            let baseline = claims.baseline(None, Some(100 * MB));
            let unknown = claims.add(None, 0);
            claims.written = 60 * MB;
            let free = 40 * MB - others;
            assert_eq!(
                claims.may_continue(unknown, 60 * MB, free, baseline),
                may || 60 * MB <= free,
                "{others}"
            );
            // Announced bytes of running classes may be on the disk already.
            claims.add(Some(others), others);
            assert!(
                !claims.is_written_by_others(baseline.unwrap(), free),
                "{others}"
            );
        }
    }

    #[test]
    fn numbers_without_a_bound_do_not_overflow() {
        let mut claims = Claims::default();
        for _ in 0..2 {
            claims.add(Some(u64::MAX), u64::MAX);
        }
        assert_eq!(claims.left_of(u64::MAX), 0);
        assert_eq!(claims.judge(u64::MAX, u64::MAX), Fit::Later);
    }
}

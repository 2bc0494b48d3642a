//! The high-water mark of grants: no position of the list at or behind it was ever granted, by any
//! epoch of the run.
//!
//! Grants are not in the ledger, and the mark is: it is durable before a position behind it is
//! granted. So after a restart no worker can hold a class behind the mark, and such a class is
//! granted at once. The mark is raised before the grants reach it, for many grants at a time.
//! Pure.

/// The mark is raised by the number of slots of all workers, and by this at least, so that a small
/// fleet does not need a commit for each grant. After a restart at most so many classes are held
/// back although no worker has them.
const SHORTEST_STEP: usize = 4;

/// The mark, as it was at the start, as it was requested, and as the ledger has it.
#[derive(Debug)]
pub(super) struct HighWater {
    /// Of former epochs.
    former: usize,
    durable: usize,
    requested: usize,
    step: usize,
}

impl HighWater {
    /// The ledger has this mark.
    pub(super) fn at(mark: usize) -> Self {
        Self { former: mark, durable: mark, requested: mark, step: SHORTEST_STEP }
    }

    /// Whether a worker may hold this position from a former epoch.
    pub(super) fn may_be_held(&self, position: usize) -> bool {
        position < self.former
    }

    /// The mark of former epochs.
    pub(super) fn former(&self) -> usize {
        self.former
    }

    /// Whether this position may be granted: a coordinator that is started again will know of it.
    pub(super) fn permits(&self, position: usize) -> bool {
        position < self.durable
    }

    /// All workers together have so many slots.
    pub(super) fn follow(&mut self, slots: u64) {
        self.step = usize::try_from(slots).unwrap_or(usize::MAX).max(SHORTEST_STEP);
    }

    /// The mark that the ledger is to have, if the grants have come near the last one: `cursor` is
    /// the next position of the list, which has `classes`.
    pub(super) fn request(&mut self, cursor: usize, classes: usize) -> Option<usize> {
        if self.requested >= classes.min(cursor.saturating_add(self.step / 2)) {
            return None;
        }
        self.requested = classes.min(cursor.saturating_add(self.step));
        Some(self.requested)
    }

    /// The ledger has this mark; whether it is a new one.
    pub(super) fn is_durable(&mut self, mark: usize) -> bool {
        let is_new = mark > self.durable;
        self.durable = self.durable.max(mark);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_raised_before_the_grants_reach_it_and_once_for_many_of_them() {
        let (mut mark, mut raised) = (HighWater::at(0), Vec::new());
        mark.follow(100);
        for cursor in 0..1000 {
            if let Some(next) = mark.request(cursor, 1000) {
                assert!(cursor == 0 || mark.permits(cursor), "grants do not wait for the ledger");
                raised.push(next);
                assert!(mark.is_durable(next) && !mark.is_durable(next));
            }
            assert!(mark.permits(cursor));
        }
        assert_eq!(raised[..3], [100, 151, 202]);
        assert_eq!((raised.last(), raised.len()), (Some(&1000), 19));
        assert!(!mark.permits(1000) && !mark.may_be_held(0));
    }

    #[test]
    fn the_step_follows_the_fleet() {
        for (slots, mark) in [(0, 11), (1, 11), (10, 17), (100_000, 10_000)] {
            let mut high_water = HighWater::at(7);
            high_water.follow(slots);
            assert_eq!(high_water.request(7, 10_000), Some(mark), "{slots}");
            assert_eq!(high_water.request(7, 10_000), None, "it was requested");
            assert!(high_water.may_be_held(6) && !high_water.may_be_held(7));
        }
    }
}

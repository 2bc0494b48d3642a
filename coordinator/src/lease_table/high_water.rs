//! The high-water mark of grants: no position of the list at or behind it was granted in any epoch
//! of the run.
//!
//! Single grants are not in the ledger, but the mark is: it is durable before a position behind it
//! is granted. After a restart, therefore, no worker can hold a class behind the mark, and such a
//! class is granted at once. The mark is raised ahead of the cursor, for many grants at a time.
//! No I/O, no clock.

use super::to_usize;

/// Minimum step of the mark. The step is the number of slots of all workers, but at least this, so
/// that a small fleet does not need a commit for each grant. After a restart at most one step of
/// classes is held back although no worker holds them.
const SHORTEST_STEP: usize = 4;

/// The positions of the list that may have been granted in the run, by any epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// All positions before this one.
    pub position: usize,
    /// Further positions: samples of the list, see `lease_table::first_answers`. A later mark
    /// includes those of the earlier ones.
    pub beyond: Vec<usize>,
}

impl From<usize> for Mark {
    fn from(position: usize) -> Self {
        Self {
            position,
            beyond: Vec::new(),
        }
    }
}

impl Mark {
    /// Whether the position may have been granted.
    pub fn has(&self, position: usize) -> bool {
        position < self.position || self.beyond.contains(&position)
    }
}

/// The marks at the start, in the ledger, and last requested.
#[derive(Debug, Default)]
pub(super) struct HighWater {
    /// The mark of former epochs.
    former: Mark,
    durable: Mark,
    requested: Mark,
    /// Positions of a sample that was not requested yet.
    sample: Vec<usize>,
    step: usize,
}

impl HighWater {
    /// The mark as the ledger has it at the start.
    pub(super) fn at(mark: Mark) -> Self {
        Self {
            former: mark.clone(),
            durable: mark.clone(),
            requested: mark,
            sample: Vec::new(),
            step: SHORTEST_STEP,
        }
    }

    /// Whether a worker may hold this position from a former epoch.
    pub(super) fn may_be_held(&self, position: usize) -> bool {
        self.former.has(position)
    }

    /// The mark of former epochs, without samples.
    pub(super) fn former(&self) -> usize {
        self.former.position
    }

    /// Whether this position may be granted, because the durable mark covers it.
    pub(super) fn permits(&self, position: usize) -> bool {
        self.durable.has(position)
    }

    /// Adds positions to grant, independent of their place in the list.
    pub(super) fn sample(&mut self, positions: impl IntoIterator<Item = usize>) {
        let positions = positions
            .into_iter()
            .filter(|position| !self.requested.beyond.contains(position));
        self.sample = positions.collect();
    }

    /// Sets the step to the number of slots of all workers.
    pub(super) fn follow(&mut self, slots: u64) {
        self.step = to_usize(slots).max(SHORTEST_STEP);
    }

    /// The next mark for the ledger, if the cursor is near the last requested one or there is a new
    /// sample. `cursor` is the next position of the list, `classes` the length of the list.
    pub(super) fn request(&mut self, cursor: usize, classes: usize) -> Option<Mark> {
        let is_near = self.requested.position < classes.min(cursor.saturating_add(self.step / 2));
        if !is_near && self.sample.is_empty() {
            return None;
        }
        if is_near {
            self.requested.position = classes.min(cursor.saturating_add(self.step));
        }
        self.requested.beyond.append(&mut self.sample);
        Some(self.requested.clone())
    }

    /// Records that the ledger has this mark. Returns whether it is a new one.
    pub(super) fn is_durable(&mut self, mark: Mark) -> bool {
        let is_new = mark > self.durable;
        if is_new {
            self.durable = mark;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_raised_before_the_grants_reach_it_and_once_for_many_of_them() {
        let mut mark = HighWater::at(Mark::from(0));
        let mut raised = Vec::new();
        mark.follow(100);
        for cursor in 0..1000 {
            if let Some(next) = mark.request(cursor, 1000) {
                assert!(
                    cursor == 0 || mark.permits(cursor),
                    "grants do not wait for the ledger"
                );
                raised.push(next.position);
                assert!(mark.is_durable(next.clone()) && !mark.is_durable(next));
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
            let mut high_water = HighWater::at(Mark::from(7));
            high_water.follow(slots);
            assert_eq!(
                high_water.request(7, 10_000),
                Some(Mark::from(mark)),
                "{slots}"
            );
            assert_eq!(high_water.request(7, 10_000), None, "it was requested");
            assert!(high_water.may_be_held(6) && !high_water.may_be_held(7));
        }
    }

    #[test]
    fn a_sample_is_durable_before_it_is_granted_and_does_not_raise_the_mark() {
        let mut mark = HighWater::at(Mark::from(0));
        mark.sample([0, 500, 999]);
        let first = mark.request(0, 1000).unwrap();
        assert_eq!(
            first,
            Mark {
                position: 4,
                beyond: vec![0, 500, 999]
            }
        );
        assert!(!mark.permits(500));
        assert!(mark.is_durable(first) && mark.permits(500) && !mark.permits(501));
        let next = mark.request(3, 1000).unwrap();
        assert_eq!(
            (next.position, next.beyond.len()),
            (7, 3),
            "a later mark has the sample too"
        );
        let mut again = HighWater::at(next);
        assert!(
            [0, 6, 500, 999]
                .iter()
                .all(|position| again.may_be_held(*position))
        );
        assert!(!again.may_be_held(7) && !again.may_be_held(501));
        again.sample([500, 600]);
        assert_eq!(again.request(4, 1000).unwrap().beyond, [0, 500, 999, 600]);
    }
}

//! Divides one transfer into parts: which byte ranges are in part files, which connection fetches
//! which range, and which ranges are still to be fetched. Pure: no I/O and no clock.
//!
//! Invariant: the parts follow one another without gap or overlap. The first part holds the
//! position of the unpacker, the last part ends with the tar, and two missing parts are never
//! neighbours. If the first part is missing, the main connection streams it into the unpacker.

use std::collections::VecDeque;

/// Number of a part file, unique within one transfer.
pub(crate) type FileId = u32;

/// The parts of one tar from the unpacker's position to the end, with the state of each.
#[derive(Debug, Clone)]
pub(crate) struct PartPlan {
    position: u64,
    parts: VecDeque<Part>,
    next_file: FileId,
}

/// A contiguous byte range of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Offset of its first byte in the tar.
    pub(crate) start: u64,
    /// Offset after its last byte.
    pub(crate) end: u64,
    pub(crate) state: State,
}

/// Where the bytes of a part are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No connection fetches it into a file. If it is the first part, the main connection may
    /// stream it.
    Missing,
    /// In a part file, which holds the bytes up to the tar offset `reached`. `reached` is the end
    /// of the part unless a connection still appends to the file.
    Filed { file: FileId, reached: u64 },
}

/// The limits for dividing a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The largest number of connections for the transfer, the main connection included.
    pub(crate) connections: u64,
    /// Whether the main connection streams the first part if that is missing. Otherwise the first
    /// part may be fetched into a file as well.
    pub(crate) main: bool,
    /// The smallest part in bytes for which a request is worthwhile.
    pub(crate) least: u64,
}

impl Part {
    fn missing(start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            state: State::Missing,
        }
    }

    fn is_missing(&self) -> bool {
        self.state == State::Missing
    }

    fn file(&self) -> Option<FileId> {
        match self.state {
            State::Missing => None,
            State::Filed { file, .. } => Some(file),
        }
    }

    /// Bytes that were not received yet, for an unpacker at `position`.
    fn left(&self, position: u64) -> u64 {
        match self.state {
            State::Missing => self.end - self.start.max(position),
            State::Filed { reached, .. } => self.end - reached,
        }
    }
}

impl PartPlan {
    /// The plan for an unpacker at `position`. `found` are the ranges that an earlier attempt left
    /// in part files. The n-th range becomes file n, unless other ranges cover all of it.
    pub(crate) fn new(position: u64, length: u64, found: &[(u64, u64)]) -> Self {
        let mut sorted: Vec<_> = (0..).zip(found.iter().copied()).collect();
        sorted.sort_by_key(|(_, (start, _))| *start);
        let mut plan = Self {
            position,
            parts: VecDeque::new(),
            next_file: 0,
        };
        let mut covered = position;
        for (file, (start, end)) in sorted {
            let start = start.max(covered);
            let end = end.min(length);
            if start < end {
                plan.parts.push_back(Part::missing(covered, start));
                plan.parts.push_back(Part {
                    start,
                    end,
                    state: State::Filed { file, reached: end },
                });
                covered = end;
            }
        }
        plan.parts.push_back(Part::missing(covered, length));
        plan.next_file = u32::try_from(found.len()).expect("files that were found are few");
        plan.tidy();
        plan
    }

    /// Offset of the next byte that the unpacker needs.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The part that contains this byte, which the unpacker needs next; `None` at the end of the
    /// tar.
    pub(crate) fn first(&self) -> Option<Part> {
        self.parts.front().copied()
    }

    /// The current end of the part that is in this file. It decreases when the part is divided.
    pub(crate) fn end_of(&self, file: FileId) -> Option<u64> {
        self.parts
            .iter()
            .find(|part| part.file() == Some(file))
            .map(|part| part.end)
    }

    /// Whether the plan still uses this file: it has, or will have, bytes that are to be unpacked.
    pub(crate) fn needs(&self, file: FileId) -> bool {
        self.end_of(file).is_some()
    }

    /// Bytes of all parts that were not received yet.
    pub(crate) fn left(&self) -> u64 {
        self.parts.iter().map(|part| part.left(self.position)).sum()
    }

    /// Records that the unpacker has consumed `bytes`, all of them from the first part.
    pub(crate) fn consumed(&mut self, bytes: u64) {
        self.position += bytes;
        if self
            .parts
            .front()
            .is_some_and(|first| first.end <= self.position)
        {
            self.parts.pop_front();
        }
    }

    /// Assigns the next part to a new file, which the caller fetches; `None` if no part is large
    /// enough.
    ///
    /// Parts are assigned in the order of the tar. Each is an equal share of the unassigned bytes,
    /// so parts shrink towards the end and finish at about the same time. A part that is being
    /// fetched is divided only if no part is unassigned.
    pub(crate) fn take(&mut self, cut: Cut) -> Option<(FileId, Part)> {
        let first = self.unclaimed(cut).next();
        let index = first.or_else(|| self.cut_largest(cut))?;
        let unclaimed: u64 = self
            .unclaimed(cut)
            .map(|index| self.parts[index].left(self.position))
            .sum();
        let Part { start, end, .. } = self.parts[index];
        let start = start.max(self.position);
        let share = (unclaimed / cut.connections.max(1)).max(cut.least);
        // Take all of the part if the rest would be less than half the smallest part.
        let end = if end - start < share + cut.least / 2 {
            end
        } else {
            start + share
        };
        let file = self.next_file;
        self.next_file += 1;
        let taken = Part {
            start,
            end,
            state: State::Filed {
                file,
                reached: start,
            },
        };
        self.parts[index].start = end;
        self.parts.insert(index, taken);
        self.tidy();
        Some((file, taken))
    }

    /// Indices of the missing parts, without the first one if the main connection streams it.
    fn unclaimed(&self, cut: Cut) -> impl Iterator<Item = usize> {
        (usize::from(cut.main)..self.parts.len()).filter(|index| self.parts[*index].is_missing())
    }

    /// Divides the part with the most bytes left. Its connection keeps an equal share; returns the
    /// index of the new, missing part.
    fn cut_largest(
        &mut self,
        Cut {
            connections, least, ..
        }: Cut,
    ) -> Option<usize> {
        let position = self.position;
        let (index, part) = self
            .parts
            .iter()
            .copied()
            .enumerate()
            .max_by_key(|(_, part)| part.left(position))?;
        let left = part.left(position);
        let keeps = (left / connections.max(1)).max(least);
        if left < keeps + least {
            return None;
        }
        let middle = part.end - left + keeps;
        self.parts[index].end = middle;
        self.parts
            .insert(index + 1, Part::missing(middle, part.end));
        Some(index + 1)
    }

    /// Records that a file holds the bytes up to the tar offset `to`.
    pub(crate) fn grew(&mut self, file: FileId, to: u64) {
        if let Some(Part {
            end,
            state: State::Filed { reached, .. },
            ..
        }) = self.part_in(file)
        {
            *reached = to.clamp(*reached, *end);
        }
    }

    /// Records that a file no longer grows. The rest of its part is missing again.
    pub(crate) fn stopped(&mut self, file: FileId) {
        let Some(index) = self.parts.iter().position(|part| part.file() == Some(file)) else {
            return;
        };
        let part = &mut self.parts[index];
        if let State::Filed { reached, .. } = part.state {
            let rest = Part::missing(reached, part.end);
            part.end = reached;
            self.parts.insert(index + 1, rest);
            self.tidy();
        }
    }

    /// Records that a file is unusable. Its whole part is missing again.
    pub(crate) fn lost(&mut self, file: FileId) {
        if let Some(part) = self.part_in(file) {
            part.state = State::Missing;
        }
        self.tidy();
    }

    fn part_in(&mut self, file: FileId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.file() == Some(file))
    }

    /// Merges neighbouring missing parts and removes parts that are empty or already unpacked.
    fn tidy(&mut self) {
        let position = self.position;
        let mut tidy: VecDeque<Part> = VecDeque::with_capacity(self.parts.len());
        for part in self
            .parts
            .drain(..)
            .filter(|part| part.start.max(position) < part.end)
        {
            match tidy.back_mut() {
                Some(last) if last.is_missing() && part.is_missing() => last.end = part.end,
                _ => tidy.push_back(part),
            }
        }
        self.parts = tidy;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const CUT: Cut = Cut {
        connections: 4,
        main: true,
        least: 10,
    };

    fn ranges(plan: &PartPlan) -> Vec<(u64, u64, bool)> {
        plan.parts
            .iter()
            .map(|part| (part.start, part.end, part.is_missing()))
            .collect()
    }

    #[test]
    fn parts_are_assigned_in_order_and_shrink() {
        let mut plan = PartPlan::new(0, 1000, &[]);
        let mut taken = Vec::new();
        while plan.unclaimed(CUT).next().is_some() || taken.is_empty() {
            let (_, part) = plan.take(CUT).unwrap();
            taken.push(part.end - part.start);
        }
        assert_eq!(
            plan.first(),
            Some(Part::missing(0, 250)),
            "the main connection keeps its share"
        );
        assert_eq!(
            taken,
            [187, 140, 105, 79, 59, 45, 33, 25, 19, 14, 11, 10, 10, 13]
        );
        assert_eq!(taken.iter().sum::<u64>(), 750);
    }

    #[test]
    fn a_part_below_the_smallest_size_is_not_divided() {
        let mut plan = PartPlan::new(100, 119, &[]);
        assert_eq!(plan.take(CUT), None);
        let mut plan = PartPlan::new(100, 120, &[]);
        assert_eq!(
            plan.take(CUT).map(|(_, part)| (part.start, part.end)),
            Some((110, 120))
        );
    }

    #[test]
    fn if_no_part_is_unassigned_the_part_with_the_most_bytes_left_is_divided() {
        let mut plan = PartPlan::new(0, 100, &[]);
        let cut = Cut {
            connections: 2,
            ..CUT
        };
        let (first, part) = plan.take(cut).unwrap();
        assert_eq!((part.start, part.end), (50, 75));
        let (second, part) = plan.take(cut).unwrap();
        assert_eq!((part.start, part.end), (75, 87));
        plan.grew(first, 75);
        plan.grew(second, 87);
        plan.take(cut).unwrap();
        // No byte of the first 50 was received.
        let (_, part) = plan.take(cut).unwrap();
        assert_eq!((plan.first().unwrap().end, part.start), (25, 25));
    }

    #[test]
    fn without_a_main_connection_the_first_part_is_assigned_too() {
        let mut plan = PartPlan::new(7, 1000, &[(100, 200)]);
        let (file, part) = plan.take(Cut { main: false, ..CUT }).unwrap();
        assert_eq!((part.start, part.end, plan.first()), (7, 100, Some(part)));
        plan.stopped(file);
        assert_eq!(plan.first(), Some(Part::missing(7, 100)));
    }

    #[test]
    fn a_part_that_received_nothing_returns_to_the_main_connection() {
        let mut plan = PartPlan::new(0, 100, &[]);
        let (file, part) = plan.take(CUT).unwrap();
        plan.stopped(file);
        assert_eq!(ranges(&plan), [(0, 100, true)], "{part:?}");
    }

    #[test]
    fn an_interrupted_part_keeps_the_bytes_that_it_received() {
        let mut plan = PartPlan::new(0, 100, &[]);
        let (file, Part { start, end, .. }) = plan.take(CUT).unwrap();
        plan.grew(file, start + 3);
        plan.stopped(file);
        assert_eq!(
            ranges(&plan),
            [
                (0, start, true),
                (start, start + 3, false),
                (start + 3, 100, true)
            ]
        );
        assert!(start + 3 < end && plan.left() == 97);
        plan.lost(file);
        assert_eq!(ranges(&plan), [(0, 100, true)]);
    }

    #[test]
    fn ranges_of_an_earlier_attempt_are_not_fetched_again() {
        let plan = PartPlan::new(
            50,
            1000,
            &[
                (900, 1000),
                (20, 40),
                (200, 300),
                (30, 80),
                (250, 310),
                (220, 280),
            ],
        );
        let expected = [
            (50, 80, false),
            (80, 200, true),
            (200, 300, false),
            (300, 310, false),
            (310, 900, true),
        ];
        assert_eq!(ranges(&plan)[..5], expected);
        assert_eq!(plan.left(), 120 + 590);
        assert!(plan.needs(0) && plan.needs(3) && !plan.needs(1) && !plan.needs(5));
    }

    /// A random operation on a plan.
    #[derive(Debug, Clone)]
    enum Step {
        Take(u64, u64, bool),
        Consume(u64),
        Grow(usize, u64),
        Stop(usize),
        Lose(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..12_u64, 1..200_u64, any::<bool>())
                .prop_map(|(connections, least, main)| Step::Take(connections, least, main)),
            (1..400_u64).prop_map(Step::Consume),
            (any::<usize>(), 1..400_u64).prop_map(|(which, bytes)| Step::Grow(which, bytes)),
            any::<usize>().prop_map(Step::Stop),
            any::<usize>().prop_map(Step::Lose),
        ]
    }

    /// Asserts that the parts cover the rest of the tar in order; returns those of the files of
    /// running connections.
    fn check(plan: &PartPlan, length: u64, running: &BTreeSet<FileId>) -> Vec<(FileId, u64, u64)> {
        let mut growing = Vec::new();
        let mut covered = plan.position;
        for (index, part) in plan.parts.iter().enumerate() {
            assert!(
                part.start == covered || (index == 0 && part.start <= covered),
                "{plan:?}"
            );
            assert!(covered < part.end, "{plan:?}");
            let before = index.checked_sub(1).map(|before| plan.parts[before]);
            assert!(
                !(part.is_missing() && before.is_some_and(|before| before.is_missing())),
                "{plan:?}"
            );
            if let State::Filed { file, reached } = part.state {
                let grows = running.contains(&file);
                assert!(
                    (part.start..=part.end).contains(&reached) && (grows || reached == part.end),
                    "{plan:?}"
                );
                growing.extend(grows.then_some((file, reached, part.end)));
            }
            covered = part.end;
        }
        assert_eq!(covered, length, "{plan:?}");
        growing
    }

    proptest! {
        #[test]
        fn each_byte_is_assigned_exactly_once(
            steps in vec(step(), 0..200), found in vec((0..4000_u64, 0..600_u64), 0..6), position in 0..4000_u64,
        ) {
            let length = 4000;
            let found: Vec<_> = found.iter().map(|(start, bytes)| (*start, (start + bytes).min(length))).collect();
            let mut plan = PartPlan::new(position, length, &found);
            let mut running = BTreeSet::new();
            for step in steps {
                let growing = check(&plan, length, &running);
                let one_of = |which: usize| growing.get(which % growing.len().max(1)).copied();
                let left = plan.left();
                match step {
                    Step::Take(connections, least, main) => if let Some((file, part)) = plan.take(Cut { connections, main, least }) {
                        prop_assert!(running.insert(file));
                        prop_assert!(part.start > plan.position || (!main && part.start == plan.position));
                        prop_assert_eq!(plan.left(), left);
                    },
                    Step::Consume(bytes) => if let Some(first) = plan.first() {
                        let there = match first.state {
                            State::Missing => first.end,
                            State::Filed { reached, .. } => reached,
                        };
                        plan.consumed(bytes.min(there.saturating_sub(plan.position)));
                    },
                    Step::Grow(which, bytes) => if let Some((file, reached, end)) = one_of(which) {
                        plan.grew(file, reached + bytes);
                        prop_assert_eq!(plan.left(), left - bytes.min(end - reached));
                    },
                    Step::Stop(which) => if let Some((file, ..)) = one_of(which) {
                        plan.stopped(file);
                        running.remove(&file);
                        prop_assert_eq!(plan.left(), left);
                    },
                    Step::Lose(which) => if let Some((file, ..)) = one_of(which) {
                        plan.lost(file);
                        running.remove(&file);
                        prop_assert!(plan.left() >= left && !plan.needs(file));
                    },
                }
            }
            check(&plan, length, &running);
        }
    }
}

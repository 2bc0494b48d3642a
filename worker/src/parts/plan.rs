//! How a transfer is cut into parts: which bytes are in a file, who fetches which, what is still to be fetched. Pure.
//!
//! Invariant: the parts follow one another without gap or overlap, the first holds the position of the unpacker, the last
//! ends with the tar, and two parts that nobody has begun are never neighbours. The first part, where it is missing, is the
//! one that the main connection streams into the unpacker.

use std::collections::VecDeque;

/// Numbers the files of one transfer.
pub(crate) type FileId = u32;

/// What is known of a tar's transfer.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    position: u64,
    parts: VecDeque<Part>,
    next_file: FileId,
}

/// A range of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its first byte.
    pub(crate) start: u64,
    /// The byte behind its last one.
    pub(crate) end: u64,
    pub(crate) state: State,
}

/// Where the bytes of a part are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has begun with it; the first part: on the main connection.
    Missing,
    /// In a file, up to `reached`, a position in the tar; all of them unless it is growing.
    Filed { file: FileId, reached: u64, growing: bool },
}

/// How a transfer may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Connections of the transfer that there may be, the main one included.
    pub(crate) connections: u64,
    /// Whether the main connection is on the first part, if that is missing; else anybody may have it.
    pub(crate) main: bool,
    /// No part of fewer bytes is worth a request.
    pub(crate) least: u64,
}

impl Part {
    fn missing(start: u64, end: u64) -> Self {
        Self { start, end, state: State::Missing }
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

    /// Bytes that have not come, for an unpacker at a position.
    fn left(&self, position: u64) -> u64 {
        match self.state {
            State::Missing => self.end - self.start.max(position),
            State::Filed { reached, .. } => self.end - reached,
        }
    }
}

impl Plan {
    /// The plan of an unpacker that stands at a position. `found`: ranges that an earlier attempt has left in files; the
    /// n-th becomes file n, unless others hold all of it.
    pub(crate) fn new(position: u64, length: u64, found: &[(u64, u64)]) -> Self {
        let mut sorted: Vec<_> = (0..).zip(found.iter().copied()).collect();
        sorted.sort_by_key(|(_, (start, _))| *start);
        let mut plan = Self { position, parts: VecDeque::new(), next_file: 0 };
        let mut covered = position;
        for (file, (start, end)) in sorted {
            let (start, end) = (start.max(covered), end.min(length));
            if start < end {
                plan.parts.push_back(Part::missing(covered, start));
                plan.parts.push_back(Part { start, end, state: State::Filed { file, reached: end, growing: false } });
                covered = end;
            }
        }
        plan.parts.push_back(Part::missing(covered, length));
        plan.next_file = u32::try_from(found.len()).expect("files that were found are few");
        plan.tidy();
        plan
    }

    /// The byte that the unpacker wants next.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The part that this byte is in; `None` at the end of the tar.
    pub(crate) fn first(&self) -> Option<Part> {
        self.parts.front().copied()
    }

    /// Where a file's part ends by now.
    pub(crate) fn end_of(&self, file: FileId) -> Option<u64> {
        self.parts.iter().find(|part| part.file() == Some(file)).map(|part| part.end)
    }

    /// Whether a file has bytes that are still to be unpacked, or will have.
    pub(crate) fn needs(&self, file: FileId) -> bool {
        self.end_of(file).is_some()
    }

    /// Bytes that have not come.
    pub(crate) fn left(&self) -> u64 {
        self.parts.iter().map(|part| part.left(self.position)).sum()
    }

    /// The unpacker has taken so many bytes, all of them of the first part.
    pub(crate) fn consumed(&mut self, bytes: u64) {
        self.position += bytes;
        if self.parts.front().is_some_and(|first| first.end <= self.position) {
            self.parts.pop_front();
        }
    }

    /// Gives the next part to somebody who fetches it into a file; `None` if nothing is worth it.
    ///
    /// The parts are given out in the order of the tar, each a fair share of what nobody has begun, so they shrink towards
    /// the end and all are ready at about the same time. Only when all is begun is a part cut that is under way.
    pub(crate) fn take(&mut self, cut: Cut) -> Option<(FileId, Part)> {
        let first = self.unclaimed(cut).next();
        let index = first.or_else(|| self.cut_largest(cut))?;
        let unclaimed: u64 = self.unclaimed(cut).map(|index| self.parts[index].left(self.position)).sum();
        let Part { start, end, .. } = self.parts[index];
        let start = start.max(self.position);
        let share = (unclaimed / cut.connections.max(1)).max(cut.least);
        // What would remain must be worth a request as well, nearly.
        let end = if end - start < share + cut.least / 2 { end } else { start + share };
        let file = self.next_file;
        self.next_file += 1;
        let taken = Part { start, end, state: State::Filed { file, reached: start, growing: true } };
        self.parts[index].start = end;
        self.parts.insert(index, taken);
        self.tidy();
        Some((file, taken))
    }

    /// The parts that nobody fetches.
    fn unclaimed(&self, cut: Cut) -> impl Iterator<Item = usize> {
        (usize::from(cut.main)..self.parts.len()).filter(|index| self.parts[*index].is_missing())
    }

    /// Cuts the part with the most bytes left, which then goes on with its share; gives the index of the rest.
    fn cut_largest(&mut self, Cut { connections, least, .. }: Cut) -> Option<usize> {
        let position = self.position;
        let (index, part) = self.parts.iter().copied().enumerate().max_by_key(|(_, part)| part.left(position))?;
        let left = part.left(position);
        let keeps = (left / connections.max(1)).max(least);
        if left < keeps + least {
            return None;
        }
        let middle = part.end - left + keeps;
        self.parts[index].end = middle;
        self.parts.insert(index + 1, Part::missing(middle, part.end));
        Some(index + 1)
    }

    /// A file has grown up to a position.
    pub(crate) fn grew(&mut self, file: FileId, to: u64) {
        if let Some(Part { end, state: State::Filed { reached, .. }, .. }) = self.of(file) {
            *reached = to.clamp(*reached, *end);
        }
    }

    /// A file does not grow any more: what is missing of its part is anybody's.
    pub(crate) fn stopped(&mut self, file: FileId) {
        let Some(index) = self.parts.iter().position(|part| part.file() == Some(file)) else { return };
        let Part { start, end, state: State::Filed { reached, .. } } = self.parts[index] else { return };
        self.parts[index] = Part { start, end: reached, state: State::Filed { file, reached, growing: false } };
        self.parts.insert(index + 1, Part::missing(reached, end));
        self.tidy();
    }

    /// A file is of no use: its part is anybody's.
    pub(crate) fn lost(&mut self, file: FileId) {
        if let Some(part) = self.of(file) {
            part.state = State::Missing;
        }
        self.tidy();
    }

    fn of(&mut self, file: FileId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.file() == Some(file))
    }

    /// Joins neighbours that nobody has begun, and forgets what is behind the unpacker or empty.
    fn tidy(&mut self) {
        let position = self.position;
        let mut tidy: VecDeque<Part> = VecDeque::with_capacity(self.parts.len());
        for part in self.parts.drain(..).filter(|part| part.start.max(position) < part.end) {
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
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const CUT: Cut = Cut { connections: 4, main: true, least: 10 };

    fn ranges(plan: &Plan) -> Vec<(u64, u64, bool)> {
        plan.parts.iter().map(|part| (part.start, part.end, part.is_missing())).collect()
    }

    #[test]
    fn shares_are_given_out_in_order_and_shrink() {
        let mut plan = Plan::new(0, 1000, &[]);
        let mut taken = Vec::new();
        while plan.unclaimed(CUT).next().is_some() || taken.is_empty() {
            let (_, part) = plan.take(CUT).unwrap();
            taken.push(part.end - part.start);
        }
        assert_eq!(plan.first(), Some(Part::missing(0, 250)), "the main connection keeps its share");
        assert_eq!(taken, [187, 140, 105, 79, 59, 45, 33, 25, 19, 14, 11, 10, 10, 13]);
        assert_eq!(taken.iter().sum::<u64>(), 750);
    }

    #[test]
    fn what_is_not_worth_a_request_stays_whole() {
        let mut plan = Plan::new(100, 119, &[]);
        assert_eq!(plan.take(CUT), None);
        let mut plan = Plan::new(100, 120, &[]);
        assert_eq!(plan.take(CUT).map(|(_, part)| (part.start, part.end)), Some((110, 120)));
    }

    #[test]
    fn when_all_is_begun_the_slowest_is_cut() {
        let mut plan = Plan::new(0, 100, &[]);
        let cut = Cut { connections: 2, ..CUT };
        let (first, part) = plan.take(cut).unwrap();
        assert_eq!((part.start, part.end), (50, 75));
        let (second, part) = plan.take(cut).unwrap();
        assert_eq!((part.start, part.end), (75, 87));
        plan.grew(first, 75);
        plan.grew(second, 87);
        plan.take(cut).unwrap();
        // Of the first 50 bytes none have come.
        let (_, part) = plan.take(cut).unwrap();
        assert_eq!((plan.first().unwrap().end, part.start), (25, 25));
    }

    #[test]
    fn without_a_main_connection_the_first_part_is_anybodys() {
        let mut plan = Plan::new(7, 1000, &[(100, 200)]);
        let (file, part) = plan.take(Cut { main: false, ..CUT }).unwrap();
        assert_eq!((part.start, part.end, plan.first()), (7, 100, Some(part)));
        plan.stopped(file);
        assert_eq!(plan.first(), Some(Part::missing(7, 100)));
    }

    #[test]
    fn a_part_that_brought_nothing_is_the_main_connections_again() {
        let mut plan = Plan::new(0, 100, &[]);
        let (file, part) = plan.take(CUT).unwrap();
        plan.stopped(file);
        assert_eq!(ranges(&plan), [(0, 100, true)], "{part:?}");
    }

    #[test]
    fn a_part_that_broke_off_keeps_what_it_has() {
        let mut plan = Plan::new(0, 100, &[]);
        let (file, Part { start, end, .. }) = plan.take(CUT).unwrap();
        plan.grew(file, start + 3);
        plan.stopped(file);
        assert_eq!(ranges(&plan), [(0, start, true), (start, start + 3, false), (start + 3, 100, true)]);
        assert!(start + 3 < end && plan.left() == 97);
        plan.lost(file);
        assert_eq!(ranges(&plan), [(0, 100, true)]);
    }

    #[test]
    fn what_was_found_is_not_fetched_again() {
        let plan = Plan::new(50, 1000, &[(900, 1000), (20, 40), (200, 300), (30, 80), (250, 310), (220, 280)]);
        let expected = [(50, 80, false), (80, 200, true), (200, 300, false), (300, 310, false), (310, 900, true)];
        assert_eq!(ranges(&plan)[..5], expected);
        assert_eq!(plan.left(), 120 + 590);
        assert!(plan.needs(0) && plan.needs(3) && !plan.needs(1) && !plan.needs(5));
    }

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
            (1..12_u64, 1..200_u64, any::<bool>()).prop_map(|(connections, least, main)| Step::Take(
                connections,
                least,
                main
            )),
            (1..400_u64).prop_map(Step::Consume),
            (any::<usize>(), 1..400_u64).prop_map(|(which, bytes)| Step::Grow(which, bytes)),
            any::<usize>().prop_map(Step::Stop),
            any::<usize>().prop_map(Step::Lose),
        ]
    }

    /// Parts cover what is left, in order; gives the files that grow.
    fn check(plan: &Plan, length: u64) -> Vec<(FileId, u64, u64)> {
        let mut growing = Vec::new();
        let mut covered = plan.position;
        for (index, part) in plan.parts.iter().enumerate() {
            assert!(part.start == covered || (index == 0 && part.start <= covered), "{plan:?}");
            assert!(covered < part.end, "{plan:?}");
            let before = index.checked_sub(1).map(|before| plan.parts[before]);
            assert!(!(part.is_missing() && before.is_some_and(|before| before.is_missing())), "{plan:?}");
            if let State::Filed { file, reached, growing: grows } = part.state {
                assert!((part.start..=part.end).contains(&reached) && (grows || reached == part.end), "{plan:?}");
                growing.extend(grows.then_some((file, reached, part.end)));
            }
            covered = part.end;
        }
        assert_eq!(covered, length, "{plan:?}");
        growing
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_fetched_by_two(
            steps in vec(step(), 0..200), found in vec((0..4000_u64, 0..600_u64), 0..6), position in 0..4000_u64,
        ) {
            let length = 4000;
            let found: Vec<_> = found.iter().map(|(start, bytes)| (*start, (start + bytes).min(length))).collect();
            let mut plan = Plan::new(position, length, &found);
            for step in steps {
                let growing = check(&plan, length);
                let one_of = |which: usize| growing.get(which % growing.len().max(1)).copied();
                let left = plan.left();
                match step {
                    Step::Take(connections, least, main) => if let Some((file, part)) = plan.take(Cut { connections, main, least }) {
                        prop_assert!(growing.iter().all(|(other, ..)| *other != file));
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
                        prop_assert_eq!(plan.left(), left);
                    },
                    Step::Lose(which) => if let Some((file, ..)) = one_of(which) {
                        plan.lost(file);
                        prop_assert!(plan.left() >= left && !plan.needs(file));
                    },
                }
            }
            check(&plan, length);
        }
    }
}

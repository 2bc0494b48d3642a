//! Classes that somebody has failed and another worker may do: who is not asked again, and when the next one is.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

/// A class is tried by workers so often before it has failed.
pub(super) const TRIES: usize = 2;
/// A class for which a worker has no space is offered to so many workers or storages before it has
/// failed.
pub(super) const OFFERS: usize = 8;
/// Another worker has so long to take up a class; then whoever has failed it may try it again.
const ELSEWHERE: Duration = Duration::from_mins(5);

#[derive(Debug)]
struct Trouble {
    /// Keys of the workers or storages that have failed it, one for each time; fewer than [`TRIES`]
    /// and [`OFFERS`] together.
    failed_by: Vec<String>,
    /// How many of them had no space for it.
    without_space: usize,
    since: Instant,
}

/// See the module. Holds only classes that are in trouble.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    of: HashMap<usize, Trouble>,
    /// Classes that wait, and until when.
    delayed: BTreeSet<(Instant, usize)>,
}

impl Troubles {
    /// Notes who has failed a class; gives how often it has been failed now for want of space, or
    /// else for other reasons.
    pub(super) fn note(&mut self, class: usize, key: String, lacks_space: bool, now: Instant) -> usize {
        let new = || Trouble { failed_by: Vec::new(), without_space: 0, since: now };
        let trouble = self.of.entry(class).or_insert_with(new);
        trouble.failed_by.push(key);
        trouble.since = now;
        trouble.without_space += usize::from(lacks_space);
        if lacks_space { trouble.without_space } else { trouble.failed_by.len() - trouble.without_space }
    }

    /// How often a class has been failed.
    pub(super) fn times(&self, class: usize) -> usize {
        self.of.get(&class).map_or(0, |trouble| trouble.failed_by.len())
    }

    /// Whether somebody with one of these keys has failed the class lately. Most classes are in no trouble, and no key is
    /// asked for.
    pub(super) fn has_failed(&self, class: usize, now: Instant, keys: impl Fn() -> [String; 2]) -> bool {
        self.of.get(&class).is_some_and(|trouble| {
            now - trouble.since < ELSEWHERE && keys().iter().any(|key| trouble.failed_by.contains(key))
        })
    }

    /// A class begins to wait.
    pub(super) fn delay(&mut self, class: usize, until: Instant) {
        self.delayed.insert((until, class));
    }

    /// It waits no longer.
    pub(super) fn end_delay(&mut self, class: usize, until: Instant) {
        self.delayed.remove(&(until, class));
    }

    /// Classes that have waited long enough.
    pub(super) fn due(&self, now: Instant) -> Vec<usize> {
        self.delayed.range(..=(now, usize::MAX)).map(|(_, class)| *class).collect()
    }

    /// All classes that wait, in the order of the list.
    #[cfg(test)]
    pub(super) fn delayed(&self) -> Vec<usize> {
        self.delayed.iter().map(|(_, class)| *class).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What was is forgotten: the class is settled, or was never to blame.
    pub(super) fn forget(&mut self, class: usize) {
        self.of.remove(&class);
    }
}

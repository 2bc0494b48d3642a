//! Classes that somebody has failed and another worker may do: who is not asked again, and when the next one is.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

/// So many workers try a class before it has failed.
pub(super) const WORKERS_THAT_TRY: usize = 2;

/// See the module. Holds only classes that are in trouble.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Keys of the workers or storages that have failed a class; at most [`WORKERS_THAT_TRY`] each.
    failed_by: HashMap<usize, Vec<String>>,
    /// Classes that wait, and until when.
    delayed: BTreeSet<(Instant, usize)>,
}

impl Troubles {
    /// Notes who has failed a class; gives how many have now.
    pub(super) fn note(&mut self, class: usize, key: String) -> usize {
        let failed_by = self.failed_by.entry(class).or_default();
        if !failed_by.contains(&key) {
            failed_by.push(key);
        }
        failed_by.len()
    }

    /// Whether somebody with one of these keys has failed the class. Most classes are in no trouble, and no key is asked for.
    pub(super) fn has_failed(&self, class: usize, keys: impl Fn() -> [String; 2]) -> bool {
        self.failed_by.get(&class).is_some_and(|failed_by| keys().iter().any(|key| failed_by.contains(key)))
    }

    /// Lets a class wait.
    pub(super) fn delay(&mut self, class: usize, until: Instant) {
        self.delayed.insert((until, class));
    }

    /// Classes that have waited long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<usize> {
        let rest = self.delayed.split_off(&(now, usize::MAX));
        std::mem::replace(&mut self.delayed, rest).into_iter().map(|(_, class)| class).collect()
    }

    /// What was is forgotten: the class is settled, or was never to blame.
    pub(super) fn forget(&mut self, class: usize) {
        self.failed_by.remove(&class);
    }
}

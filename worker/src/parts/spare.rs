//! Free slots for classes that are under way: how many each may use, and what it could do with them.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// What a class and its worker tell one another.
#[derive(Debug)]
pub(crate) struct Spare {
    granted: watch::Sender<usize>,
    appetite: Mutex<Appetite>,
}

/// What a transfer could do with more connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Appetite {
    /// Bytes that have not come; 0 if it can do nothing.
    pub(crate) left: u64,
    /// What each connection should have to fetch at least.
    pub(crate) least: u64,
    /// Connections beside its own that are at work, and do better not to be interrupted.
    pub(crate) at_work: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self { granted: watch::Sender::new(0), appetite: Mutex::default() }
    }
}

impl Spare {
    /// Lets the class use so many connections more than its own.
    pub(crate) fn grant(&self, connections: usize) {
        self.granted.send_if_modified(|granted| std::mem::replace(granted, connections) != connections);
    }

    /// What is granted, and what will be.
    pub(crate) fn granted(&self) -> watch::Receiver<usize> {
        self.granted.subscribe()
    }

    /// Says what more connections could do.
    pub(crate) fn want(&self, appetite: Appetite) {
        *self.appetite.lock().unwrap_or_else(PoisonError::into_inner) = appetite;
    }

    /// What it could do with more connections.
    pub(crate) fn appetite(&self) -> Appetite {
        *self.appetite.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deals out free slots: to those who use them already, and then each to the class that has the most left for each of its
/// connections, if that is worth it.
pub(crate) fn shares(mut free: usize, appetites: &[Appetite]) -> Vec<usize> {
    let mut shares = Vec::with_capacity(appetites.len());
    for appetite in appetites {
        shares.push(appetite.at_work.min(free));
        free -= appetite.at_work.min(free);
    }
    for _ in 0..free {
        let each = |(index, appetite): (usize, &Appetite)| (appetite.left / (shares[index] as u64 + 2), index);
        let hungry = appetites.iter().enumerate().map(|(index, appetite)| (each((index, appetite)), appetite.least));
        let worthy = hungry.filter(|((bytes, _), least)| *bytes >= (*least).max(1));
        let Some(((_, index), _)) = worthy.max() else { break };
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(left: u64) -> Appetite {
        Appetite { left, least: 10, at_work: 0 }
    }

    #[test]
    fn the_largest_gets_the_most_and_nobody_what_is_not_worth_it() {
        assert_eq!(shares(9, &[of(1000), of(0), of(300), of(19)]), [8, 0, 1, 0]);
        assert_eq!(shares(9, &[of(45), of(20)]), [3, 1], "a part has ten bytes at least");
        assert_eq!(shares(0, &[of(1000)]), [0]);
        assert!(shares(3, &[]).is_empty());
    }

    #[test]
    fn who_is_at_work_goes_on_while_there_are_free_slots() {
        let nearly_done = Appetite { at_work: 3, ..of(5) };
        assert_eq!(shares(5, &[nearly_done, of(1000)]), [3, 2]);
        assert_eq!(shares(2, &[nearly_done, of(1000)]), [2, 0]);
    }

    #[tokio::test]
    async fn a_grant_is_heard_once() {
        let spare = Spare::default();
        let mut granted = spare.granted();
        spare.grant(2);
        granted.changed().await.unwrap();
        assert_eq!(*granted.borrow_and_update(), 2);
        spare.grant(2);
        assert!(!granted.has_changed().unwrap());
    }
}

//! A map of bounded size that evicts the least recently used entry.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// Values by key, for processes, storages or names, including those whose sessions have ended.
#[derive(Debug, Default)]
pub(super) struct LruMap<Key, Value, const CAPACITY: usize> {
    of: HashMap<Key, (u64, Value)>,
    /// The keys, by the number of their last use.
    by_use: BTreeMap<u64, Key>,
    last_use: u64,
}

impl<Key: Clone + Eq + Hash, Value: Default, const CAPACITY: usize> LruMap<Key, Value, CAPACITY> {
    /// The value of a key, which is marked as used; inserts a default value if there is none.
    pub(super) fn entry(&mut self, key: &Key) -> &mut Value {
        self.touch(key);
        let (_, value) = self
            .of
            .get_mut(key)
            .expect("the newest entry is not the oldest");
        value
    }

    /// Marks a key as used. Returns the key that is evicted for it, if the map was full.
    pub(super) fn touch(&mut self, key: &Key) -> Option<Key> {
        self.last_use += 1;
        let (last_use, _) = self.of.entry(key.clone()).or_default();
        self.by_use.remove(last_use);
        *last_use = self.last_use;
        self.by_use.insert(self.last_use, key.clone());
        let (_, oldest) = (self.of.len() > CAPACITY)
            .then(|| self.by_use.pop_first())
            .flatten()?;
        self.of.remove(&oldest);
        Some(oldest)
    }

    /// Whether the map has no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// The value of a key, without marking it as used.
    pub(super) fn get<Asked>(&self, key: &Asked) -> Option<&Value>
    where
        Key: std::borrow::Borrow<Asked>,
        Asked: Eq + Hash + ?Sized,
    {
        self.of.get(key).map(|(_, value)| value)
    }

    /// Removes a key. Returns its value.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Value> {
        let (last_use, value) = self.of.remove(key)?;
        self.by_use.remove(&last_use);
        Some(value)
    }

    /// All values.
    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.of.values().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_is_evicted_first() {
        let mut recent: LruMap<u32, u32, 2> = LruMap::default();
        *recent.entry(&1) = 10;
        *recent.entry(&2) = 20;
        assert_eq!(*recent.entry(&1), 10);
        *recent.entry(&3) = 30;
        assert_eq!(
            [1, 2, 3].map(|key| recent.get(&key).copied()),
            [Some(10), None, Some(30)]
        );
        recent.remove(&1);
        recent.remove(&1);
        *recent.entry(&4) = 40;
        assert_eq!(
            [1, 3, 4].map(|key| recent.get(&key).copied()),
            [None, Some(30), Some(40)]
        );
        assert_eq!((recent.values().count(), recent.by_use.len()), (2, 2));
    }
}

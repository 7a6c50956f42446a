//! A map with an upper limit: when it is full, a new key pushes out the one that was
//! inserted longest ago. For everything whose keys come from outside.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

#[derive(Clone, Debug)]
pub(crate) struct Bounded<K, V> {
    /// Each value with the number of its insertion: the smallest number is the oldest.
    entries: HashMap<K, (u64, V)>,
    insertions: u64,
    max: usize,
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    /// `max` is the number of entries; 0 counts as 1.
    pub(crate) fn new(max: usize) -> Bounded<K, V> {
        Bounded {
            entries: HashMap::new(),
            insertions: 0,
            max: max.max(1),
        }
    }

    /// Returns the value that the key had before. A known key becomes the newest.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.entries.len() >= self.max && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        self.insertions += 1;
        let before = self.entries.insert(key, (self.insertions, value));
        before.map(|(_, value)| value)
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.entries.remove(key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_it_is_full() {
        let mut map = Bounded::new(2);
        map.insert("a", 1);
        map.insert("b", 2);
        assert_eq!(map.insert("a", 3), Some(1));
        map.insert("c", 4);
        assert_eq!(
            ["a", "b", "c"].map(|key| map.get(key).copied()),
            [Some(3), None, Some(4)]
        );
        assert_eq!((map.remove("a"), map.get("a")), (Some(3), None));
    }
}

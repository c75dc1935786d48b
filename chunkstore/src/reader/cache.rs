//! A map that forgets what was not used for longest once its values exceed a number of bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

pub(super) struct Cache<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Least recently used first.
    by_use: BTreeMap<u64, K>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
}

struct Slot<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    pub fn new(bytes_max: usize) -> Self {
        Cache { slots: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0, bytes_max }
    }

    pub fn find(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.by_use.insert(slot.used, *key);
        Some(slot.value.clone())
    }

    /// Without counting as a use.
    pub fn contains(&self, key: &K) -> bool {
        self.slots.contains_key(key)
    }

    /// What exceeds the whole cache is not kept.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes > self.bytes_max - bytes {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, key)| *key) else { break };
            self.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.slots.insert(key, Slot { value, bytes, used: self.uses });
        self.bytes += bytes;
    }

    pub fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_use.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(30);
        for key in 1..=3 {
            cache.insert(key, key * 10, 10);
        }
        assert_eq!(cache.find(&1), Some(10));
        cache.insert(4, 40, 10);
        assert_eq!(cache.find(&2), None);
        assert_eq!([1, 3, 4].map(|key| cache.find(&key)), [Some(10), Some(30), Some(40)]);
        cache.insert(5, 50, 30);
        assert_eq!([1, 3, 4, 5].map(|key| cache.find(&key)), [None, None, None, Some(50)]);
        cache.insert(6, 60, 31);
        assert_eq!([5, 6].map(|key| cache.find(&key)), [Some(50), None]);
    }

    proptest! {
        #[test]
        fn bytes_stay_within_bounds(steps in prop::collection::vec((0u8..10, 0usize..40, any::<bool>()), 0..100)) {
            let mut cache = Cache::new(100);
            for (key, bytes, insert) in steps {
                if insert {
                    cache.insert(key, bytes, bytes);
                } else if let Some(value) = cache.find(&key) {
                    prop_assert_eq!(value, cache.slots[&key].bytes);
                }
                let kept: usize = cache.slots.values().map(|slot| slot.bytes).sum();
                prop_assert_eq!(kept, cache.bytes);
                prop_assert!(kept <= 100);
                prop_assert_eq!(cache.by_use.len(), cache.slots.len());
            }
        }
    }
}

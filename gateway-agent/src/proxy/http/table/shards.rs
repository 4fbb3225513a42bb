//! A map of names of which a changed copy shares all but the parts that were changed.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Names in a shard, about: copied for one change.
const SHARD: usize = 16;

type Shard<V> = HashTable<(Box<str>, V)>;

#[derive(Clone, Debug)]
pub struct Shards<V> {
    /// None, or as many as a power of two.
    shards: Vec<Arc<Shard<V>>>,
    len: usize,
    hasher: DefaultHashBuilder,
}

impl<V> Default for Shards<V> {
    fn default() -> Shards<V> {
        Shards { shards: Vec::new(), len: 0, hasher: DefaultHashBuilder::default() }
    }
}

impl<V: Clone> Shards<V> {
    pub fn get(&self, name: &str) -> Option<&V> {
        if self.shards.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(name);
        let found = self.shards[self.place(hash)].find(hash, |(other, _)| **other == *name);
        found.map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn set(&mut self, name: &str, value: Option<V>) {
        self.change(name, |_| value);
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(Option<V>) -> Option<V>) {
        let hash = self.hasher.hash_one(name);
        let hasher = self.hasher.clone();
        let mut before = None;
        if !self.shards.is_empty() {
            let place = self.place(hash);
            let shard = Arc::make_mut(&mut self.shards[place]);
            if let Ok(entry) = shard.find_entry(hash, |(other, _)| **other == *name) {
                before = Some(entry.remove().0.1);
                self.len -= 1;
            }
        }
        let Some(value) = change(before) else { return };
        self.len += 1;
        self.make_room();
        let place = self.place(hash);
        let shard = Arc::make_mut(&mut self.shards[place]);
        shard.insert_unique(hash, (name.into(), value), |(name, _)| hasher.hash_one(&**name));
    }

    fn place(&self, hash: u64) -> usize {
        // The upper bits are those that the table itself goes by.
        (hash as usize >> 8) & (self.shards.len() - 1)
    }

    fn make_room(&mut self) {
        if self.len <= self.shards.len() * SHARD * 2 && !self.shards.is_empty() {
            return;
        }
        let count = (self.len / SHARD).next_power_of_two();
        let old = std::mem::replace(&mut self.shards, (0..count).map(|_| Arc::default()).collect());
        let hasher = self.hasher.clone();
        for (name, value) in old.iter().flat_map(|shard| shard.iter()) {
            let hash = hasher.hash_one(&**name);
            let place = self.place(hash);
            let shard = Arc::make_mut(&mut self.shards[place]);
            shard.insert_unique(hash, (name.clone(), value.clone()), |(name, _)| hasher.hash_one(&**name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_shard() {
        let mut first = Shards::default();
        for i in 0..2_000 {
            first.set(&i.to_string(), Some(i));
        }
        let mut second = first.clone();
        second.set("7", Some(0));
        second.set("8", None);
        assert_eq!((first.get("7"), second.get("7"), second.get("8"), second.len()), (Some(&7), Some(&0), None, 1_999));
        assert!((9..2_000).all(|i| second.get(&i.to_string()) == Some(&i)));
        let shared = first.shards.iter().zip(&second.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= first.shards.len() - 2 && shared < first.shards.len(), "{shared} of {}", first.shards.len());
    }
}

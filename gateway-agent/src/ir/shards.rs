//! A map of names of which a changed copy shares all but the parts that were changed.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Names in a shard, about: copied for one change.
const SHARD: usize = 16;
/// So many are looked through one by one: most maps of paths have one.
const FEW: usize = 4;

#[derive(Clone)]
pub struct Shards<V>(Names<V>);

#[derive(Clone)]
enum Names<V> {
    Few(Vec<(Box<str>, V)>),
    /// Once there were more.
    Many(Box<Many<V>>),
}

type Shard<V> = HashTable<(Box<str>, V)>;

#[derive(Clone)]
struct Many<V> {
    /// As many as a power of two.
    shards: Vec<Arc<Shard<V>>>,
    len: usize,
    hasher: DefaultHashBuilder,
}

/// Where a name is kept depends on what was there before.
impl<V: PartialEq> PartialEq for Shards<V> {
    fn eq(&self, other: &Shards<V>) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl<V: Eq> Eq for Shards<V> {}

/// Sorted, for people and for whoever compares texts.
impl<V: fmt::Debug> fmt::Debug for Shards<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        f.debug_map().entries(all.into_iter().map(|(name, value)| (name, value))).finish()
    }
}

impl<V> Default for Shards<V> {
    fn default() -> Shards<V> {
        Shards(Names::Few(Vec::new()))
    }
}

impl<V> Shards<V> {
    pub fn get(&self, name: &str) -> Option<&V> {
        let found = match &self.0 {
            Names::Few(names) => names.iter().find(|(other, _)| **other == *name),
            Names::Many(many) => many.find(name),
        };
        found.map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Names::Few(names) => names.len(),
            Names::Many(many) => many.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In no order.
    fn iter(&self) -> impl Iterator<Item = &(Box<str>, V)> {
        let (few, many) = match &self.0 {
            Names::Few(names) => (&names[..], None),
            Names::Many(many) => (&[][..], Some(many)),
        };
        few.iter().chain(many.into_iter().flat_map(|many| many.shards.iter()).flat_map(|shard| shard.iter()))
    }
}

impl<V: Clone> Shards<V> {
    pub fn set(&mut self, name: &str, value: Option<V>) {
        self.change(name, |_| value);
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(Option<V>) -> Option<V>) {
        let names = match &mut self.0 {
            Names::Few(names) => names,
            Names::Many(many) => return many.change(name, change),
        };
        let at = names.iter().position(|(other, _)| **other == *name);
        let before = at.map(|at| names.swap_remove(at).1);
        let Some(value) = change(before) else { return };
        if names.len() == FEW {
            let mut many = Many::of(std::mem::take(names));
            many.insert(name.into(), value);
            self.0 = Names::Many(Box::new(many));
            return;
        }
        // A vector that grows by itself makes room for four.
        names.reserve_exact(1);
        names.push((name.into(), value));
    }
}

impl<V> Many<V> {
    fn find(&self, name: &str) -> Option<&(Box<str>, V)> {
        let hash = self.hasher.hash_one(name);
        self.shards[self.place(hash)].find(hash, |(other, _)| **other == *name)
    }

    fn place(&self, hash: u64) -> usize {
        // The upper bits are those that the table itself goes by.
        (hash as usize >> 8) & (self.shards.len() - 1)
    }
}

impl<V: Clone> Many<V> {
    fn of(names: Vec<(Box<str>, V)>) -> Many<V> {
        let mut many = Many { shards: vec![Arc::default()], len: 0, hasher: DefaultHashBuilder::default() };
        names.into_iter().for_each(|(name, value)| many.insert(name, value));
        many
    }

    fn change(&mut self, name: &str, change: impl FnOnce(Option<V>) -> Option<V>) {
        let hash = self.hasher.hash_one(name);
        let place = self.place(hash);
        let mut before = None;
        if let Ok(entry) = Arc::make_mut(&mut self.shards[place]).find_entry(hash, |(other, _)| **other == *name) {
            before = Some(entry.remove().0.1);
            self.len -= 1;
        }
        if let Some(value) = change(before) {
            self.insert(name.into(), value);
        }
    }

    /// A name that is not there.
    fn insert(&mut self, name: Box<str>, value: V) {
        self.len += 1;
        self.make_room();
        let hasher = self.hasher.clone();
        let hash = hasher.hash_one(&*name);
        let place = self.place(hash);
        let shard = Arc::make_mut(&mut self.shards[place]);
        shard.insert_unique(hash, (name, value), |(name, _)| hasher.hash_one(&**name));
    }

    fn make_room(&mut self) {
        if self.len <= self.shards.len() * SHARD * 2 {
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
        let [Names::Many(first), Names::Many(second)] = [&first.0, &second.0] else { panic!("they are many") };
        let shared = first.shards.iter().zip(&second.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= first.shards.len() - 2 && shared < first.shards.len(), "{shared} of {}", first.shards.len());
    }

    #[test]
    fn a_map_is_what_was_put_into_it_whatever_it_went_through() {
        let (mut grown, mut plain) = (Shards::default(), std::collections::HashMap::new());
        for i in 0..40_usize {
            grown.set(&(i % 13).to_string(), Some(i));
            plain.insert((i % 13).to_string(), i);
            if i % 3 == 0 {
                grown.set(&(i % 7).to_string(), None);
                plain.remove(&(i % 7).to_string());
            }
            let mut anew = Shards::default();
            plain.iter().for_each(|(name, value)| anew.set(name, Some(*value)));
            assert_eq!((grown.len(), &grown), (plain.len(), &anew));
            assert!((0..13).all(|name| grown.get(&name.to_string()) == plain.get(&name.to_string())));
        }
        let mut other = grown.clone();
        other.set("1", Some(100));
        assert_ne!(grown, other);
    }
}
